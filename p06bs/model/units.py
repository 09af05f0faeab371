"""Units of measurement: what a data key says, converted to what an input wants.

Units are free text. pint reads most; control systems spell some in ways of their own.
"""

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

ALIASES = {
    **dict.fromkeys(("cts", "ct", "counts"), "count"),
    **dict.fromkeys(("cps", "cts/s", "ct/s", "counts/s"), "count/s"),  # ct is carat elsewhere
    **dict.fromkeys(("", "none", "arb", "arb.", "arb. u.", "a.u."), None),
}

SPELLED = {
    **dict.fromkeys(("c", "degc", "degreec", "degreesc", "celsius", "degcelsius"), "degC"),
    **dict.fromkeys(("degreecelsius", "degreescelsius"), "degC"),
    **dict.fromkeys(("f", "degf", "degreesf", "fahrenheit", "degfahrenheit"), "degF"),
    **dict.fromkeys(("k", "kelvin", "degk", "degkelvin"), "kelvin"),
    **dict.fromkeys(("%rh", "rh%", "%r.h.", "rh", "percentrh", "pct", "pctrh"), "percent"),
    **dict.fromkeys(("hpa", "mbar", "mbara", "mb", "millibar"), "hPa"),
    **dict.fromkeys(("kpa", "kpaa"), "kPa"),
    **dict.fromkeys(("pascal", "paabs"), "Pa"),
    **dict.fromkeys(("torr", "mmhg"), "torr"),
    **dict.fromkeys(("mtorr", "millitorr"), "millitorr"),
    **dict.fromkeys(("psi", "psia"), "psi"),
    "inhg": "inHg",
    **dict.fromkeys(("bar", "bara"), "bar"),
}
"""What a unit may be called in lower case, without blanks, ``_`` and signs of degrees.

It counts only where the unit as it stands cannot be converted: C is coulomb elsewhere.
"""

COUNTS = re.compile(r"\b(cts?|cnts?|counts?|ph|photons?)\b")


@dataclass(frozen=True)
class Conversion:
    """How numbers in one unit become those in another: ``factor · number + offset``."""

    factor: float
    offset: float = 0.0


SAME = Conversion(1.0)


def canonical(unit: str | None) -> str | None:
    """Return a unit under the name that is compared; None if nothing is said."""
    return ALIASES.get(unit, unit) if unit is not None else None


@cache
def conversion(have: str | None, want: str | None) -> Conversion | None:
    """Return how numbers in unit `have` become those in unit `want`; None if they cannot.

    A side that says no unit is taken to be right.
    """
    have, want = canonical(have), canonical(want)
    if have is None or want is None or have == want:
        return SAME
    for spelled in (have, SPELLED.get(_folded(have)), COUNTS.sub("count", have.lower())):
        found = None if spelled is None else _by_pint(spelled, want)
        if found is not None:
            return found
    return None


def unit_scale(have: str | None, want: str | None) -> float | None:
    """Return the factor from unit `have` to unit `want`; None if there is none, or no factor does.

    A side that says no unit is taken to be right.
    """
    found = conversion(have, want)
    return None if found is None or found.offset else found.factor


def _folded(unit: str) -> str:
    """Return a unit as `SPELLED` has it."""
    for sign in ("℃", "°C", "ºC"):
        unit = unit.replace(sign, "degC")
    return re.sub(r"[\s_°º]", "", unit).lower()


def _by_pint(have: str, want: str) -> Conversion | None:
    import pint

    registry: Any = pint.application_registry
    try:
        zero, one, two = (
            float(registry.Quantity(x, have).to(want).magnitude) for x in (0.0, 1.0, 2.0)
        )
    except Exception:  # units are free text, and pint's parser fails on it in a dozen ways
        return None
    if not math.isclose(two - one, one - zero, rel_tol=1e-9):
        return None  # a logarithm
    return Conversion(one) if zero == 0 else Conversion(one - zero, zero)
