"""The incident flux that results are divided by: is it counted per event or per second?"""

from p06bs.model.modality import BoundInput

RATES = ("/s", "/sec", "/second", "s^-1", "s**-1", "hz", "cps")


def i0_is_rate(i0: BoundInput) -> bool:
    """Return whether an incident flux is per second, as its unit says, and not per event."""
    return (i0.unit or "").replace(" ", "").lower().endswith(RATES)
