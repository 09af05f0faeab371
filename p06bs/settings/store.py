"""The settings in force of the pipelines of one process, and their presets, on disk.

::

    DIRECTORY/xrf.jsonl            who changed what when; which run began with what
    DIRECTORY/presets/xrf/*.toml   presets
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from p06bs.bus.closing import Closing
from p06bs.model.documents import Document
from p06bs.model.modality import Modality, SettingsError
from p06bs.model.revisions import Revision
from p06bs.settings.again import Again
from p06bs.settings.journal import journal_of
from p06bs.settings.kept import KeptHistory
from p06bs.settings.presets import Preset, Presets
from p06bs.settings.values import merged, plain

log = logging.getLogger(__name__)


class PipelineSettings(Closing):
    """The settings of one pipeline; may be used from several threads.

    Several processes may host a pipeline, of which one stands by for the other: what one
    decides, the others know.

    Parameters
    ----------
    directory : Path
    name : str
        Name of the pipeline.
    modality : Modality
        With the settings of the configuration file.

    Raises
    ------
    OSError
        If its file cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        modality: Modality,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.modality = modality
        self.clock = clock
        path = journal_of(directory, name)
        self.presets = Presets(directory / "presets" / path.stem)
        self._kept = KeptHistory(path, name, modality)
        self.history = self._kept.history
        try:
            with self._kept.deciding():
                opened = self.history.open(clock())
                if opened is not None:
                    if opened["by"]:
                        log.warning("%s: settings in the configuration file were edited", name)
                    self._kept.append(opened)
        except BaseException:
            self._kept.close()
            raise

    def look(self) -> None:
        """Take what other processes have decided; later, if one is at it. Never waits for one."""
        with self._kept.lock:
            self._kept.look()

    @property
    def in_force(self) -> Revision:
        """The settings that a run begins with, unless a preset is for it."""
        with self._kept.lock:
            return self.history.in_force

    def change(
        self,
        values: Mapping[str, Any],
        by: str,
        *,
        preset: str = "",
        reprocess: Sequence[str] = (),
        check: Callable[[Revision], None] = lambda revision: None,
    ) -> Revision:
        """Put settings in force: those that are, with `values` over them; kept when it returns.

        Parameters
        ----------
        reprocess : sequence of str
            Raw runs whose events so far are to be computed again.
        check : callable
            Raises if these settings cannot be had for other reasons.

        Raises
        ------
        SettingsError
            If the whole is refused; the old ones stay in force.
        OSError
            If that cannot be written; the old ones stay in force.
        """
        with self._kept.deciding():
            entry = self.history.change(
                values, by, self.clock(), preset=preset, reprocess=reprocess
            )
            check(Revision(0, self.modality.validate(entry["settings"])))
            self._kept.append(entry)
            return self.history.in_force

    def withdraw(self, revision: Revision, reason: str, run: str) -> None:
        """Take a change back, because it does not fit a run; those before it hold again.

        A preset that does not fit is not used, and no change.
        """
        self._kept.note(
            lambda: (
                self.history.withdraw(revision.change, reason, run)
                if self._is_change(revision)
                else None
            )
        )

    def candidates(self, start: Document) -> list[Revision]:
        """Return the settings that a run may begin with, the best first.

        What it has begun with in an earlier process; else its preset, if there is one,
        the settings in force, and those before them.
        """
        try:
            with self._kept.deciding():
                pass
        except OSError as error:
            log.warning("%s: a run begins with what is known here: %s", self.name, error)
        with self._kept.lock:
            begun = self.history.begun_with(start["uid"])
            if begun is not None:
                return [begun]
            own = self._own(start)
            return [*([own] if own else []), *self.history.candidates]

    def _own(self, start: Document) -> Revision | None:
        """Return the settings of the preset that is meant for a run."""
        in_force = self.history.in_force
        try:
            preset, said = self.presets.meant_for(start)
            for text in said:
                log.warning("%s: %s", self.name, text)
            if preset is None:
                return None
            settings = self.modality.validate(merged(in_force.settings, preset.settings))
        except (OSError, SettingsError) as error:  # a preset never stops a scan
            log.warning("%s: a preset is left out, settings in force hold: %s", self.name, error)
            return None
        by = f"preset {preset.name}"
        return Revision(0, settings, by, self.clock(), in_force.change, preset.name)

    def began(self, run: str, revision: Revision, derived: str) -> Revision:
        """Keep what a derived run begins with, so that a restart goes on with it.

        Return what it begins with: that, or what another process has kept before.

        Raises
        ------
        OSError
            If that cannot be written: begun now, it would be made twice after a restart.
        """
        with self._kept.deciding():
            begun = self.history.begun_with(run)
            if begun is not None:
                return begun
            own = not self._is_change(revision)
            entry = self.history.begin(run, derived, revision, own=own)
            if entry is not None:
                self._kept.append(entry, sync=False)
            return revision

    def derived_of(self, run: str) -> str | None:
        """Return the uid of a raw run's derived run; None if it did not begin."""
        with self._kept.lock:
            return self.history.derived_of(run)

    def revised(self, asked: Revision, refused: Collection[int] = ()) -> Revision:
        """Return what settings that a run has, or was to have, become with the changes since.

        Those that the run has `refused` are left out of a preset's.
        """
        with self._kept.lock:
            return self.history.revised(asked, refused)

    def _is_change(self, revision: Revision) -> bool:
        """Return whether settings are those of a change, and not of a preset over it."""
        return any(
            known.change == revision.change and known.settings == revision.settings
            for known in self.history.candidates
        )

    def newest_for(self, run: str) -> Revision:
        """Return the settings that a run is to have by now."""
        with self._kept.lock:
            return self.history.newest_for(run)

    def digest_of(self, run: str) -> str:
        """Return the digest of the settings that a raw run's derived run begins with."""
        with self._kept.lock:
            return (self.history.begun_with(run) or self.history.candidates[-1]).digest

    @property
    def last_run(self) -> str | None:
        """Uid of the raw run whose derived run began last."""
        with self._kept.lock:
            return self.history.last_run

    def again(self) -> list[Again]:
        """Return what is still to be computed again."""
        with self._kept.lock:
            return list(self.history.again())

    def now(self, again: Again) -> Again | None:
        """Return what is known by now of what is to be computed again; None if it is no more."""
        with self._kept.lock:
            self._kept.look()
            asked = (again.run, again.number)
            return next((a for a in self.history.again() if (a.run, a.number) == asked), None)

    def resolve(self, again: Again, rows: int | None) -> None:
        """Keep how many rows are to be computed again."""
        self._kept.note(lambda: again.resolve(rows))

    def finish(self, again: Again, why: str = "") -> None:
        """Keep that a run needs not be computed again any more."""
        self._kept.note(lambda: again.finish(why))

    def judged_presets(self) -> list[Preset]:
        """Return the presets, with the problem of those that now would be refused."""
        return [self._judged(preset) for preset in self.presets]

    def _judged(self, preset: Preset) -> Preset:
        if preset.problem:
            return preset
        try:
            self.modality.validate(merged(self.in_force.settings, preset.settings))
        except SettingsError as error:
            return replace(preset, problem=str(error))
        return preset

    def save(self, name: str, *, beamtime_id: str = "", sample: str = "") -> Path:
        """Keep the settings in force as a preset; return its file.

        One of that name goes on to be for its beamtime and sample, if no others are given.

        Raises
        ------
        PresetError
            If it cannot be named so, or not be kept as TOML.
        OSError
            If it cannot be written.
        """
        settings = plain(self.in_force.settings)
        if name in self.presets.names and not (beamtime_id or sample):
            known = self.presets.read(name)
            beamtime_id, sample = known.beamtime_id, known.sample
        return self.presets.write(Preset(name, settings, beamtime_id, sample))

    def record(self) -> dict[str, Any]:
        """Return what is in force: schema, values, revision, digest, changed_by, since, preset."""
        revision = self.in_force
        return {
            "schema": self.modality.Settings.model_json_schema(),
            "values": plain(revision.settings),
            "revision": revision.change,
            "digest": revision.digest,
            "changed_by": revision.changed_by,
            "since": revision.changed_at,
            "preset": revision.preset,
        }

    def close(self) -> None:
        """Close its file; may be called twice."""
        self._kept.close()
