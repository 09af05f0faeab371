"""Fluorescence spectra computed from element maps by the tables of xraydb.

Line energies, intensities, yields, jumps and cross-sections are W. T. Elam's (Elam,
Ravel and Sieber, Radiat. Phys. Chem. 63 (2002) 121): not those of PyMca, which fits
the spectra. Left out are absorption in the sample, secondary fluorescence,
Coster-Kronig transitions, and pile-up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from p06bs.sim.phantom import Phantom
from p06bs.sim.spectra import CHANNELS
from p06bs.sim.tables import attenuation, import_xraydb

Floats = npt.NDArray[np.float64]

FWHM = 2.354820045
"""Full width at half maximum of a normal distribution over its standard deviation."""

PAIR_ENERGY = 3.66e-3
"""Energy per electron-hole pair in silicon, keV."""

SILICON_LINE = 1.740
"""Energy of Kα of silicon, which escapes from the detector, keV."""

ELECTRON_MASS = 510.99895
"""Rest energy of the electron, keV."""

AIR: Mapping[str, float] = {"N": 9100.0, "O": 2780.0, "Ar": 155.0}
"""What is in the beam beside the sample: 10 mm of air, ng/mm²."""


@dataclass(frozen=True)
class Line:
    """A fluorescence line: its group (``Fe_K``), energy (keV) and cross-section (cm²/g)."""

    group: str
    energy: float
    cross_section: float


@cache
def fluorescence_lines(element: str, energy: float) -> tuple[Line, ...]:
    """Return the lines of an element excited at `energy` (keV), those below 0.5 keV left out.

    Of the photoelectric absorption, each shell takes ``1 - 1/J`` of what the shells
    above have left, J being its jump ratio. L lines are in one group per subshell
    (``Pb_L3``), M lines in one.
    """
    xraydb = import_xraydb()
    left = float(xraydb.mu_elam(element, energy * 1e3, kind="photo"))
    shells = sorted(xraydb.xray_edges(element).items(), key=lambda item: -item[1].energy)
    found = []
    for shell, edge in shells:
        if edge.energy >= energy * 1e3 or edge.energy < 500:
            continue
        vacancies, left = left * (1 - 1 / edge.jump_ratio), left / edge.jump_ratio
        group = f"{element}_{shell if shell.startswith('L') else shell[0]}"
        found += [
            Line(group, line.energy / 1e3, vacancies * edge.fyield * line.intensity)
            for line in xraydb.xray_lines(element, shell).values()
        ]
    return tuple(line for line in found if line.energy > 0.5 and line.cross_section > 0)


@cache
def escape(energy: float) -> float:
    """Return the fraction of photons of `energy` (keV) in silicon whose Kα leaves at the front.

    S. J. B. Reed and N. G. Ware, J. Phys. E 5 (1972) 582.
    """
    edge = import_xraydb().xray_edges("Si")["K"]
    if energy * 1e3 <= edge.energy:
        return 0.0
    ratio = attenuation("Si", SILICON_LINE) / attenuation("Si", energy)
    return float(
        0.5 * edge.fyield * (1 - 1 / edge.jump_ratio) * (1 - ratio * np.log(1 + 1 / ratio))
    )


@dataclass(frozen=True)
class Lines:
    """Computed lines, seen by silicon drift detectors that differ from each other.

    Parameters
    ----------
    flux : float
        Photons/s on the sample at full ring current.
    solid_angle : tuple of float
        Of each detector element, as a fraction of 4π.
    gain, zero : tuple of float
        keV per channel, and keV of the middle of channel 0, of each detector element.
    noise : tuple of float
        Electronic noise of each detector element, FWHM, keV.
    dead_time : tuple of float
        Of each detector element per pulse, s.
    gain_drift : float or tuple of float
        Relative change of the gain per second of beam time, of all or each element.
    fano : float
        Fano factor of silicon.
    window, thickness : float
        Thickness of the beryllium window and of the silicon, cm.

    Raises
    ------
    ValueError
        If not all tuples have as many numbers.
    """

    flux: float = 1e10
    solid_angle: tuple[float, ...] = (0.010, 0.0085, 0.011, 0.0095)
    gain: tuple[float, ...] = (0.005, 0.00503, 0.00498, 0.00501)
    zero: tuple[float, ...] = (0.0, 0.012, -0.008, 0.004)
    noise: tuple[float, ...] = (0.075, 0.082, 0.078, 0.090)
    dead_time: tuple[float, ...] = (1.05e-7, 1.2e-7, 0.9e-7, 1.05e-7)
    gain_drift: float | tuple[float, ...] = 0.0
    fano: float = 0.115
    window: float = 0.0008
    thickness: float = 0.045

    def __post_init__(self) -> None:
        parts = (self.solid_angle, self.gain, self.zero, self.noise, self.dead_time)
        if not self.dead_time or len({len(part) for part in parts}) > 1:
            raise ValueError(
                "solid_angle, gain, zero, noise and dead_time must have a number per detector "
                f"element, not {', '.join(str(len(part)) for part in parts)}"
            )

    def amounts(
        self, phantom: Phantom, x: npt.ArrayLike, y: npt.ArrayLike, angle: npt.ArrayLike
    ) -> Floats:
        """Return ng/mm² of each element, and 1 for the air; see `Emission.amounts`."""
        densities = list(phantom.areal_density(x, y, angle).values())
        return np.stack([*densities, np.ones_like(densities[0])], axis=-1)

    def spectra(self, phantom: Phantom, energy: float) -> Floats:
        """Return the spectra of 1 ng/mm² of each element, and of the air.

        See `Emission.spectra`.
        """
        return np.stack(
            [
                np.stack([_seen(self, tuple(c.items()), k, energy) for c in _components(phantom)])
                for k in range(len(self.dead_time))
            ]
        )

    def peaks(self, phantom: Phantom, energy: float) -> Mapping[str, Floats]:
        """Return pulses/s in the full-energy peaks of 1 ng/mm²; see `Emission.peaks`."""
        components = _components(phantom)
        solid_angle = np.asarray(self.solid_angle)
        found: dict[str, Floats] = {}
        for column, component in enumerate(components):
            for element, density in component.items():
                for line in fluorescence_lines(element, energy):
                    rates = found.setdefault(
                        line.group, np.zeros((solid_angle.size, len(components)))
                    )
                    full = 1 - escape(line.energy)
                    rates[:, column] += (
                        solid_angle * density * self.rate(line.cross_section, line.energy) * full
                    )
        return found

    @property
    def calibration(self) -> list[tuple[float, float]]:
        """(keV of channel 0, keV per channel) of each detector element, as fits take it."""
        return list(zip(self.zero, self.gain, strict=True))

    def efficiency(self, energy: float) -> float:
        """Return the fraction of photons of `energy` (keV) at a detector that are counted."""
        passed = np.exp(-attenuation("Be", energy) * 1.848 * self.window)
        stopped = -np.expm1(-attenuation("Si", energy, "photo") * 2.329 * self.thickness)
        return float(passed * stopped)

    def rate(self, cross_section: float, energy: float) -> float:
        """Return pulses/s from 1 ng/mm², at a solid angle of 4π, from a cross-section in cm²/g."""
        return self.flux * cross_section * 1e-7 * self.efficiency(energy)

    def peak(self, k: int, energy: float, width: float) -> Floats:
        """Return a peak of area 1, integrated over each channel, shape ``(CHANNELS,)``."""
        fano = (FWHM**2) * self.fano * PAIR_ENERGY * energy
        sigma = np.sqrt(self.noise[k] ** 2 + fano + width**2) / FWHM
        # Beyond 8 sigma there is nothing.
        centre, reach = (energy - self.zero[k]) / self.gain[k], 8 * sigma / self.gain[k]
        first, stop = np.clip(
            np.rint([centre - reach, centre + reach + 1]).astype(int), 0, CHANNELS
        )
        edges = self.zero[k] + self.gain[k] * (np.arange(first, stop + 1) - 0.5)
        peak = np.zeros(CHANNELS)
        peak[first:stop] = np.diff(ndtr((edges - energy) / sigma))
        return peak


FAST = Lines(flux=4e11, dead_time=(2.625e-9, 3e-9, 2.25e-9, 2.625e-9))
"""For points of some ms: forty times the photons, and detector elements forty times as fast."""


@cache
def _seen(lines: Lines, densities: tuple[tuple[str, float], ...], k: int, energy: float) -> Floats:
    """Return what detector element `k` sees of elements, ng/mm² each, shape (CHANNELS,)."""
    # At 90° to the beam.
    compton = energy / (1 + energy / ELECTRON_MASS)
    spectrum = np.zeros(CHANNELS)
    for element, density in densities:
        seen = [
            (line.energy, line.cross_section, 0.0) for line in fluorescence_lines(element, energy)
        ]
        seen.append((energy, attenuation(element, energy, "coh"), 0.0))
        # The momenta of bound electrons widen Compton scatter.
        seen.append((compton, attenuation(element, energy, "incoh"), 0.18))
        for at, cross_section, width in seen:
            rate = density * lines.solid_angle[k] * lines.rate(cross_section, at)
            lost = escape(at)
            spectrum += rate * (1 - lost) * lines.peak(k, at, width)
            if lost:
                spectrum += rate * lost * lines.peak(k, at - SILICON_LINE, width)
    return spectrum


def _components(phantom: Phantom) -> list[Mapping[str, float]]:
    """Return what makes a component spectrum: elements, ng/mm² each."""
    return [*({element: 1.0} for element in phantom.elements), AIR]
