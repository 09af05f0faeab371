"""Units of measurement: what a data key says, converted to what an input wants."""

from functools import cache
from typing import Any

ALIASES = {
    **dict.fromkeys(("cts", "ct", "counts"), "count"),
    **dict.fromkeys(("cps", "cts/s", "ct/s", "counts/s"), "count/s"),  # ct is carat elsewhere
    "": None,
}


def canonical(unit: str | None) -> str | None:
    """Return a unit under the name that is compared; None if nothing is said."""
    return ALIASES.get(unit, unit) if unit is not None else None


@cache
def unit_scale(have: str | None, want: str | None) -> float | None:
    """Return the factor from unit `have` to unit `want`; None if there is none.

    A side that says no unit is taken to be right.
    """
    have, want = canonical(have), canonical(want)
    if have is None or want is None or have == want:
        return 1.0
    import pint

    registry: Any = pint.application_registry
    try:
        nothing, one = (registry.Quantity(x, have).to(want).magnitude for x in (0.0, 1.0))
    except Exception:  # units are free text, and pint's parser fails on it in a dozen ways
        return None
    return float(one) if nothing == 0 else None  # of no use: an offset (degC) or a logarithm
