"""What xraydb knows of elements, kept once it is looked up, and constants of nature."""

from functools import cache
from typing import Any

ELECTRON_RADIUS = 2.8179403e-13
"""Classical electron radius, cm."""

HC = 12398.4198
"""Planck's constant times the speed of light, eV Å."""

AVOGADRO = 6.02214076e23


@cache
def attenuation(element: str, energy: float, kind: str = "total") -> float:
    """Return a mass attenuation coefficient at `energy` (keV) by Elam, cm²/g.

    `kind` is total, photo, coh or incoh.
    """
    return float(import_xraydb().mu_elam(element, energy * 1e3, kind=kind))


@cache
def scattering(element: str, energy: float) -> tuple[float, float, float]:
    """Return f1, f2 (electrons, Chantler's, at keV) and the molar mass (g/mol) of an element."""
    xraydb = import_xraydb()
    ev = energy * 1e3
    f1 = xraydb.atomic_number(element) + float(xraydb.f1_chantler(element, ev))
    return f1, float(xraydb.f2_chantler(element, ev)), float(xraydb.atomic_mass(element))


def import_xraydb() -> Any:
    """Return the module `xraydb`.

    Raises
    ------
    RuntimeError
        If it is not installed.
    """
    try:
        import xraydb
    except ImportError as problem:
        raise RuntimeError(
            'the simulated beamline needs xraydb: pip install "p06bs[sim]"'
        ) from problem
    return xraydb
