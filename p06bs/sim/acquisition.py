"""How a simulated detector takes data: it follows the triggers, draws, writes and publishes.

Rows are written and flushed *before* their number is published, so that whoever is
told of a row, by a stream datum, can read it (unless the `Recording` lags).
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from ophyd_async.core import DetectorAcquireLogic, soft_signal_r_and_setter

from p06bs.sim.announcement import RowsProvider
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
    kicked_off: asyncio.Event = field(default_factory=asyncio.Event)

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
        self._task, self._triggers = None, 0
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
            await self.ensure_stopped()  # a paused plan may prepare twice: one follows the triggers
            self.kicked_off.clear()
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
        # `StandardDetector.kickoff` takes rows that there are before it for an earlier scan's.
        await self.kicked_off.wait()
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
