"""Crystals of the simulated powders: their reflections, from lattice and basis."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

Fractions = tuple[float, float, float]

FACE_CENTRED: tuple[Fractions, ...] = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))


@dataclass(frozen=True)
class Reflection:
    """A family of lattice planes: Miller indices, spacing (Å) and multiplicity times |F|²."""

    hkl: tuple[int, int, int]
    spacing: float
    strength: float


@dataclass(frozen=True)
class Cubic:
    """A cubic crystal.

    Parameters
    ----------
    edge : float
        Lattice parameter, Å.
    basis : tuple
        (number of electrons, fractional coordinates) of each atom in the cell; atoms
        scatter as points, with one thermal displacement for all.
    displacement : float
        Isotropic B, Å².
    """

    edge: float
    basis: tuple[tuple[float, Fractions], ...]
    displacement: float = 0.5

    @cached_property
    def reflections(self) -> tuple[Reflection, ...]:
        """All families with h² + k² + l² up to 64 that are not extinct, widest spacing first."""
        families: dict[tuple[int, ...], int] = {}
        for hkl in product(range(-8, 9), repeat=3):
            if 0 < sum(i * i for i in hkl) <= 64:
                family = tuple(sorted((abs(i) for i in hkl), reverse=True))
                families[family] = families.get(family, 0) + 1
        found = []
        for (h, k, l), multiplicity in families.items():  # noqa: E741  (their names)
            spacing = self.edge / np.sqrt(h * h + k * k + l * l)
            amplitude = sum(
                electrons * np.exp(2j * np.pi * (h * u + k * v + l * w))
                for electrons, (u, v, w) in self.basis
            )
            damped = abs(amplitude) ** 2 * np.exp(-self.displacement / (2 * spacing**2))
            if damped > 1e-6:
                strength = float(multiplicity * damped)
                found.append(Reflection((h, k, l), float(spacing), strength))
        return tuple(sorted(found, key=lambda r: -r.spacing))


def _shifted(electrons: float, at: Fractions) -> tuple[tuple[float, Fractions], ...]:
    """Return an atom at a place of each face-centred cell."""
    return tuple(
        (electrons, ((a + at[0]) % 1, (b + at[1]) % 1, (c + at[2]) % 1)) for a, b, c in FACE_CENTRED
    )


_BORON = 0.1997

CRYSTALS: Mapping[str, Cubic] = {
    # NIST SRM 660c; boron at (x, 1/2, 1/2).
    "LaB6": Cubic(
        4.156826,
        (
            (57, (0, 0, 0)),
            *((5, (x, 0.5, 0.5)) for x in (_BORON, 1 - _BORON)),
            *((5, (0.5, x, 0.5)) for x in (_BORON, 1 - _BORON)),
            *((5, (0.5, 0.5, x)) for x in (_BORON, 1 - _BORON)),
        ),
    ),
    # NIST SRM 674b.
    "CeO2": Cubic(
        5.411651,
        (
            *_shifted(58, (0, 0, 0)),
            *_shifted(8, (0.25, 0.25, 0.25)),
            *_shifted(8, (0.75, 0.75, 0.75)),
        ),
    ),
    "austenite": Cubic(3.5918, _shifted(26, (0, 0, 0))),
}
"""Name of a crystal, as layers have it -> the crystal."""
