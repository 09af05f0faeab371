"""Make a PyMca fit configuration from a list of elements and a beam energy."""

import re
from typing import Literal

from p06bs.callbacks._pymca import Background, Configuration, families, set_background

SYMBOLS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm
Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
"""
"""The elements that PyMca has data of."""

DENSITY = {"Si": 2.33, "Ge": 5.323}
"""g/cm³ of detector crystals."""

_GROUP = re.compile(r"([A-Z][a-z]?)(?:[-_ ](K|Ka|Kb|L|L1|L2|L3|M))?")


def split_group(group: str) -> tuple[str, str | None]:
    """Return element and family of ``"Fe"``, ``"Fe-K"`` or ``"Pb_L3"`` (None: all families).

    Raises
    ------
    ValueError
        If this names no element or no family of lines.
    """
    match = _GROUP.fullmatch(group)
    if match is None or match[1] not in SYMBOLS.split():
        raise ValueError(
            f"{group!r} is no element ('Fe') and no family of its lines "
            "('Fe-K', with K, Ka, Kb, L, L1, L2, L3 or M)"
        )
    return match[1], match[2]


def configuration(
    groups: tuple[str, ...],
    *,
    energy: float,
    energy_range: tuple[float, float],
    background: Background,
    polynomial_order: int,
    noise: float,
    fano: float,
    crystal: Literal["Si", "Ge"],
    crystal_thickness: float,
    window_thickness: float,
    air_path: float,
    escape: bool,
    scatter: bool,
    scattering_angle: float,
    angles: tuple[float, float],
) -> Configuration:
    """Return a configuration for a thin sample; energies in keV, thicknesses in µm, air in mm.

    The sample itself does not absorb. Element families without explicit mention
    are those whose strongest line is excited and lies in `energy_range`, not at its ends: what
    is cut off there is hardly told from the continuum.

    Raises
    ------
    ValueError
        If an element has no excited line in the range.
    """
    peaks: dict[str, list[str]] = {}
    for group in groups:
        element, family = split_group(group)
        found = families(element, energy, *energy_range, family, margin=noise)
        listed = peaks.setdefault(element, [])
        listed += [f for f in found if f not in listed]
        double = [f for f in listed if f != f[0] and f[0] in listed]
        if double:
            raise ValueError(
                f"elements: {element}-{double[0]} is a part of {element}-{double[0][0]}; "
                "name one of them"
            )
    made: Configuration = {
        "attenuators": {
            "Matrix": [0, "-", 0.0, 0.0, *angles, 1, scattering_angle],
            "atmosphere": [int(air_path > 0), "Air", 0.00120479, 0.1 * air_path, 1.0],
            "window": [1, "Be1", 1.848, 1e-4 * window_thickness, 1.0],
            "Detector": [1, f"{crystal}1", DENSITY[crystal], 1e-4 * crystal_thickness, 1.0],
        },
        "peaks": peaks,
        "fit": {
            "energy": [energy],
            "energyweight": [1.0],
            "energyflag": [1],
            "energyscatter": [1],
            "scatterflag": int(scatter),
            "escapeflag": int(escape),
            "sumflag": 0,
            "hypermetflag": 1,
            "fitfunction": 0,
            "deltaonepeak": 0.010,
            "linpolorder": polynomial_order,
            "snipwidth": 30,
            "stripfilterwidth": 1,
            "stripanchorsflag": 0,
            "use_limit": 1,
            "maxiter": 10,
            "xmin": 0,
            "xmax": 0,
        },
        "detector": {
            "detele": crystal,
            "noise": noise,
            "fano": fano,
            "sum": 0.0,
            "zero": 0.0,
            "gain": 0.01,
            "deltazero": 0.1,
            "deltagain": 0.001,
            "deltanoise": 0.05,
            "deltafano": 0.114,
            "deltasum": 1e-8,
        }
        | {f"fixed{name}": 0 for name in ("zero", "gain", "noise", "fano", "sum")},
    }
    set_background(made, background)
    return made
