"""Find the beam's place and size with an edge."""

import asyncio
import math
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import bluesky.plan_stubs as bps
import numpy as np
import numpy.typing as npt
from bluesky.protocols import WritesStreamAssets
from bluesky.utils import Msg, MsgGenerator, maybe_await

from p06bs.plans import _arguments
from p06bs.plans.metadata import units_of
from p06bs.plans.preprocessors import before, mutated, subscribed
from p06bs.plans.scans import line_scan

Floats = npt.NDArray[np.float64]

LENGTHS = ("centre", "fwhm", "centre_sigma", "fwhm_sigma")
"""Fields of `Edge` in the motor's unit."""

STREAM = "edge"
"""Of what was found, in the scan's own run."""

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Edge:
    """What an edge showed; lengths are in the motor's unit.

    Attributes
    ----------
    centre : float
        Where half of the beam is covered.
    fwhm : float
        Size of the beam, full width at half maximum.
    low, high : float
        Signal where the beam is covered, and where it is not, or the other way round.
    residual : float
        Root mean square of what the fit leaves, relative to the height of the edge.
    centre_sigma, fwhm_sigma : float
        Standard deviations, by the fit's covariance.
    """

    centre: float
    fwhm: float
    low: float
    high: float
    residual: float
    centre_sigma: float
    fwhm_sigma: float


class EdgeError(ValueError):
    """A signal that shows no edge; says why."""


def fit_edge(position: Floats, signal: Floats) -> Edge:
    """Return centre and size of a normal beam that an edge covers.

    Parameters
    ----------
    position, signal : ndarray
        Shape ``(points,)``; points that are not finite are left out.

    Raises
    ------
    EdgeError
        If there are less than five points, no edge is within them, or it is sharper than the
        distance of points: then its place and size are anywhere between two of them.
    """
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.special import erf

    fine = np.isfinite(position) & np.isfinite(signal)
    x, y = position[fine], signal[fine]
    order = np.argsort(x)
    x, y = x[order], y[order]
    if np.unique(x).size < 5 or np.ptp(y) == 0:
        raise EdgeError("an edge needs five points at least, and a signal that changes")

    def shape(x: Floats, centre: float, sigma: float, low: float, high: float) -> Any:
        return low + (high - low) * (1 + erf((x - centre) / (abs(sigma) * math.sqrt(2)))) / 2

    crossing = x[np.argmin(np.abs(y - (y.max() + y.min()) / 2))]
    start = (crossing, np.ptp(x) / 20, y[:2].mean(), y[-2:].mean())
    try:
        with warnings.catch_warnings(action="ignore", category=OptimizeWarning):
            (centre, sigma, low, high), covariance = curve_fit(shape, x, y, start, maxfev=5000)
    except RuntimeError as error:
        raise EdgeError(f"no edge fits: {error}") from error
    sigma = abs(sigma)
    if not x[0] <= centre <= x[-1] or sigma > np.ptp(x):
        raise EdgeError(f"no edge between {x[0]:g} and {x[-1]:g}: it would be at {centre:g}")
    left = y - shape(x, centre, sigma, low, high)
    residual = float(np.sqrt(np.mean(left**2)) / abs(high - low))
    if residual > 0.2:
        raise EdgeError(f"what changes is no edge: the fit leaves {residual:.0%} of its height")
    fwhm, step = FWHM * sigma, np.ptp(x) / (np.unique(x).size - 1)
    if fwhm < step:
        raise EdgeError(
            f"an edge near {centre:g} is sharper, {fwhm:.2g}, than the distance of points, "
            f"{step:.2g}: measure it again there in smaller steps"
        )
    centre_sigma, sigma_sigma = np.sqrt(np.diag(covariance)[:2])
    if not FWHM * sigma_sigma < fwhm:
        raise EdgeError(f"an edge near {centre:g} is uncertain: measure more points, or longer")
    found = (centre, fwhm, low, high, residual, centre_sigma, FWHM * sigma_sigma)
    return Edge(*(float(value) for value in found))


