"""A simulated detector on a trigger box that writes HDF5, as real ones do.

An ophyd-async `StandardDetector` with external triggers. Rows are written and
flushed *before* their number is published, so that whoever is told of a row, by a
stream datum, can read it (unless the `Recording` lags).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
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
class ExternalTrigger(DetectorTriggerLogic):
    """Edge triggers from the box; the gate is the box's."""

    def get_deadtime(self, config_values: SignalDict) -> float:
        """Return the time between exposures that the read-out needs: none, it double-buffers."""
        return 0.0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Take any number of triggers."""


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
    _triggers: int = field(default=0)

    def __post_init__(self) -> None:
        self.written, self._publish = soft_signal_r_and_setter(int)

    async def open(self, path: Path, name: str) -> RowsProvider:
        """Create the file of the next scan; return what announces its rows."""
        # One thread for all of a file's HDF5 calls; it ends when the file is closed.
        self._pool = pool = ThreadPoolExecutor(1, thread_name_prefix=f"sim-{name}")
        expected = len(self.recording.triggers(0, len(self.box.flyable_logic.prepared)))
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
        """Wait for triggers from now on.

        Raises
        ------
        RuntimeError
            If it is not prepared, or its file has rows already: row numbers are those
            of the box's points, so each scan needs a file of its own.
        """
        if self.files is None or self._triggers:
            raise RuntimeError("stage and prepare the detector anew before each scan")
        self._task = asyncio.create_task(self._acquire(self.files))

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

    async def _acquire(self, files: Files) -> None:
        trigger = self.box.flyable_logic
        while (count := await trigger.triggered(beyond=self._triggers)) > self._triggers:
            first, self._triggers = self._triggers, min(count, self._triggers + ROWS_AT_ONCE)
            if self.recording.lag:
                self._publish(files.rows + len(self.recording.triggers(first, self._triggers)))
                await asyncio.sleep(self.recording.lag)
            await self._call(self._pool, self._expose, files, range(first, self._triggers))
            self._publish(files.rows)

    def _expose(self, files: Files, triggers: range) -> None:
        path = self.box.flyable_logic.prepared
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
    """A detector on a trigger box that writes HDF5 and flies on external edges only.

    Prepare the box before the detector. Where each file is a stream resource of its
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
            ExternalTrigger(), self._acquisition, FileData(path_provider, self._acquisition)
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
