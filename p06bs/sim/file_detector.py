"""A simulated detector on a trigger box that writes HDF5, as real ones do.

An ophyd-async `StandardDetector` with external triggers. Rows are written and
flushed *before* their number is published, so that whoever is told of a row, by a
stream datum, can read it (unless the `Recording` lags).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import (
    AsyncStatus,
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    SignalDict,
    StandardDetector,
    StreamableDataProvider,
    WatchableAsyncStatus,
    WatcherUpdate,
    observe_value,
    soft_signal_r_and_setter,
)

from p06bs.sim.announcement import RowsProvider, data_key_of
from p06bs.sim.rows_file import Dataset, Files, Recording
from p06bs.sim.stage import LOOK_EVERY, TriggerBox
from p06bs.sim.trajectory import Trajectory

R = TypeVar("R")

ROWS_AT_ONCE = 64
"""At most so many points are drawn before they are written and published."""


STEP_TIME = 0.1
"""Exposure in step scans (s), if nobody says another."""


class Instrument(Protocol):
    """What a detector sees, and which datasets it makes of it."""

    @property
    def group(self) -> str:
        """Path of the NXdetector in the file."""
        ...

    @property
    def datasets(self) -> Mapping[str, Dataset]:
        """Key -> what it is; ``data`` has the detector's own name as its data key."""
        ...

    def rows(self, path: Trajectory, triggers: range) -> dict[str, npt.NDArray[Any]]:
        """Return what is recorded at points of a scan, leading axis = points."""
        ...

    def extra_row(self, path: Trajectory, trigger: int) -> dict[str, npt.NDArray[Any]]:
        """Return what is recorded once too often after a point, without leading axis."""
        ...


@dataclass
class Acquisition(DetectorAcquireLogic):
    """Follow the triggers: draw what each point shows, write it, publish the number of rows."""

    instrument: Instrument
    box: TriggerBox
    recording: Recording
    files: Files | None = None
    provider: RowsProvider | None = None
    _task: asyncio.Task[None] | None = None
    _pool: ThreadPoolExecutor | None = None
    _triggers: int = 0
    step_time: float | None = None
    """Seconds per exposure that nobody but the detector triggers; None: the box triggers."""

    def __post_init__(self) -> None:
        self.written, self._publish = soft_signal_r_and_setter(int)

    async def open(self, path: Path, name: str) -> RowsProvider:
        """Create the file of the next scan; return what announces its rows."""
        # One thread for all of a file's HDF5 calls; it ends when the file is closed.
        self._pool = pool = ThreadPoolExecutor(1, thread_name_prefix=f"sim-{name}")
        flight = self.box.flyable_logic.trajectory
        points = len(flight) if flight is not None and self.step_time is None else 0
        expected = len(self.recording.triggers(0, points))
        self.files = await self._call(
            pool,
            Files,
            path,
            self.instrument.group,
            self.instrument.datasets,
            self.recording,
            expected,
        )
        self._triggers = 0
        self._publish(0)
        self.provider = RowsProvider(name, self.files, self.written)
        return self.provider

    async def start_acquiring(self) -> None:
        """Wait for triggers from now on, or expose once if the detector triggers itself.

        Raises
        ------
        RuntimeError
            If it is not prepared, or its file has rows already: row numbers are those
            of the box's points, so each scan needs a file of its own.
        """
        if self.files is None or (self._triggers and self.step_time is None):
            raise RuntimeError("stage and prepare the detector anew before each scan")
        if self.step_time is None:
            self._task = asyncio.create_task(self._fly(self.files))
        else:
            path = self.box.flyable_logic.standing(self._triggers, self.step_time)
            await self._record(self.files, path, self._triggers + 1)

    async def wait_for_idle(self) -> None:
        """Wait until no more exposures come: all are written, or it was stopped.

        Where each file is a stream resource, also until collections have announced
        all files but the last.

        Raises
        ------
        Exception
            What ended the acquisition, if something went wrong.
        """
        task = self._task
        if task is not None:
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        while self.provider is not None and self.provider.behind(await self.written.get_value()):
            await asyncio.sleep(LOOK_EVERY)

    async def ensure_stopped(self) -> None:
        """Stop and let a write that has begun finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Close the file."""
        await self.ensure_stopped()
        files, self.files, self.provider = self.files, None, None
        pool, self._pool = self._pool, None
        if pool is not None:
            if files is not None:
                await self._call(pool, files.close)
            pool.shutdown()

    async def _fly(self, files: Files) -> None:
        trigger = self.box.flyable_logic
        while (count := await trigger.triggered(beyond=self._triggers)) > self._triggers:
            await self._record(files, trigger.prepared, min(count, self._triggers + ROWS_AT_ONCE))

    async def _record(self, files: Files, path: Trajectory, stop: int) -> None:
        """Draw and write the rows of the triggers up to `stop`, and publish their number."""
        first, self._triggers = self._triggers, stop
        if self.recording.lag:
            self._publish(files.rows + len(self.recording.triggers(first, stop)))
            await asyncio.sleep(self.recording.lag)
        await self._call(self._pool, self._expose, files, path, range(first, stop))
        self._publish(files.rows)

    def _expose(self, files: Files, path: Trajectory, triggers: range) -> None:
        seen = self.instrument.rows(path, triggers)
        recorded = self.recording.triggers(triggers.start, triggers.stop)
        if recorded != [(trigger, False) for trigger in triggers]:
            rows = [
                self.instrument.extra_row(path, trigger)
                if extra
                else {key: column[trigger - triggers.start] for key, column in seen.items()}
                for trigger, extra in recorded
            ]
            seen = {
                key: np.array([row[key] for row in rows], column.dtype).reshape(
                    len(rows), *column.shape[1:]
                )
                for key, column in seen.items()
            }
        missing = [not extra and trigger in self.recording.missing for trigger, extra in recorded]
        files.append(seen, np.array(missing, bool))

    async def _call(
        self, pool: ThreadPoolExecutor | None, function: Callable[..., R], *args: Any
    ) -> R:
        """Run in the file's thread; when cancelled, wait until it is done with this call."""
        call = asyncio.get_running_loop().run_in_executor(pool, function, *args)
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.wait([call])
            raise