def knife_edge(
    detectors: Sequence[Any],
    motor: Any,
    start: float,
    stop: float,
    num: int,
    signal: str,
    *,
    dwell: float | None = None,
    align: bool = False,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Move an edge through the beam, and find the beam's centre and size.

    They are in the run's stream ``edge``.

    Parameters
    ----------
    detectors : sequence of devices
    motor : motor
        Moves the edge.
    start, stop : float
        In the motor's unit.
    num : int
        Points.
    signal : str
        Data key of what shines on, or of what the edge emits.
    dwell : float, optional
        Seconds per point; by default as detectors are set.
    align : bool
        Move the edge to the beam's centre in the end; where it was, if no edge was found.
    md : mapping, optional
        More metadata; wins over the plan's own.

    Returns
    -------
    Edge

    Raises
    ------
    EdgeError
        If there was no edge; the run is complete and a success then, without a stream ``edge``,
        and the motor stands where it was if `align`. Before anything moves, if no detector has
        the signal, the motor does not say where it is, or there are less than five points.
    """
    _arguments.motors(motor)
    _arguments.ends(motor.name, start, stop, num)
    if num < 5:
        raise EdgeError(f"num must be 5 or more for an edge, not {num}")
    where = yield from _find(signal, detectors, motor)
    points: dict[int, tuple[Any, Any]] = {}
    streams: dict[str, str] = {}
    found: list[Edge | EdgeError] = []

    def remember(name: str, document: dict[str, Any]) -> None:
        # By seq_num: what is measured again after a pause is newer.
        if name == "descriptor":
            streams[document["uid"]] = document["name"]
        elif name == "event" and streams.get(document["descriptor"]) == "primary":
            data = document["data"]
            points[document["seq_num"]] = (data.get(where), data.get(signal))

    def finish(msg: Msg) -> tuple[Any, Any]:
        if msg.command != "close_run" or len(points) < num:  # an aborted scan has no result
            return None, None
        return before(record(), msg), None

    def record() -> Iterator[Msg]:
        position, seen = np.array([points[n] for n in sorted(points)], dtype=float).T
        try:
            found.append(edge := fit_edge(position, seen))
        except EdgeError as error:
            found.append(error)
        else:
            yield from bps.create(STREAM)
            yield from bps.read(_Reading(edge, units_of([motor])))
            yield from bps.save()
            yield from bps.checkpoint()  # as in `in_steps`

    read = yield from bps.read(motor)
    place = read and read[where]["value"]
    scan = {"kind": "knife_edge", "signal": signal, "result": STREAM, **(md or {}).get("scan", {})}
    said = {"plan_name": "knife_edge", **(md or {}), "scan": scan}
    plan = line_scan(detectors, motor, start, stop, num=num, dwell=dwell, md=said)
    yield from subscribed(mutated(plan, finish), remember)
    (edge,) = found
    if not isinstance(edge, EdgeError):
        place = edge.centre
    if align and place is not None:  # None: the answer was lost in a pause
        yield from bps.mv(motor, place)
    if isinstance(edge, EdgeError):
        raise edge
    return edge


def _find(signal: str, detectors: Sequence[Any], motor: Any) -> Generator[Msg, Any, str]:
    """Return the data key of a motor's position; check that events will have it, and a signal.

    Both are one number per point.
    """
    described: dict[str, Any] = {}
    moved: dict[str, Any] = {}

    async def ask() -> None:
        for detector in detectors:
            # What these write into files is in no event, and they describe nothing before.
            if not isinstance(detector, WritesStreamAssets):
                described.update(await maybe_await(detector.describe()))
        moved.update(await maybe_await(motor.describe()))

    yield from bps.wait_for([lambda: asyncio.ensure_future(ask())])
    known, places = _numbers(described), _numbers(moved)
    if signal not in known:
        raise EdgeError(f"no detector has {signal!r}, a number per point: {', '.join(known)}")
    hinted = getattr(motor, "hints", {}).get("fields", [])
    # Under its own name, as bluesky's motors are; else as it is shown, or all that there is.
    for candidates in ([motor.name], hinted, places):
        if len(found := [key for key in candidates if key in places]) == 1:
            return found[0]
    raise EdgeError(
        f"{motor.name} does not say which is its position: have its hints name one of "
        f"{', '.join(places) or 'its numbers, of which there are none'}"
    )


def _numbers(described: Mapping[str, Any]) -> list[str]:
    """Return the data keys of one number per point."""
    return [key for key, said in described.items() if not any(said["shape"])]


class _Reading:
    """An edge as a device that is read, so that it is in the documents."""

    name = STREAM
    parent = None

    def __init__(self, edge: Edge, units: list[str] | None) -> None:
        self._values = {f"{STREAM}-{key}": value for key, value in vars(edge).items()}
        self._units = {f"{STREAM}-{key}": units[0] for key in LENGTHS} if units else {}

    def read(self) -> dict[str, Any]:
        now = time.time()
        return {key: {"value": v, "timestamp": now} for key, v in self._values.items()}

    def describe(self) -> dict[str, Any]:
        described: dict[str, Any] = {
            key: {"source": "p06bs://fit_edge", "dtype": "number", "shape": []}
            for key in self._values
        }
        for key, unit in self._units.items():
            described[key]["units"] = unit
        return described
