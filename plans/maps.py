"""Maps of a sample: plans that move over a grid and record at every point."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import numpy as np
import numpy.typing as npt
from bluesky.utils import Msg, MsgGenerator

Floats = npt.NDArray[np.float64]

COLLECT_EVERY = 0.15
"""Seconds between two collections while flying: how live the documents are."""

LONGEST_PAUSE = 3600.0
"""Seconds that a `StandardDetector` waits for its next trigger before it gives up."""

NOMINAL_GATE = 0.005
"""Gate time (s) of scans without a finite rate, as simulations have."""

# Preprocessors have no annotations of their own.
_in_run: Callable[..., MsgGenerator[str]] = bpp.run_wrapper
_staged: Callable[..., MsgGenerator[str]] = bpp.stage_wrapper


@dataclass(frozen=True)
class Grid:
    """The points of a map in the order of acquisition.

    Parameters
    ----------
    x, y : ndarray
        Nominal positions, µm, shape ``(points,)``.
    rate : float
        Points per second.
    gate_time : float
        Seconds per point.
    """

    x: Floats
    y: Floats
    rate: float
    gate_time: float


def grid(
    x_ends: tuple[float, float],
    nx: int,
    y_ends: tuple[float, float],
    ny: int,
    *,
    rate: float,
    gate_time: float | None = None,
    snake: bool = True,
) -> Grid:
    """Return ``ny`` rows of ``nx`` points, x fast; a snake runs every other row backwards.

    Raises
    ------
    ValueError
        If there is less than one point along an axis, or the rate is not positive.
    """
    if nx < 1 or ny < 1:
        raise ValueError(f"a map needs at least 1 x 1 points, not nx={nx}, ny={ny}")
    if not rate > 0:
        raise ValueError(f"rate must be more than 0 points/s, not {rate}")
    x = np.tile(np.linspace(*x_ends, nx), (ny, 1))
    if snake:
        x[1::2] = x[1::2, ::-1]
    y = np.repeat(np.linspace(*y_ends, ny), nx)
    if gate_time is None:
        gate_time = 1 / rate if np.isfinite(rate) else NOMINAL_GATE
    return Grid(x.ravel(), y, rate, gate_time)


def fly_map(
    detectors: Sequence[Any],
    box: Any,
    *,
    x_start: float = -20.0,
    x_stop: float = 20.0,
    nx: int = 41,
    y_start: float = -20.0,
    y_stop: float = 20.0,
    ny: int = 41,
    rate: float = 200.0,
    gate_time: float | None = None,
    snake: bool = True,
    collect_every: float = COLLECT_EVERY,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[str]:
    """Fly over a rectangle, row by row, while a box triggers the detectors.

    The box's captures (positions, counters) become events of stream ``primary``,
    the rows that each detector writes become stream data of a stream with the
    detector's name; the start document lists these streams under
    ``aligned_streams``: equal seq_num, same point. Documents come out during the
    scan, every `collect_every` seconds.

    A pause stops the triggers; on resume the scan goes on at the next point and
    nothing is repeated. When the scan is aborted or fails, the triggers are stopped,
    what has been recorded is still collected, and files are closed.

    Parameters
    ----------
    detectors : sequence of devices
        Externally triggered ophyd-async detectors.
    box : device
        Flyer that takes a `Grid` in ``prepare`` and gives event pages.
    x_start, x_stop, y_start, y_stop : float
        Centres of the outermost points, µm.
    nx, ny : int
        Points per row, and rows.
    rate : float
        Points per second; ``inf`` for simulations without a clock.
    gate_time : float, optional
        Seconds per point; the whole time between two points by default.
    snake : bool
        Whether every other row runs backwards.
    collect_every : float
        Seconds between two collections.
    md : mapping, optional
        More metadata for the start document; wins over the plan's own.

    Returns
    -------
    str
        Uid of the run.

    Raises
    ------
    ValueError
        If there is less than one point along an axis, or the rate is not positive.
    """
    # A plan needs no ophyd-async to be imported, only to be run.
    from ophyd_async.core import DetectorTrigger, TriggerInfo

    points = grid(
        (x_start, x_stop), nx, (y_start, y_stop), ny, rate=rate, gate_time=gate_time, snake=snake
    )
    flyers = [*detectors, box]
    start = {
        **_metadata(detectors, box),
        "plan_name": "fly_map",
        "plan_args": {
            **{"x_start": x_start, "x_stop": x_stop, "nx": nx},
            **{"y_start": y_start, "y_stop": y_stop, "ny": ny},
            **{"rate": rate if np.isfinite(rate) else None, "snake": snake},
        },
        "scan": {"kind": "fly_map", "gate_time": points.gate_time},
        "technique": "X-ray fluorescence",
        "num_points": nx * ny,
        "shape": [ny, nx],
        "extents": [[y_start, y_stop], [x_start, x_stop]],
        "snaking": [False, snake],
        **(md or {}),
    }
    trigger = TriggerInfo(
        trigger=DetectorTrigger.EXTERNAL_EDGE,
        livetime=points.gate_time,
        number_of_events=points.x.size,
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
        yield from bps.declare_stream(box, name="primary", collect=True)
        try:
            yield from fly()
        except Exception:  # also what the RunEngine throws in at stop and abort
            yield from bps.stop(box)
            yield from collect()
            raise

    uid: str = yield from _staged(_in_run(run(), md=start), flyers)
    return uid


def _metadata(detectors: Sequence[Any], box: Any) -> dict[str, Any]:
    """Return what the devices say about themselves: roles, streams and axes."""
    axes = {role: key for key, role in box.roles.items()}
    motors = [axes["position_y"], axes["position_x"]]
    return {
        "detectors": [detector.name for detector in detectors],
        "devices": {
            device.name: {
                **({"role": device.role} if hasattr(device, "role") else {}),
                "roles": dict(device.roles),
            }
            for device in [*detectors, box]
        },
        "aligned_streams": ["primary", *(detector.name for detector in detectors)],
        "motors": motors,
        "hints": {
            "dimensions": [[[motor], "primary"] for motor in motors],
            "gridding": "rectilinear",
        },
    }
