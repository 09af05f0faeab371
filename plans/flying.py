"""Fly over points while a box triggers the detectors."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import Msg, MsgGenerator

from p06bs.plans._arguments import positive
from p06bs.plans.points import UNITS, Floats, Grid
from p06bs.plans.preprocessors import in_run, staged

COLLECT_EVERY = 0.15
"""Seconds between two collections while flying: how live the documents are."""

LONGEST_PAUSE = 3600.0
"""Seconds that a `StandardDetector` waits for its next trigger before it gives up."""


def flown(
    detectors: Sequence[Any],
    box: Any,
    points: Grid,
    md: Mapping[str, Any],
    collect_every: float = COLLECT_EVERY,
) -> MsgGenerator[str]:
    """Fly over points in one run.

    The box's captures become events of stream ``primary``, the rows that each detector writes
    become stream data of a stream with the detector's name, every `collect_every` seconds.
    A pause stops the triggers; on resume the scan goes on at the next point and nothing is
    repeated. When it is aborted or fails, the triggers are stopped, what has been recorded
    is still collected, and files are closed.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If `collect_every` is not positive.
    """
    # A plan needs no ophyd-async to be imported, only to be run.
    from ophyd_async.core import DetectorTrigger, TriggerInfo

    positive(collect_every=collect_every)
    flyers = [*detectors, box]
    trigger = TriggerInfo(
        trigger=DetectorTrigger.EXTERNAL_EDGE,
        livetime=points.gate_time,
        number_of_events=len(points),
        exposure_timeout=LONGEST_PAUSE,
    )

    def collect() -> Iterator[Msg]:
        for detector in detectors:
            yield from bps.collect(detector, name=detector.name, return_payload=False)
        yield from bps.collect(box, name="primary", return_payload=False)

    def fly() -> Iterator[Msg]:
        yield from bps.kickoff_all(*flyers, wait=True)
        completions = yield from bps.complete_all(*flyers, wait=False)
        # Not bps.wait: a wait that a pause interrupts forgets what it waited for.
        while not all(status.done for status in completions):
            yield from bps.checkpoint()
            yield from bps.sleep(collect_every)
            yield from collect()
        yield from collect()

    def run() -> Iterator[Msg]:
        yield from bps.prepare(box, points, wait=True)
        for detector in detectors:
            yield from bps.prepare(detector, trigger, wait=True)
            yield from bps.declare_stream(detector, name=detector.name, collect=True)
            yield from bps.checkpoint()  # a pause from here on does not arm it again
        yield from bps.declare_stream(box, name="primary", collect=True)
        try:
            yield from fly()
        except Exception:  # also what the RunEngine throws in at stop and abort
            yield from bps.stop(box)
            yield from collect()
            raise

    uid: str = yield from staged(in_run(run(), md=md), flyers)
    return uid


def flight(detectors: Sequence[Any], box: Any, axes: Iterable[str]) -> dict[str, Any]:
    """Return what the devices of a flight say of its streams and axes.

    Parameters
    ----------
    axes : iterable
        Of the box, as ``motors`` of the start document has them.
    """
    keys = {role: key for key, role in box.roles.items()}
    motors = [keys[axis if axis == "rotation" else f"position_{axis}"] for axis in axes]
    return {
        "detectors": [detector.name for detector in detectors],
        "aligned_streams": ["primary", *(detector.name for detector in detectors)],
        "motors": motors,
        "hints": {"dimensions": [[[motor], "primary"] for motor in motors]},
    }


def of_raster(
    detectors: Sequence[Any], box: Any, lines: Mapping[str, Floats], *, snake: bool
) -> dict[str, Any]:
    """Return what a start document says of a flight over a `p06bs.plans.points.raster`."""
    said = flight(detectors, box, lines)
    said["hints"]["gridding"] = "rectilinear"
    shape = [line.size for line in lines.values()]
    return {
        **said,
        "shape": shape,
        "num_points": math.prod(shape),
        "extents": [[float(line[0]), float(line[-1])] for line in lines.values()],
        "snaking": [*[False] * (len(shape) - 1), snake],
    }


def of_flight(points: Grid, axes: Iterable[str]) -> dict[str, Any]:
    """Return what ``start["scan"]`` says of a flight."""
    dwell = 1 / points.rate if np.isfinite(points.rate) else points.gate_time
    return {
        "gate_time": points.gate_time,
        "dwell": dwell,
        "duration": dwell * len(points),
        "units": [UNITS[axis] for axis in axes],
    }
