"""How well maps show the phantom, and how well they can."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from p06bs.model.maps import grid_map
from p06bs.plans.maps import grid
from p06bs.services._heatmap import Map
from p06bs.sim import spectra
from p06bs.sim.beamline import Beamline
from p06bs.sim.phantom import DEFAULT_RANGE, expected_maps
from p06bs.sim.trajectory import Trajectory

Floats = npt.NDArray[np.float64]

CORRELATION = 0.99
"""Least correlation of an element's map with the phantom, unless noise allows less."""
STANDARD_ERRORS = 4.0
"""How far a correlation may fall below what noise allows, by Fisher's z transformation."""
ROWS = 128
"""Points whose spectra are in memory at once."""


@dataclass(frozen=True)
class Likeness:
    """Correlation of a map with the phantom: measured, and expected of a right measurement."""

    measured: float
    expected: float
    points: int

    @property
    def good(self) -> bool:
        """Whether the map shows the phantom as well as it can."""
        z, expected = np.arctanh(np.clip([self.measured, self.expected], -1 + 1e-12, 1 - 1e-12))
        allowed = STANDARD_ERRORS / np.sqrt(max(self.points - 3, 1))
        return self.measured >= CORRELATION or bool(z >= expected - allowed)


def _regions() -> dict[str, tuple[int, int]]:
    """Return those of the measured spectra."""
    return {line: (int(low), int(high) + 1) for line, (low, high) in spectra.regions().items()}


@dataclass(frozen=True)
class Truth:
    """What a simulated map of ``ny`` by ``nx`` points should show.

    Parameters
    ----------
    beamline : Beamline
    nx, ny : int
    rate : float
        Points per second.
    regions : mapping of str to (int, int)
        Line -> channels (start, stop) that `RegionSums` adds up.
    """

    beamline: Beamline
    nx: int
    ny: int
    rate: float
    regions: Mapping[str, tuple[int, int]] = field(default_factory=_regions)

    @cached_property
    def maps(self) -> dict[str, Map]:
        """The phantom's weights by spectrum, at the nominal points."""
        return expected_maps(self.beamline.phantom, self.nx, self.ny)

    def likeness(self, name: str, file: Path) -> dict[str, Likeness]:
        """Return line -> likeness of its map in the NeXus file of a derived run by `name`."""
        found: dict[str, Likeness] = {}
        with h5py.File(file) as opened:
            maps = opened.get("entry/maps", {})
            for line in spectra.regions():
                weights = self.maps.get(spectra.spectrum_of(line))
                if line not in maps or weights is None or np.ptp(weights) == 0:
                    continue
                measured = maps[line][()]
                errors = maps.get(f"{line}_errors")
                # Sums of regions are counts per second of live time: Poisson.
                signals, live_time = self._in_spectra
                noise = measured / live_time if errors is None else errors[()] ** 2
                if np.ptp(measured) > 0:
                    key = line if name == "region_sums" else f"{name}:{line}"
                    peak = self._in_peaks.get(line) if name == "xrf" else None
                    arrived = signals[line] if peak is None else peak
                    found[key] = self._compare(arrived, measured, noise, weights)
        return found

    def _compare(self, arrived: Floats, measured: Map, noise: Map, weights: Map) -> Likeness:
        """Compare a map with the weights, and with a map of what arrived, without noise."""
        numbers, shape = np.arange(arrived.size) + 1, (self.ny, self.nx)
        seen = grid_map(arrived, numbers, shape, snaking=True)
        signal = max(0.0, 1 - float(np.nanmean(noise)) / float(np.nanvar(measured)))
        expected = _correlation(seen, weights) * float(np.sqrt(signal))
        return Likeness(_correlation(measured, weights), expected, weights.size)

    @cached_property
    def path(self) -> Trajectory:
        """Where the sample was, point by point."""
        points = grid(DEFAULT_RANGE, self.nx, DEFAULT_RANGE, self.ny, rate=self.rate)
        return Trajectory(self.beamline, points)

    @cached_property
    def _in_spectra(self) -> tuple[dict[str, Floats], float]:
        """Line -> mean counts that arrive in its region, whosever they are, point by point.

        And how many seconds of a point detector elements are live, on the average.
        """
        found: dict[str, Floats] = {line: np.zeros(len(self.path)) for line in self.regions}
        dead_time, gate_time = np.asarray(self.beamline.emission.dead_time), self.path.gate_time
        live = 0.0
        for first in range(0, len(self.path), ROWS):
            triggers = range(len(self.path))[first : first + ROWS]
            arriving = self.beamline.expected(**self.path.seen(triggers))
            rates = arriving.sum(axis=2) / gate_time
            live += gate_time * float((1 / (1 + rates * dead_time)).mean(axis=1).sum())
            total = arriving.sum(axis=1)
            for line, (start, stop) in self.regions.items():
                found[line][first : first + ROWS] = total[:, start:stop].sum(axis=1)
        return found, live / len(self.path)

    @cached_property
    def _in_peaks(self) -> dict[str, Floats]:
        """Line -> mean counts that arrive in its peaks; {} where spectra are measured ones."""
        arriving = self.beamline.line_counts(**self.path.seen(range(len(self.path))))
        return {line: counts.sum(axis=1) for line, counts in arriving.items()}


def _correlation(measured: Map, weights: Map) -> float:
    """Return the correlation where both are numbers; 0 if one of them does not vary."""
    good = np.isfinite(measured)
    if good.sum() < 2:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = float(np.corrcoef(measured[good], weights[good])[0, 1])
    return found if np.isfinite(found) else 0.0
