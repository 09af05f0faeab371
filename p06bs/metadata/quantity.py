"""Numbers with units, from a closed list: 17.5, "17.5 keV" or {"value": 17500, "units": "eV"}."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from p06bs.model.units import unit_scale

Energies = Literal["eV", "keV", "GeV"]
Currents = Literal["uA", "mA", "A"]
Lengths = Literal["nm", "um", "mm", "m"]
Times = Literal["1/s", "ns", "us", "ms", "s"]
Others = Literal["mrad", "deg", "degC", "K", "hPa", "kPa", "%"]
Unit = Literal[Energies, Currents, Lengths, Times, Others]
"""All units that a start document uses, as data keys write them."""
UNITS: tuple[str, ...] = get_args(Unit)

SAME = {
    "ph/s": "1/s",
    "photons/s": "1/s",
    "Hz": "1/s",
    "\u00b5m": "um",
    "\u03bcm": "um",
    "\u00b5A": "uA",
}
"""Other spellings of units of the list."""


class Quantity(BaseModel):
    """A finite number with its unit; kept in the unit of the field that holds it.

    Raises
    ------
    ValidationError
        If the unit is not in the list, or measures something else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    value: float
    units: Unit = Field(description="what the value is in")

    own: ClassVar[Unit | None] = None
    """The unit of the field: what a bare number is in, and what others are converted to."""

    @model_validator(mode="before")
    @classmethod
    def _converted(cls, said: Any) -> Any:
        if isinstance(said, BaseModel):
            said = said.model_dump()
        if isinstance(said, str):
            number, _, units = said.strip().partition(" ")
            said = {"value": number, "units": units.strip() or cls.own}
        elif not isinstance(said, Mapping):
            said = {"value": said, "units": cls.own}
        units = said.get("units", cls.own)
        units = SAME.get(units, units) if isinstance(units, str) else ""
        if units not in UNITS:
            raise ValueError(
                f"unit {said.get('units')!r} is not known; known are {', '.join(UNITS)}"
            )
        value = said.get("value")
        if cls.own is None or units == cls.own:
            return {**said, "value": value, "units": units}
        scale = unit_scale(units, cls.own)
        if scale is None:
            raise ValueError(f"{units} is no unit of what is kept in {cls.own}")
        with suppress(TypeError, OverflowError):  # pydantic says that it is no such number
            value = float(value) * scale
        return {"value": value, "units": cls.own}


class Energy(Quantity):
    """Of photons, keV."""

    own = "keV"


class ElectronEnergy(Quantity):
    """Of stored electrons, GeV."""

    own = "GeV"


class Current(Quantity):
    """Stored in a ring, mA."""

    own = "mA"


class Flux(Quantity):
    """Photons per second."""

    own = "1/s"


class Length(Quantity):
    """µm."""

    own = "um"
