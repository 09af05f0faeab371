"""Scans along a line, in time and in energy."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import numpy as np
from bluesky.utils import Msg, MsgGenerator

from p06bs.plans import _arguments
from p06bs.plans.dwell import in_steps, set_dwell
from p06bs.plans.metadata import described, units_of

# Its annotations know nothing of plain functions per step.
_list_scan: Callable[..., MsgGenerator[Any]] = bp.list_scan


def line_scan(
    detectors: Sequence[Any],
    *line: Any,
    num: int | None = None,
    dwell: float | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Measure along a straight line of any axes: bluesky's `scan`.

    Parameters
    ----------
    detectors : sequence of devices
    *line
        ``motor, start, stop``; of several motors, which then move together, one after the other.
    num : int
        Points; to be given by name.
    dwell : float, optional
        Seconds per point; by default as detectors are set.
    md : mapping, optional
        More metadata; wins over the plan's own.

    Raises
    ------
    ValueError
        If there is less than one point, or the line is none.
    """
    if num is None or not line or len(line) % 3:
        raise ValueError(
            f"a line is motor, start, stop, ..., num=points; not {len(line)} values and {num=}"
        )
    motors, starts, stops = line[0::3], line[1::3], line[2::3]
    _arguments.motors(*motors)
    _arguments.time_per_point(dwell)
    _arguments.counts(num=num)
    for motor, a, b in zip(motors, starts, stops, strict=True):
        _arguments.finite(**{f"start of {motor.name}": a, f"stop of {motor.name}": b})
    if starts == stops and num > 1:
        raise ValueError("a line needs a motor that moves; at one place there is time_series")
    start = described(
        "line_scan",
        [*detectors, *motors],
        md,
        scan={
            **{"dwell": dwell, "duration": dwell and dwell * num},
            "units": units_of(motors),
            "snaking": [False],
        },
        shape=[num],
        extents=[[float(a), float(b)] for a, b in zip(starts, stops, strict=True)],
    )
    plan = bp.scan(list(detectors), *line, num=num, md=start)
    return (yield from in_steps(plan, detectors, dwell))


def time_series(
    detectors: Sequence[Any],
    num: int,
    *,
    interval: float = 0.0,
    dwell: float | None = None,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Measure again and again at one place: bluesky's `count`.

    Parameters
    ----------
    num : int
        Points.
    interval : float
        Seconds from the begin of a point to the begin of the next, if the point takes less;
        also after the last one.
    detectors, dwell, md
        As of `line_scan`.

    Raises
    ------
    ValueError
        If there is less than one point, or the interval is negative.
    """
    _arguments.counts(num=num)
    _arguments.not_negative(interval=interval)
    _arguments.time_per_point(dwell)
    start = described(
        "time_series",
        detectors,
        md,
        scan={
            **{"dwell": dwell, "interval": interval},
            "duration": num * max(dwell, interval) if dwell else None,
        },
        shape=[num],
    )
    plan = bp.count(list(detectors), num, delay=interval, md=start)
    return (yield from in_steps(plan, detectors, dwell))


def energy_scan(
    detectors: Sequence[Any],
    energy: Any,
    *regions: tuple[float, ...],
    dwell: float | None = None,
    technique: str = "XANES",
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Measure at energies in regions of different steps: bluesky's `list_scan`.

    Where a region has a dwell time of its own, detectors are configured at its first point, and a
    new descriptor has their new configuration.

    Parameters
    ----------
    detectors : sequence of devices
    energy : motor
    *regions : (start, stop, step) or (start, stop, step, dwell)
        In the motor's unit and seconds, by rising energy; a region that begins where the one
        before ended does not repeat that point.
    dwell : float, optional
        Seconds per point of regions that do not say; needed if one before them does.
    technique : str
    md : mapping, optional
        More metadata; wins over the plan's own.

    Raises
    ------
    ValueError
        If there is no region, one that is none, or that starts before the one before it ends or
        would keep its dwell time, or energies are in eV where the motor has keV.
    """
    _arguments.motors(energy)
    _arguments.time_per_point(dwell)
    energies, dwells = _of_regions(regions, dwell)
    _arguments.energies(energies, getattr(energy, "egu", None))
    if any(time and after is None for time, after in pairwise(dwells)):
        raise ValueError(
            "a region without a dwell would keep that of the region before: give it one, or the "
            "plan dwell=... for all that have none"
        )
    known = [time for time in dwells if time is not None]
    whole = len(known) == len(dwells)
    start = described(
        "energy_scan",
        [*detectors, energy],
        md,
        scan={
            "dwell": dwells[0] if len({*dwells}) == 1 else None,
            "dwells": [float(t) for t in known] if whole and len({*dwells}) > 1 else None,
            "duration": sum(known) if whole else None,
            "regions": [list(map(float, region)) for region in regions],
            "units": units_of([energy]),
        },
        technique=technique,
        shape=[len(energies)],
        extents=[[min(energies), max(energies)]],
    )
    place = dict(zip(energies, dwells, strict=True))
    now: list[float | None] = [dwells[0]]

    def at(detectors: Sequence[Any], motor: Any, step: float) -> Iterator[Msg]:
        yield from bps.checkpoint()  # also a point that is measured again has its own time
        wanted = place[step]
        if wanted is not None and wanted != now[0]:
            yield from set_dwell(detectors, wanted)
            now[0] = wanted
        yield from bps.one_1d_step(detectors, motor, step)

    plan = _list_scan(list(detectors), energy, energies, per_step=at, md=start)
    return (yield from in_steps(plan, detectors, dwells[0]))


def _of_regions(
    regions: Sequence[tuple[float, ...]], dwell: float | None
) -> tuple[list[float], list[float | None]]:
    """Return the energies, and the time at each."""
    energies: list[float] = []
    dwells: list[float | None] = []
    end: float | None = None
    for region in regions:
        if not isinstance(region, Sequence) or len(region) not in (3, 4):
            raise ValueError(
                f"a region is (start, stop, step) or (start, stop, step, dwell), not {region!r}"
            )
        start, stop, step = region[:3]
        _arguments.finite(start=start, stop=stop)
        _arguments.positive(step=step)
        if len(region) == 4:
            _arguments.positive(dwell=region[3])
        if stop < start:
            raise ValueError(f"a region is from start on to stop, not from {start} to {stop}")
        if end is not None and start < end - step * 1e-6:
            raise ValueError(
                f"a region starts at or after the end of the one before, {end}, not at {start}: "
                "give them by rising energy, without overlap"
            )
        end = stop
        _arguments.points(len(energies) + (stop - start) / step)
        steps = np.floor((stop - start) / step + 1e-9)
        points = np.round(start + step * np.arange(steps + 1), 9)
        new = [float(p) for p in points if not energies or p > energies[-1] + step * 1e-6]
        energies += new
        dwells += [region[3] if len(region) == 4 else dwell] * len(new)
    if not energies:
        raise ValueError("an energy scan needs a region: (start, stop, step)")
    return energies, dwells
