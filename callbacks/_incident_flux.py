"""The incident flux that results are divided by: is it summed over an event, or averaged?"""

from p06bs.model.modality import BoundInput, Input
from p06bs.model.units import unit_scale

SUMS = ("counts", "C", "J")
AVERAGES = ("counts/s", "A", "V", "W")
"""What monitors of the beam say, which is in proportion to photons per second: a counting rate, the
current of a diode or an ion chamber, and what an amplifier makes of it."""

INCIDENT_FLUX = Input(role="incident_flux", units=(*SUMS, *AVERAGES), optional=True)


def is_average(signal: BoundInput) -> bool:
    """Return whether a signal is an average over its event, as its unit says, and not a sum."""
    return signal.unit is not None and any(
        unit_scale(signal.unit, average) is not None for average in AVERAGES
    )


def per_flux(flux: BoundInput) -> str:
    """Return the unit of counts that are divided by an incident flux, times seconds if averaged."""
    return f"counts/({flux.unit}{'*s' if is_average(flux) else ''})"
