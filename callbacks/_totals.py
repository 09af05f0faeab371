"""From the areas of detector elements to what is published: sums, I0, ng/mm², detection limits."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans, Floats
from p06bs.callbacks._standard import UNIT
from p06bs.model.modality import Output

COVERAGE = 3.0
"""Detection limit over the standard deviation of a blank (IUPAC)."""


@dataclass(frozen=True)
class Areas:
    """What was fitted to each detector element in each event, all (events, elements, peaks).

    `blank` is the variance that an area has where nothing of its element is there.
    """

    areas: Floats
    variance: Floats
    blank: Floats

    @classmethod
    def zeros(cls, *shape: int) -> "Areas":
        """Return areas to be filled in."""
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape))


@dataclass(frozen=True)
class Totals:
    """How the areas of detector elements become those of the detector.

    Parameters
    ----------
    columns : tuple of str
        Names of the peak groups' columns.
    elements : ndarray, shape (elements,)
        Relative sensitivities of the detector elements.
    unit : str
        Of areas.
    normalise : bool
        Whether areas are divided by the incident flux.
    limits : bool
        Whether there are columns of detection limits.
    density : mapping of str to float
        Column -> area per incident flux of 1 ng/mm²; empty without a standard.
    """

    columns: tuple[str, ...]
    elements: Floats
    unit: str
    normalise: bool
    limits: bool
    density: Mapping[str, float]

    @property
    def need_flux(self) -> bool:
        """Whether results are divided by the incident flux."""
        return self.normalise or bool(self.density)

    def outputs(self) -> dict[str, Output]:
        """Return the columns that `__call__` makes."""
        atol = 1e-12 if self.normalise else 1e-6
        made: dict[str, Output] = {}
        for column in self.columns:
            shown = not column.startswith("Scatter")
            made |= self._declare(column, self.unit, atol, "area", shown=shown)
        for column in self.density:
            made |= self._declare(f"{column}_density", UNIT, 1e-9, "areal mass density", shown=True)
        return made

    def _declare(
        self, name: str, unit: str, atol: float, what: str, *, shown: bool
    ) -> dict[str, Output]:
        """Return value, sigma and detection limit as outputs under their names."""
        made = {
            name: Output(unit=unit, atol=atol, hinted=shown, description=what),
            f"{name}_sigma": Output(
                unit=unit, atol=atol, hinted=False, description="standard deviation"
            ),
        }
        if self.limits:
            made[f"{name}_limit"] = Output(
                unit=unit, atol=atol, hinted=False, description="detection limit, 3 sigma"
            )
        return made

    def scale(self, usable: Booleans) -> Floats:
        """Return the sensitivity of all elements over that of the usable ones, (events,)."""
        with np.errstate(all="ignore"):  # where no element is usable there is no result
            scale: Floats = self.elements.sum() / (usable @ self.elements)
        return scale

    def weights(self, usable: Booleans, factor: Floats) -> Floats:
        """Return what areas are multiplied with, (events, elements), from dead-time factors."""
        with np.errstate(all="ignore"):  # what cannot be used has no weight
            return np.where(usable, factor * self.scale(usable)[:, None], 0)

    def __call__(self, fitted: Areas, weights: Floats, flux: Floats | None) -> dict[str, Array]:
        """Return the columns, each (events,).

        Parameters
        ----------
        fitted : Areas
        weights : ndarray, shape (events, elements)
        flux : ndarray, shape (events, elements), optional
            Incident flux that each element saw, where results are divided by it.
        """
        with np.errstate(all="ignore"):  # without flux the event is invalid
            per_flux = weights if flux is None else np.where(weights > 0, weights / flux, 0)
        made: dict[str, Array] = {}
        summed = _sum(fitted, per_flux if self.normalise else weights)
        for k, column in enumerate(self.columns):
            made |= self._columns(column, [values[:, k] for values in summed])
        if self.density:
            summed = summed if self.normalise else _sum(fitted, per_flux)
        for column, sensitivity in self.density.items():
            k = self.columns.index(column)
            values = [values[:, k] / sensitivity for values in summed]
            made |= self._columns(f"{column}_density", values)
        return made

    def _columns(self, name: str, values: list[Floats]) -> dict[str, Array]:
        """Return value, sigma and detection limit under their names."""
        names = (name, f"{name}_sigma", *((f"{name}_limit",) if self.limits else ()))
        return dict(zip(names, values, strict=False))


def _sum(fitted: Areas, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Return areas, sigmas and limits, (events, peaks); weights are (events, elements)."""
    area = np.einsum("nep,ne->np", fitted.areas, weights)
    variance = np.einsum("nep,ne->np", fitted.variance, weights**2)
    blank = np.einsum("nep,ne->np", fitted.blank, weights**2)
    return area, np.sqrt(variance), COVERAGE * np.sqrt(blank)
