"""Whether derived runs are as near to the simulation's truth as their techniques can be."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import OptimizeWarning, curve_fit

from p06bs.model.documents import NamedDocument
from p06bs.sim.beamline import DARK_RATE
from p06bs.sim.crystals import CRYSTALS
from p06bs.sim.diffraction import PowderRings
from p06bs.sim.metrology import AXES, WORD
from p06bs.sim.trajectory import Trajectory

Floats = npt.NDArray[np.float64]
Columns = Mapping[str, npt.NDArray[Any]]

STANDARD_ERRORS = 4.0
"""How far beyond its limits a number may lie by chance."""
SLOPE = 0.02
"""Of areas over those that arrive from the sample, away from 1, for isolated lines."""
ISOLATED = ("Cr_K", "Fe_K", "Cu_K", "Zn_K", "Se_K", "Sr_K")
GAP = 10.0
"""Most rms of positions in gaps of the interferometer, nm, at `GAP_RATE` points/s or more."""
GAP_RATE = 50.0
RING = 2e-4
"""Of a ring's q, relative."""
APART = 5.0
"""Widths (FWHM) from an isolated ring to the next one."""


@dataclass(frozen=True)
class Measured:
    """A number of a derived run, and between which ones it must lie."""

    value: float
    low: float
    high: float

    @property
    def good(self) -> bool:
        """Whether it does."""
        return self.low <= self.value <= self.high

    def plain(self) -> dict[str, float | None]:
        """Return what it is as JSON; a value that is not known is null."""
        return {**asdict(self), "value": self.value if isfinite(self.value) else None}

    def __str__(self) -> str:
        return f"{self.value:.4g}, not within {self.low:.4g} to {self.high:.4g}"


def measure(name: str, documents: Sequence[NamedDocument], path: Trajectory) -> dict[str, Measured]:
    """Return how near a derived run is to the truth; `name` is its modality's, one of `MEASURES`.

    Parameters
    ----------
    documents
        Of a derived run whose events are all points of `path`, once each, in its order.
    path : Trajectory
        Where the sample was, and what it was.
    """
    return dict(MEASURES[name](_columns(documents), _snapshot(documents), path))


def _columns(documents: Sequence[NamedDocument]) -> Columns:
    pages = [page for name, page in documents if name == "event_page"]
    return {
        key: np.concatenate([np.asarray(page["data"][key]) for page in pages])
        for key in pages[0]["data"]
    }


def _snapshot(documents: Sequence[NamedDocument]) -> Columns:
    """Return the last results of the whole run, {} if there are none."""
    events = [event for name, event in documents if name == "event"]
    return {key: np.asarray(value) for key, value in events[-1]["data"].items()} if events else {}


Measures = Iterator[tuple[str, Measured]]


def _counters(rows: Columns, _: Columns, path: Trajectory) -> Measures:
    diode = path.beamline.counter_rates(**path.seen(range(len(path))))[1]
    pulls = (rows["rate"][:, 0] - (diode - DARK_RATE)) / rows["rate_sigma"][:, 0]
    yield "rms of (rate - truth)/sigma", _rms(pulls, 1.0)


def _encoders(rows: Columns, _: Columns, path: Trajectory) -> Measures:
    metrology, captured = path.beamline.metrology, path.capture()
    for axis in AXES:
        words = captured[f"encoder_{axis}_sum"] / captured["gate_samples"]
        there = path.readback()[axis] / metrology.encoder_resolution
        counts = words - metrology.origin(axis)
        counts += WORD * np.rint((there - counts) / WORD)  # as far as it has really gone
        span = captured[f"encoder_{axis}_max"].astype(float) - captured[f"encoder_{axis}_min"]
        wrapped = span > WORD / 2  # the mean of such a gate is none
        errors = rows[axis] / metrology.encoder_resolution - counts
        worst = float(np.max(np.abs(errors[~wrapped]), initial=0.0))  # NaN where one is missing
        yield f"{axis}, largest error, counts", Measured(worst, 0.0, 1e-3)


def _interferometers(rows: Columns, _: Columns, path: Trajectory) -> Measures:
    metrology = path.beamline.metrology
    for axis in AXES:
        there = ~metrology.blocked(axis, range(len(path)))
        errors = rows[axis] - 1e3 * path.sample()[axis]
        yield f"{axis}, rms, nm", _rms(errors[there], 1e3 * metrology.interferometer_noise)
        said = int(np.isfinite(errors[~there]).sum())
        yield f"{axis}, positions without beam", Measured(said, 0, 0)


