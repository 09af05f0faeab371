"""Settings of running pipelines: what is asked for, and what of it holds in which run."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from p06bs.bus.closing import Closing
from p06bs.model.documents import Document
from p06bs.model.modality import SettingsError
from p06bs.model.revisions import Revision
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.run import RunPipeline
from p06bs.settings import PipelineSettings
from p06bs.settings.values import plain

TRIED = 4
"""So many settings are tried on a run, at most, before it begins."""


class Adjustments(Closing):
    """The settings of all pipelines of a process.

    `settings`, `change`, `presets` and `save` may be called from any thread.

    Parameters
    ----------
    directory : Path
        Where they are kept; see `p06bs.settings.store`.
    pipelines : sequence of Pipeline

    Raises
    ------
    OSError
        If they cannot be kept.
    """

    def __init__(self, directory: Path, pipelines: Sequence[Pipeline]) -> None:
        self.pipelines = {p.name: p for p in pipelines}
        self._stores: dict[str, PipelineSettings] = {}
        # What was tried on a run and fits. It is not tried again on each later run.
        self._fit: set[tuple[str, str]] = set()
        self._changing = threading.Lock()  # one change at a time
        self._seen: dict[str, int] = {}  # the change in force when `look` was called last
        try:
            for pipeline in pipelines:
                self._stores[pipeline.name] = PipelineSettings(
                    directory, pipeline.name, pipeline.modality
                )
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> PipelineSettings:
        """Return the settings of a pipeline.

        Raises
        ------
        ValueError
            If there is no such pipeline; says which there are.
        """
        if name not in self._stores:
            raise ValueError(f"no pipeline {name!r}; there are {', '.join(self._stores)}")
        return self._stores[name]

    def look(self) -> list[str]:
        """Take what other processes have decided; return the pipelines whose settings are new.

        New is what the last call did not see, whoever has heard of it since.
        """
        for store in self._stores.values():
            store.look()
        before, self._seen = self._seen, {n: s.in_force.change for n, s in self._stores.items()}
        return [name for name, now in self._seen.items() if before.get(name) != now]

    def candidates(self, name: str, start: Document) -> list[Revision]:
        """Return what a run may begin with, the best first; a few, since each may be slow to try.

        Those that have fitted a run are followed by no others.
        """
        found = self[name].candidates(start)
        for place, revision in enumerate(found):
            if (name, revision.digest) in self._fit:
                found = found[: place + 1]
                break
        return found if len(found) <= TRIED else [*found[: TRIED - 1], found[-1]]

    def judged(self, name: str, run: str, revision: Revision, problem: str) -> None:
        """Take what came of settings that were tried on a run."""
        if problem:
            self[name].withdraw(revision, problem, run)
        else:
            self._fit.add((name, revision.digest))

    def made(self, name: str, process: Document, run: str) -> bool:
        """Return whether a derived run of a raw run that says so of its process is a pipeline's."""
        return self.pipelines[name].made(process, self[name].digest_of(run))

    def change(
        self,
        name: str,
        values: Mapping[str, Any],
        by: str,
        *,
        preset: str = "",
        reprocess: Iterable[str] = (),
    ) -> Revision:
        """Put settings in force; see `PipelineSettings.change`.

        Raises
        ------
        SettingsError
            If they are refused, or are those of another pipeline that computes the same.
        ValueError
            If there is no such pipeline, or preset.
        OSError
            If that cannot be kept.
        """
        store = self[name]
        if preset:
            values = {**store.presets.read(preset).settings, **values}

        with self._changing:
            # Asked for before: the check is called while this one's settings are locked.
            others = {n: s.in_force for n, s in self._stores.items() if n != name}

            def refuse_twin(revision: Revision) -> None:
                for other, theirs in others.items():
                    if self.pipelines[other].makes_what(self.pipelines[name], theirs, revision):
                        raise SettingsError(
                            f"{other} has these settings, and the same modality and inputs: "
                            "they would write one derived run"
                        )

            again = list(reprocess)
            return store.change(values, by, preset=preset, reprocess=again, check=refuse_twin)

    def record(self, name: str, runs: Iterable[tuple[str, RunPipeline]]) -> dict[str, Any]:
        """Return what is in force, and from where on in the runs that go on."""
        states = [
            state(uid, run, run.asked if run.reprocessing else self.wanted(name, run))
            for uid, run in runs
        ]
        return {**self[name].record(), "runs": states}

    def wanted(self, name: str, run: RunPipeline) -> Revision:
        """Return the settings that a run is to have, with the changes since it began."""
        newest = self[name].revised(run.asked, run.refusals)
        known = newest.change <= run.asked.change or newest.change in run.refusals
        return run.asked if known else newest

    def close(self) -> None:
        """Close the files; may be called twice."""
        for store in self._stores.values():
            store.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the pipelines."""
        return tuple(self._stores)


def state(uid: str, run: RunPipeline, asked: Revision) -> dict[str, Any]:
    """Return the settings that one run has or is to have, and from which event on."""
    found: dict[str, Any] = {
        "run": uid,
        "scan_id": run.raw.start.get("scan_id"),
        "derived": run.derived,
        "reprocessing": run.reprocessing,
        "change": asked.change,
        "digest": asked.digest,
        "preset": asked.preset,
        "values": plain(asked.settings),
        "state": "waiting",  # for the next event, or until they are tried
        "first_row": None,
        "first_raw_uid": None,
        "revision": None,
        "stream": None,
        "refused": {str(change): reason for change, reason in list(run.refusals.items())},
    }
    since = None if run.work is None else next(reversed(list(run.work.since)), None)
    if since is not None and since.revision.change >= asked.change:
        found |= {
            "state": "in force",
            "first_row": since.row,
            "first_raw_uid": since.raw_uid,
            "revision": since.revision.number,
            "stream": since.stream,
        }
    elif run.left is not None:
        found |= {"state": "left", "reason": run.left}
    return found
