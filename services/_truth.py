"""How well maps show the phantom, and how well they can."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from p06bs.model.maps import grid_map
from p06bs.plans.maps import grid
from p06bs.services._heatmap import Map
from p06bs.sim import spectra
from p06bs.sim.beamline import Beamline
from p06bs.sim.phantom import DEFAULT_RANGE, expected_maps
from p06bs.sim.trajectory import Trajectory

CORRELATION = 0.99
"""Least correlation of an element's map with the phantom, unless noise allows less."""
STANDARD_ERRORS = 4.0
"""How far a correlation may fall below what noise allows, by Fisher's z transformation."""


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


@dataclass(frozen=True)
class Truth:
    """What a simulated map of ``ny`` by ``nx`` points should show.

    Parameters
    ----------
    beamline : Beamline
    nx, ny : int
    rate : float
        Points per second.
    """

    beamline: Beamline
    nx: int
    ny: int
    rate: float

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
                spectrum = spectra.spectrum_of(line)
                weights = self.maps.get(spectrum)
                if name == "xrf" and spectrum != "XRFSpectrum":
                    continue  # its fit begins above the steel's lines
                if line not in maps or weights is None or np.ptp(weights) == 0:
                    continue
                measured = maps[line][()]
                errors = maps.get(f"{line}_errors")
                # Sums of regions are counts per second: Poisson, gate time 1/rate.
                noise = measured * self.rate if errors is None else errors[()] ** 2
                if np.ptp(measured) > 0:
                    key = line if name == "region_sums" else f"{name}:{line}"
                    found[key] = self._compare(line, measured, noise, weights)
        return found

    def _compare(self, line: str, measured: Map, noise: Map, weights: Map) -> Likeness:
        signal = max(0.0, 1 - float(np.nanmean(noise)) / float(np.nanvar(measured)))
        expected = _correlation(self._seen(line), weights) * float(np.sqrt(signal))
        return Likeness(_correlation(measured, weights), expected, weights.size)

    def _seen(self, line: str) -> Map:
        """Return a line's signal without noise, at the points where the stage really is."""
        first, last = spectra.regions()[line]
        weights, current = self._visited
        signal = current * sum(
            w * spectra.measured(name)[int(first) : int(last) + 1].sum()
            for name, w in weights.items()
        )
        return grid_map(signal, np.arange(signal.size) + 1, (self.ny, self.nx), snaking=True)

    @cached_property
    def _visited(self) -> tuple[dict[str, Map], Map]:
        """Weights and ring current, point by point."""
        points = grid(DEFAULT_RANGE, self.nx, DEFAULT_RANGE, self.ny, rate=self.rate)
        current = self.beamline.current(range(len(points)), points.gate_time)
        at = Trajectory(self.beamline, points).exposed()
        return self.beamline.phantom.weights(at["x"], at["y"]), current


def _correlation(measured: Map, weights: Map) -> float:
    """Return the correlation where both are numbers; 0 if one of them does not vary."""
    good = np.isfinite(measured)
    if good.sum() < 2:
        return 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        found = float(np.corrcoef(measured[good], weights[good])[0, 1])
    return found if np.isfinite(found) else 0.0