def _positions(rows: Columns, _: Columns, path: Trajectory) -> Measures:
    metrology = path.beamline.metrology
    limit = GAP * max(1.0, GAP_RATE / path.points.rate)
    for axis in AXES:
        lost = metrology.blocked(axis, range(len(path)))
        errors = 1e3 * (rows[axis] - path.sample()[axis])
        yield f"{axis}, rms, nm", _rms(errors[~lost], 1e3 * metrology.interferometer_noise)
        if lost.any():
            gap = float(np.sqrt(np.mean(errors[lost] ** 2)))
            yield f"{axis}, rms in gaps, nm", Measured(gap, 0.0, limit)


def _xrf(rows: Columns, _: Columns, path: Trajectory) -> Measures:
    arrived = path.beamline.line_counts(**path.seen(range(len(path))))
    for line in ISOLATED:
        if line not in arrived or line not in rows:
            continue
        truth, areas = arrived[line].sum(axis=1), rows[line]
        if np.ptp(truth) > 0 and len(truth) > 3:
            away = truth - truth.mean()
            slope = float(away @ areas / (away @ away))
            left = areas - areas.mean() - slope * away
            error = float(np.sqrt(left @ left / (len(left) - 2) / (away @ away)))
            yield f"{line}, slope", _about(slope, 1.0, SLOPE, error)


def _xrd(_: Columns, run: Columns, path: Trajectory) -> Measures:
    beamline = path.beamline
    seen = PowderRings(beamline.phantom, energy=beamline.energy, seed=beamline.seed)
    for name, q, width in _isolated(seen):
        place = _place(run["q"], run["mean_intensity"], run["mean_sigma"], q, width)
        if place is not None:
            error, uncertainty = place[0] / q - 1, place[1] / q
            yield f"{name}, q over truth - 1", _about(error, 0.0, RING, uncertainty)


MEASURES: Mapping[str, Callable[[Columns, Columns, Trajectory], Measures]] = {
    "counters": _counters,
    "encoders": _encoders,
    "interferometers": _interferometers,
    "positions": _positions,
    "xrf": _xrf,
    "xrd": _xrd,
}


def _rms(errors: Floats, expected: float) -> Measured:
    """Return the rms of errors, which must be as expected within a tenth and by chance."""
    value = float(np.sqrt(np.mean(errors**2))) if len(errors) else expected
    chance = expected / np.sqrt(2 * max(len(errors), 1))
    return _about(value, expected, 0.1 * expected, chance)


def _about(value: float, truth: float, limit: float, error: float) -> Measured:
    reach = limit + STANDARD_ERRORS * error
    return Measured(value, truth - reach, truth + reach)


def _isolated(seen: PowderRings) -> Iterator[tuple[str, float, float]]:
    """Yield name, q and width (FWHM), 1/nm, of the rings that lie alone."""
    wavelength = seen.wavelength / 10  # nm
    rings: dict[float, tuple[str, float]] = {}  # several reflections may have one q
    for layer, weights in seen.phantom.maps.items():
        crystal = seen.phantom.layers[layer].crystal
        if crystal is None or not np.any(weights):
            continue
        two_thetas = seen.ring_angles(crystal)
        for two_theta, ring in zip(two_thetas, CRYSTALS[crystal].reflections, strict=False):
            q = round(float(4 * np.pi / wavelength * np.sin(two_theta / 2)), 9)
            width = 2 * np.pi / wavelength * np.cos(two_theta / 2) * np.deg2rad(seen.width)
            rings[q] = f"{crystal} {''.join(map(str, ring.hkl))}", float(width)
    for q, (name, width) in rings.items():
        if all(abs(other - q) > APART * width for other in rings if other != q):
            yield name, q, width


def _peak(q: Floats, area: float, place: float, width: float, under: float, slope: float) -> Floats:
    shape: Floats = area * np.exp(-(((q - place) / width) ** 2) / 2) + under + slope * (q - q[0])
    return shape


def _place(
    q: Floats, intensity: Floats, sigma: Floats, near: float, width: float
) -> tuple[float, float] | None:
    """Return where a peak is, and its standard deviation; None where that is not known."""
    use = (np.abs(q - near) < 2.5 * width) & np.isfinite(intensity) & (sigma > 0)
    if use.sum() < 8 or q[0] > near - 2.5 * width or q[-1] < near + 2.5 * width:
        return None
    at, counts = q[use], intensity[use]
    start = [np.ptp(counts), near, width / 2, counts.min(), 0.0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OptimizeWarning)  # the covariance is infinite then
        try:
            fit, covariance = curve_fit(_peak, at, counts, start, sigma[use], absolute_sigma=True)
        except RuntimeError:  # no peak is to be seen among so few counts
            return None
    error = float(np.sqrt(covariance[1, 1]))
    return (float(fit[1]), error) if error < width / 10 else None
