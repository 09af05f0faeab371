"""A simulated multi-element fluorescence detector that writes HDF5, as real ones do.

An ophyd-async `StandardDetector` with external triggers. Its file is written in
single-writer-multiple-reader mode: rows are appended and flushed *before* their
number is published, so that whoever was told of a row can read it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import hdf5plugin
from bluesky.protocols import StreamAsset
from event_model import DataKey
from ophyd_async.core import (
    DetectorAcquireLogic,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    SignalDict,
    StandardDetector,
    StreamableDataProvider,
    StreamResourceDataProvider,
    StreamResourceInfo,
    soft_signal_r_and_setter,
)

from p06bs.sim.beamline import Beamline, Exposures
from p06bs.sim.spectra import CHANNELS
from p06bs.sim.stage import TriggerBox

R = TypeVar("R")

GROUP = "/entry/instrument/fluorescence"
ROWS_AT_ONCE = 64
"""At most so many points are drawn before they are written and published."""


@dataclass(frozen=True)
class Dataset:
    """One dataset of the detector's file; the shape is one point's."""

    role: str
    unit: str
    dtype: str
    dims: tuple[str, ...]


DATASETS = {
    "spectrum": Dataset("fluorescence", "counts", "<u4", ("detector_element", "channel")),
    "live_time": Dataset("live_time", "s", "<f8", ("detector_element",)),
    "real_time": Dataset("real_time", "s", "<f8", ("detector_element",)),
}


def _chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the chunk of a dataset: one point's spectra, or 1024 points of small things."""
    return (1, *shape) if len(shape) > 1 else (1024, *shape)


class SpectraFile:
    """An HDF5 file that grows by rows, open for readers from the first row on."""

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        self.path = path
        self.rows = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = h5py.File(path, "x", libver="latest")
        entry = self._file.create_group("entry")
        entry.attrs["NX_class"] = "NXentry"
        instrument = entry.create_group("instrument")
        instrument.attrs["NX_class"] = "NXinstrument"
        group = self._file.create_group(GROUP)
        group.attrs["NX_class"] = "NXdetector"
        for key, shape in shapes.items():
            dataset = group.create_dataset(
                key,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=_chunk(shape),
                dtype=DATASETS[key].dtype,
                **(hdf5plugin.Bitshuffle(cname="lz4") if key == "spectrum" else {}),
            )
            dataset.attrs["units"] = DATASETS[key].unit
        self._file.swmr_mode = True

    def append(self, exposures: Exposures) -> int:
        """Write and flush rows; return how many the file has."""
        stop = self.rows + len(exposures.spectrum)
        for key in DATASETS:
            dataset = self._file[GROUP][key]
            dataset.resize(stop, axis=0)
            dataset[self.rows : stop] = getattr(exposures, key)
            dataset.flush()
        self.rows = stop
        return stop

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SpectraProvider(StreamResourceDataProvider):
    """Announce the rows of a `SpectraFile`, with units, dims and true shapes."""

    def __init__(
        self,
        uri: str,
        resources: Sequence[StreamResourceInfo],
        mimetype: str,
        acquisition: "Acquisition",
    ) -> None:
        super().__init__(uri, resources, mimetype, acquisition.written)
        self.acquisition = acquisition

    async def make_datakeys(self, collections_per_event: int) -> dict[str, DataKey]:
        """Describe the datasets; axis 0 are the collections of one event."""
        described = await super().make_datakeys(collections_per_event)
        for data_key, dataset in zip(described.values(), DATASETS.values(), strict=True):
            data_key["dtype"] = "array"
            data_key["units"] = dataset.unit
            data_key["dims"] = ["exposure", *dataset.dims]
        return described

    async def make_stream_docs(
        self, collections_written: int, collections_per_event: int
    ) -> AsyncIterator[StreamAsset]:
        """Yield documents of the rows written; raise what stopped the writing, if anything did."""
        async for document in super().make_stream_docs(collections_written, collections_per_event):
            yield document
        self.acquisition.raise_failure()


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
        shapes = {
            "spectrum": (self.beamline.elements, CHANNELS),
            "live_time": (self.beamline.elements,),
            "real_time": (self.beamline.elements,),
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
        """Wait for the last exposure; raise what went wrong."""
        if self._task is not None:
            await self._task

    async def ensure_stopped(self) -> None:
        """Stop and let a write that has begun finish."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def close(self) -> None:
        """Close the file."""
        try:
            await self.ensure_stopped()
        finally:
            file, self.file = self.file, None
            pool, self._pool = self._pool, None
            if pool is not None:
                if file is not None:
                    await self._call(pool, file.close)
                pool.shutdown()

    def raise_failure(self) -> None:
        """Raise, once, what stopped the acquisition, so that a plan that collects ends with it."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            failure = self._task.exception()
            if failure is not None:
                self._task = None
                raise failure

    async def _acquire(self, file: SpectraFile) -> None:
        trigger = self.box.flyable_logic
        while (count := await trigger.triggered(beyond=file.rows)) > file.rows:
            stop = min(count, file.rows + ROWS_AT_ONCE)
            await self._call(self._pool, self._expose, file, stop)
            self._publish(file.rows)

    def _expose(self, file: SpectraFile, stop: int) -> None:
        trigger = self.box.flyable_logic
        points = range(file.rows, stop)
        x, y = trigger.positions(points.start, points.stop)
        file.append(self.beamline.expose(points, x, y, trigger.prepared.gate_time))

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
                    chunk_shape=_chunk(shape),
                    dtype_numpy=DATASETS[key].dtype,
                    parameters={"dataset": f"{GROUP}/{key}", "swmr": True},
                )
                for key, shape in shapes.items()
            ],
            mimetype="application/x-hdf5",
            acquisition=self.acquisition,
        )

    async def stop(self) -> None:
        """Close the file."""
        await self.acquisition.close()

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return nothing: spectra are too big to be shown by default."""
        return []


class FluorescenceDetector(StandardDetector):
    """A multi-element silicon drift detector on a trigger box, writing HDF5.

    Streams ``<name>-spectrum`` (counts, ``(elements, channels)`` uint32) and the
    ``<name>-live_time`` and ``<name>-real_time`` of each element (s). Flies on
    external edges only; prepare the box before the detector.

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
        acquisition = Acquisition(beamline, box)
        self.add_detector_logics(
            ExternalTrigger(), acquisition, SpectraData(path_provider, acquisition)
        )
        super().__init__(name=name)

    @property
    def role(self) -> str:
        """What the detector as a whole is, for the start document's table of devices."""
        return "fluorescence"

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role, for the start document's table of devices."""
        return {f"{self.name}-{key}": dataset.role for key, dataset in DATASETS.items()}