@dataclass
class Triggers(DetectorTriggerLogic):
    """Edges from the box, whose gate it is, or the detector's own trigger in step scans."""

    acquisition: Acquisition

    def get_deadtime(self, config_values: SignalDict) -> float:
        """Return the time between exposures that the read-out needs: none, it double-buffers."""
        return 0.0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Take any number of triggers."""
        self.acquisition.step_time = None

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        """Take one exposure per trigger of a plan, where the box's stage is."""
        self.acquisition.step_time = livetime or STEP_TIME


@dataclass
class FileData(DetectorDataLogic):
    """Where the detector writes, and how that is announced."""

    path_provider: PathProvider
    acquisition: Acquisition

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Open a file and return what announces its rows."""
        where = self.path_provider(datakey_name)
        path = Path(where.directory_path) / f"{where.filename}.h5"
        return await self.acquisition.open(path, datakey_name)

    async def stop(self) -> None:
        """Close the file."""
        await self.acquisition.close()

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return nothing: what is in files is too big to be shown by default."""
        return []


class FileDetector(StandardDetector):
    """A detector on a trigger box that writes HDF5, in fly and in step scans.

    For a fly scan prepare the box before the detector. Where each file is a stream resource of its
    own, collect while the detector completes: a collection announces one file's rows.

    Parameters
    ----------
    instrument : Instrument
        What it sees.
    box : TriggerBox
        What triggers it.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    recording : Recording, optional
        How it writes, and what goes wrong meanwhile.
    """

    def __init__(
        self,
        instrument: Instrument,
        box: TriggerBox,
        path_provider: PathProvider,
        recording: Recording | None = None,
        name: str = "",
    ) -> None:
        self.instrument = instrument
        self._acquisition = Acquisition(instrument, box, recording or Recording())
        self.add_detector_logics(
            Triggers(self._acquisition),
            self._acquisition,
            FileData(path_provider, self._acquisition),
        )
        super().__init__(name=name)

    @WatchableAsyncStatus.wrap
    async def complete(self) -> AsyncIterator[WatcherUpdate[int]]:
        """Wait for the last exposure, however long the scan is paused.

        Ends also when the box or the detector is stopped early, and at once with the
        error when writing fails, where `StandardDetector` would wait for its timeout.
        """
        target = await self.events_to_kickoff.get_value()
        idle = AsyncStatus(self._acquisition.wait_for_idle())
        async for rows in observe_value(self._acquisition.written, done_status=idle):
            yield WatcherUpdate(
                name=self.name, current=rows, initial=0, target=target, unit="points", precision=0
            )

    @property
    def role(self) -> str:
        """What the detector as a whole is, for the start document's table of devices."""
        return next(iter(self.instrument.datasets.values())).role

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role, for the start document's table of devices."""
        return {
            data_key_of(self.name, key): dataset.role
            for key, dataset in self.instrument.datasets.items()
        }

    async def describe_configuration(self) -> dict[str, DataKey]:
        """Describe the configuration, roles among it: plans of bluesky's own have no table."""
        described = await super().describe_configuration()
        source = f"sim://{self.name}/role"
        role = DataKey(source=source, dtype="string", shape=[])
        return {**described, f"{self.name}-role": role}

    async def read_configuration(self) -> dict[str, Reading[Any]]:
        """Return the configuration, and the roles as JSON."""
        read = await super().read_configuration()
        role = Reading(value=json.dumps(self.roles), timestamp=time.time())
        return {**read, f"{self.name}-role": role}
