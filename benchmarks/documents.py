"""Raw runs as publishers emit them, at full speed: documents are made while they are sent."""

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import event_model
import numpy as np

from p06bs.model.documents import NamedDocument

EVENTS_PER_PAGE = 100
SPECTRA_PER_PAGE = 16
FRAMES_PER_DATUM = 16
ELEMENTS, CHANNELS = 4, 4096
PEAKS = 16


def key(array: Any, **more: Any) -> dict[str, Any]:
    """Return the data key of a column whose leading axis is events."""
    return {
        "source": "benchmark",
        "dtype": "array" if array.ndim > 1 else "number",
        "dtype_numpy": array.dtype.str,
        "shape": list(array.shape[1:]),
        **more,
    }


def opened(run: str, data_keys: Mapping[str, Any]) -> tuple[str, list[NamedDocument]]:
    """Return the uid of the descriptor of a run's only stream, and the run's first documents."""
    bundle = event_model.compose_run(uid=run, metadata={"plan_name": "benchmark"})
    stream = bundle.compose_descriptor(name="primary", data_keys=data_keys).descriptor_doc
    return stream["uid"], [("start", bundle.start_doc), ("descriptor", stream)]


def closed(run: str, events: int) -> NamedDocument:
    """Return the stop document."""
    return "stop", {
        "uid": str(uuid.uuid4()),
        "run_start": run,
        "time": time.time(),
        "exit_status": "success",
        "reason": "",
        "num_events": {"primary": events},
    }


def page(descriptor: str, run: str, first: int, columns: Mapping[str, Any]) -> NamedDocument:
    """Return the event page of columns whose first event is number `first`, from 0."""
    count = len(next(iter(columns.values())))
    stamps = np.full(count, time.time())
    return "event_page", {
        "descriptor": descriptor,
        "uid": [f"{run[:8]}-{n:09d}" for n in range(first, first + count)],
        "seq_num": list(range(first + 1, first + 1 + count)),
        "time": stamps.tolist(),
        "data": dict(columns),
        "timestamps": dict.fromkeys(columns, stamps),
    }


def small_columns() -> dict[str, Any]:
    """Return the scalar columns of one page of 100 events."""
    random = np.random.default_rng(6)
    return {
        name: random.uniform(1.0, 2.0, EVENTS_PER_PAGE)
        for name in ("signal", "reference", "gate_time", "position")
    }


def small_pages(run: str, pages: int) -> Iterator[NamedDocument]:
    """Yield a run of pages of 100 events with four numbers each."""
    columns = small_columns()
    descriptor, begun = opened(run, {name: key(column) for name, column in columns.items()})
    yield from begun
    for first in range(0, pages * EVENTS_PER_PAGE, EVENTS_PER_PAGE):
        yield page(descriptor, run, first, columns)
    yield closed(run, pages * EVENTS_PER_PAGE)


def single_events(run: str, events: int) -> Iterator[NamedDocument]:
    """Yield a run of single events; `signal` is the time at which the event was made.

    Of the clock ``time.monotonic``, s, which all processes of a machine share.
    """
    one = {name: column[:1] for name, column in small_columns().items()}
    descriptor, begun = opened(run, {name: key(column) for name, column in one.items()})
    yield from begun
    for number in range(events):
        data = {"signal": time.monotonic(), "reference": 1.0, "gate_time": 0.1, "position": 0.0}
        now = time.time()
        yield (
            "event",
            {
                "descriptor": descriptor,
                "uid": f"{run[:8]}-{number:09d}",
                "seq_num": number + 1,
                "time": now,
                "data": data,
                "timestamps": dict.fromkeys(data, now),
            },
        )
    yield closed(run, events)


def spectra_columns() -> dict[str, Any]:
    """Return Poisson draws of spectra, shape (16, 4, 4096), uint32."""
    random = np.random.default_rng(6)
    channels = np.arange(CHANNELS)[:, None]
    centres = np.linspace(0.1, 0.9, PEAKS) * CHANNELS
    mean = 2.0 + 50.0 * np.exp(-(((channels - centres) / 20.0) ** 2) / 2).sum(axis=1)
    drawn = random.poisson(mean, (SPECTRA_PER_PAGE, ELEMENTS, CHANNELS))
    return {"mca": drawn.astype(np.uint32)}


def spectra_pages(run: str, pages: int) -> Iterator[NamedDocument]:
    """Yield a run of pages of 16 events, each with 4 spectra of 4096 channels (1 MiB a page)."""
    columns = spectra_columns()
    dims = ["detector_element", "channel"]
    keys = {name: key(column, dims=dims) for name, column in columns.items()}
    descriptor, begun = opened(run, keys)
    yield from begun
    for first in range(0, pages * SPECTRA_PER_PAGE, SPECTRA_PER_PAGE):
        yield page(descriptor, run, first, columns)
    yield closed(run, pages * SPECTRA_PER_PAGE)


def frames_by_reference(
    run: str, file: Path, frames: int, shape: tuple[int, int], passes: int
) -> Iterator[NamedDocument]:
    """Yield a run whose frames lie in a file, which is named `passes` times; 16 to a document."""
    described = key(np.empty((0, *shape), np.uint16), dims=["row", "column"], external="STREAM:")
    descriptor, begun = opened(run, {"frame": described})
    yield from begun
    event = 0
    for _ in range(passes):
        resource = {
            "uid": str(uuid.uuid4()),
            "run_start": run,
            "data_key": "frame",
            "mimetype": "application/x-hdf5",
            "uri": f"file://localhost{file}",
            "parameters": {"dataset": "/data", "chunk_shape": (1, *shape)},
        }
        yield "stream_resource", resource
        for first in range(0, frames, FRAMES_PER_DATUM):
            last = first + FRAMES_PER_DATUM
            yield (
                "stream_datum",
                {
                    "uid": str(uuid.uuid4()),
                    "descriptor": descriptor,
                    "stream_resource": resource["uid"],
                    "indices": {"start": first, "stop": last},
                    "seq_nums": {"start": event + 1, "stop": event + 1 + FRAMES_PER_DATUM},
                },
            )
            event += FRAMES_PER_DATUM
    yield closed(run, event)
