"""A simulated multi-element fluorescence detector that writes HDF5, as real ones do.

An ophyd-async `StandardDetector` with external triggers. Rows are written and
flushed *before* their number is published, so that whoever is told of a row, by a
stream datum, can read it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

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
    StreamResourceDataProvider,
    StreamResourceInfo,
    WatchableAsyncStatus,
    WatcherUpdate,
    observe_value,
    soft_signal_r_and_setter,
)

from p06bs.sim.beamline import Beamline
from p06bs.sim.spectra import CHANNELS
from p06bs.sim.spectra_file import DATASETS, GROUP, SpectraFile, chunk_shape
from p06bs.sim.stage import TriggerBox

R = TypeVar("R")

ROWS_AT_ONCE = 64
"""At most so many points are drawn before they are written and published."""


class SpectraProvider(StreamResourceDataProvider):
    """Announce the rows of a `SpectraFile`, with units, dims and true shapes."""

    async def make_datakeys(self, collections_per_event: int) -> dict[str, DataKey]:
        """Describe the datasets; axis 0 are the collections of one event."""
        described = await super().make_datakeys(collections_per_event)
        for data_key, dataset in zip(described.values(), DATASETS.values(), strict=True):
            data_key["dtype"] = "array"
            data_key["units"] = dataset.unit
            data_key["dims"] = ["exposure", *dataset.dims]
        return described


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

    beamline: Beamline
    box: TriggerBox
    file: SpectraFile | None = None
    _task: asyncio.Task[None] | None = None
    _pool: ThreadPoolExecutor | None = None

    def __post_init__(self) -> None:
        self.written, self._publish = soft_signal_r_and_setter(int)

    async def open(self, path: Path) -> dict[str, tuple[int, ...]]:
        """Create the file of the next scan; return the shape of one point per dataset."""
        # One thread for all of a file's HDF5 calls; it ends when the file is closed.
        self._pool = pool = ThreadPoolExecutor(1, thread_name_prefix="sim-fluorescence")
        elements = self.beamline.elements
        shapes: dict[str, tuple[int, ...]] = {
            key: (elements, CHANNELS) if key == "spectrum" else (elements,) for key in DATASETS
        }
        self.file = await self._call(pool, SpectraFile, path, shapes)
        self._publish(0)
        return shapes

    async def start_acquiring(self) -> None:
        """Wait for triggers from now on.

        Raises
        ------
        RuntimeError
            If it is not prepared, or its file has rows already: row numbers are those
            of the box's points, so each scan needs a file of its own.
        """
        if self.file is None or self.file.rows:
            raise RuntimeError("stage and prepare the detector anew before each scan")
        self._task = asyncio.create_task(self._acquire(self.file))

    async def wait_for_idle(self) -> None:
        """Wait until no more exposures come: all are written, or it was stopped.

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

    async def ensure_stopped(self) -> None:
        """Stop and let a write that has begun finish."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def close(self) -> None:
        """Close the file."""
        await self.ensure_stopped()
        file, self.file = self.file, None
        pool, self._pool = self._pool, None
        if pool is not None:
            if file is not None:
                await self._call(pool, file.close)
            pool.shutdown()

    async def _acquire(self, file: SpectraFile) -> None:
        trigger = self.box.flyable_logic
        while (count := await trigger.triggered(beyond=file.rows)) > file.rows:
            stop = min(count, file.rows + ROWS_AT_ONCE)
            await self._call(self._pool, self._expose, file, stop)
            self._publish(file.rows)

    def _expose(self, file: SpectraFile, stop: int) -> None:
        trigger = self.box.flyable_logic
        points = range(file.rows, stop)
        at = trigger.prepared.exposed(points.start, points.stop)
        path = trigger.prepared
        file.append(
            self.beamline.expose(points, at["x"], at["y"], path.gate_time, angle=path.angle)
        )

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
class SpectraData(DetectorDataLogic):
    """Where the detector writes, and how that is announced."""

    path_provider: PathProvider
    acquisition: Acquisition

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Open a file and return what announces its rows."""
        where = self.path_provider(datakey_name)
        file_name = f"{where.filename}.h5"
        shapes = await self.acquisition.open(Path(where.directory_path) / file_name)
        return SpectraProvider(
            uri=f"{where.directory_uri}{file_name}",
            resources=[
                StreamResourceInfo(
                    data_key=f"{datakey_name}-{key}",
                    shape=shape,
                    chunk_shape=chunk_shape(shape),
                    dtype_numpy=DATASETS[key].dtype,
                    parameters={"dataset": f"{GROUP}/{key}", "swmr": True},
                )
                for key, shape in shapes.items()
            ],
            mimetype="application/x-hdf5",
            collections_written_signal=self.acquisition.written,
        )

    async def stop(self) -> None:
        """Close the file."""
        await self.acquisition.close()

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return nothing: spectra are too big to be shown by default."""
        return []


class FluorescenceDetector(StandardDetector):
    """A multi-element silicon drift detector on a trigger box, writing HDF5.

    Streams ``<name>-spectrum`` (counts, ``(elements, channels)`` uint32) and, of each
    element, ``<name>-live_time`` and ``<name>-real_time`` (s), ``<name>-input_counts``
    and ``<name>-output_counts``. Flies on external edges only; prepare the box before
    the detector.

    Parameters
    ----------
    beamline : Beamline
        What there is to see.
    box : TriggerBox
        What triggers it.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    """

    def __init__(
        self, beamline: Beamline, box: TriggerBox, path_provider: PathProvider, name: str = ""
    ) -> None:
        self._acquisition = Acquisition(beamline, box)
        self.add_detector_logics(
            ExternalTrigger(), self._acquisition, SpectraData(path_provider, self._acquisition)
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
        return "fluorescence"

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role, for the start document's table of devices."""
        return {f"{self.name}-{key}": dataset.role for key, dataset in DATASETS.items()}
