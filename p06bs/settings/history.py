"""Which settings of a pipeline are in force, since when and by whom, and for which run.

Decisions only: what happens becomes *entries* (what JSON can hold), which the caller keeps
and gives to `take`. The same entries, taken again after a restart, give the same history.

===========================  ==================================================================
entry                        means
===========================  ==================================================================
``change`` n                 settings are in force from now on; ``values`` is what was asked for
``withdrawn`` n              a run could not be computed under change n: it is not in force
``run`` uid                  a derived run begins, under which settings
``again`` n, ``run`` uid     how many of a run's rows are to be computed again under change n
``done`` n, ``run`` uid      that needs no more work
===========================  ==================================================================
"""

import json
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from p06bs.model.documents import settings_digest
from p06bs.model.modality import Modality, SettingsError
from p06bs.model.revisions import Revision
from p06bs.settings.again import Again, Entry
from p06bs.settings.values import merged, plain

log = logging.getLogger(__name__)

FILE = "configuration file"
"""Who changed the settings, where they were edited in the configuration file."""
REMEMBERED = 10_000
"""Newest runs of which it is known what they began with."""


class SettingsHistory:
    """The settings of one pipeline.

    Parameters
    ----------
    modality : Modality
        With the settings of the configuration file.
    """

    def __init__(self, modality: Modality) -> None:
        self.modality = modality
        self._known: dict[int, Revision] = {}  # by number; also those that were withdrawn
        self._changes: dict[int, Revision] = {}  # those that can be in force
        self._values: dict[int, Mapping[str, Any]] = {}
        self._asked: dict[int, Sequence[str]] = {}  # runs to compute again, by change
        self._latest = -1
        self._file = ""  # digest of the file's settings, as they were seen last
        self._runs: dict[str, Entry] = {}
        self._again: dict[tuple[int, str], int | None] = {}
        self._done: set[tuple[int, str]] = set()

    # What was decided

    def take(self, entry: Entry) -> None:
        """Take an entry: a new one, or one of an earlier process.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it is none.
        """
        if "change" in entry and "settings" in entry and "run" not in entry:
            self._take_change(entry)
        elif "withdrawn" in entry:
            self._changes.pop(int(entry["withdrawn"]), None)
        elif "again" in entry:
            self._again[int(entry["again"]), str(entry["run"])] = entry["rows"]
        elif "done" in entry:
            self._done.add((int(entry["done"]), str(entry["run"])))
        else:
            self._runs[str(entry["run"])] = entry
            if len(self._runs) > REMEMBERED:
                del self._runs[next(iter(self._runs))]

    def _take_change(self, entry: Entry) -> None:
        number = int(entry["change"])
        self._latest = max(self._latest, number)
        self._file = entry.get("file") or self._file
        self._values[number] = dict(entry["values"])
        self._asked[number] = list(entry["reprocess"])
        try:
            settings = self.modality.validate(entry["settings"])
        except SettingsError as error:
            log.warning("change %d is out of force: %s", number, error)
            return
        self._known[number] = self._changes[number] = Revision(
            0,
            settings,
            changed_by=str(entry["by"]),
            changed_at=float(entry["at"]),
            change=number,
            preset=str(entry["preset"]),
        )

    # What is so

    @property
    def in_force(self) -> Revision:
        """The settings that a run begins with, unless a preset is for it."""
        if not self._changes:
            return Revision(0, self.modality.settings)
        return self._changes[max(self._changes)]

    @property
    def candidates(self) -> list[Revision]:
        """The settings in force, and those before them, the newest first."""
        return [self._changes[n] for n in sorted(self._changes, reverse=True)] or [self.in_force]

    @property
    def last_run(self) -> str | None:
        """Uid of the raw run whose derived run began last."""
        return next(reversed(self._runs), None)

    def begun_with(self, run: str) -> Revision | None:
        """Return the settings that the derived run of a raw run began with; None if it did not."""
        entry = self._runs.get(run)
        if entry is None:
            return None
        if entry["settings"] is None:
            return self._known.get(entry["change"])
        try:
            settings = self.modality.validate(entry["settings"])
        except SettingsError as error:
            log.warning("run %s began with settings that are not valid any more: %s", run, error)
            return None
        return Revision(
            0,
            settings,
            changed_by=entry["by"],
            changed_at=entry["at"],
            change=entry["change"],
            preset=entry["preset"],
        )

    def derived_of(self, run: str) -> str | None:
        """Return the uid of a raw run's derived run; None if it did not begin."""
        return self._runs[run]["derived"] if run in self._runs else None

    def newest_for(self, run: str) -> Revision:
        """Return the settings that a run is to have by now: those in force, or if it began with
        a preset, that with all changes since.
        """
        begun = self.begun_with(run)
        if begun is None or not self._is_own(run):
            return self.in_force
        return self._with_changes(begun)

    def revised(self, asked: Revision, refused: Collection[int] = ()) -> Revision:
        """Return what settings that a run has, or was to have, become with the changes since.

        Those that the run has `refused` are left out of a preset's.
        """
        known = self._known.get(asked.change)
        if known is None or known.settings == asked.settings:
            return self.in_force
        return self._with_changes(asked, refused)

    def _with_changes(
        self, own: Revision, refused: Collection[int] = (), last: float = math.inf
    ) -> Revision:
        """Return a run's own settings with the changes since."""
        for number in sorted(self._changes):
            if own.change < number <= last and number not in refused:
                own = self._changed(own, number)
        return own

    def _changed(self, begun: Revision, number: int) -> Revision:
        """Return a run's own settings after a change; as they are if it does not fit them."""
        change = self._changes[number]
        if not self._values[number]:  # an edited file says nothing of a preset's runs
            return begun
        try:
            settings = self.modality.validate(merged(begun.settings, self._values[number]))
        except SettingsError as error:
            log.warning("a run with preset %s keeps its settings: %s", begun.preset, error)
            return begun
        return replace(change, settings=settings, preset=change.preset or begun.preset)

    def _is_own(self, run: str) -> bool:
        """Return whether a run began with settings that are not the pipeline's."""
        return bool(self._runs[run]["own"])

    def again(self) -> Iterator[Again]:
        """Yield what is still to be computed again."""
        numbers: dict[str, int] = {}
        for change in sorted(self._asked):
            for run in self._asked[change]:
                numbers[run] = numbers.get(run, 0) + 1
                key = (change, run)
                if change not in self._changes or key in self._done:
                    continue
                settings = self._changes[change]
                begun = self.begun_with(run)
                if begun is not None and self._is_own(run):
                    settings = self._with_changes(begun, last=change)
                yield Again(
                    run, settings, numbers[run], self._again.get(key), resolved=key in self._again
                )

    # What is to be

    def open(self, now: float) -> Entry | None:
        """Return the entry that takes over the settings of the configuration file.

        None if they are as they were when it was read last: what was changed since then
        stays in force. Settings edited in the file are newer than those, and hold.
        """
        settings = self.modality.settings
        digest = settings_digest(settings)
        if digest == self._file:
            return None
        return {
            "change": self._latest + 1,
            "settings": plain(settings),
            "values": {},
            "by": FILE if self._latest >= 0 else "",
            "at": now if self._latest >= 0 else 0.0,
            "preset": "",
            "reprocess": [],
            "file": digest,
        }

    def change(
        self,
        values: Mapping[str, Any],
        by: str,
        now: float,
        *,
        preset: str = "",
        reprocess: Sequence[str] = (),
    ) -> Entry:
        """Return the entry of a change.

        Raises
        ------
        SettingsError
            If the modality refuses the whole; the old settings stay in force.
        """
        settings = self.modality.validate(merged(self.in_force.settings, values, all_there=True))
        return {
            "change": self._latest + 1,
            "settings": plain(settings),
            "values": json.loads(json.dumps(values, default=str)),
            "by": by,
            "at": now,
            "preset": preset,
            "reprocess": list(reprocess),
        }

    def withdraw(self, number: int, reason: str, run: str) -> Entry | None:
        """Return the entry that takes back a change which a run refused; None if it is the last."""
        if number not in self._changes or len(self._changes) == 1:
            return None
        return {"withdrawn": number, "reason": reason, "refused_by": run}

    def begin(self, run: str, derived: str, revision: Revision, *, own: bool) -> Entry | None:
        """Return the entry that a derived run of a raw run begins; None if it has begun.

        `own` says that its settings are not the pipeline's, but a preset's.
        """
        if run in self._runs:
            return None
        return {
            "run": run,
            "derived": derived,
            # Those of a change are known by its number, and there is a line for each run.
            "settings": plain(revision.settings) if own else None,
            "change": revision.change,
            "by": revision.changed_by,
            "at": revision.changed_at,
            "preset": revision.preset,
            "own": own,
        }
