"""Refractive index of air, by which interferometers and spectrometers measure lengths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from p06bs.model.modality import Bound, Input, ModalitySettings

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Quantity:
    """What air has: values that it may have, which it has if nobody says, and their unit."""

    lowest: float
    highest: float
    usual: float
    unit: str

    def plausible(self, values: Any) -> Any:
        """Return which values air may have."""
        return (values >= self.lowest) & (values <= self.highest)


TEMPERATURE = Quantity(-40, 100, 20, "degC")
PRESSURE = Quantity(0, 1200, 1013.25, "hPa")
HUMIDITY = Quantity(0, 100, 50, "%")

THERMOMETER = "air_temperature"
AIR = {THERMOMETER: TEMPERATURE, "air_pressure": PRESSURE, "air_humidity": HUMIDITY}
"""Input, which is its role, too -> what it measures."""

NO_AIR = {name: 4 << i for i, name in enumerate(AIR)}
"""Input -> bit of the flag: it reads what no air has."""

# Temperatures have an offset between their units, which `air_of` sees to.
AIR_INPUTS = {
    name: Input(
        role=name,
        unit=None if name == THERMOMETER else quantity.unit,
        optional=True,
        constant=True,
    )
    for name, quantity in AIR.items()
}


class AirSettings(ModalitySettings):
    """The air where no input says it, and the light."""

    wavelength: float = Field(1550.0, ge=300, le=1700, description="nm, of the laser in vacuum")
    temperature: float | None = Field(
        None, ge=TEMPERATURE.lowest, le=TEMPERATURE.highest, description="°C"
    )
    pressure: float | None = Field(
        None, ge=PRESSURE.lowest, le=PRESSURE.highest, description="hPa; 0 in vacuum"
    )
    humidity: float | None = Field(
        None, ge=HUMIDITY.lowest, le=HUMIDITY.highest, description="%, relative"
    )


@dataclass(frozen=True)
class Air:
    """The air of a run: constants by input, which columns override.

    `index` is the refractive index of the constants.
    """

    wavelength: float
    constants: Mapping[str, float]
    index: float
    thermometer: tuple[float, float]  # offset and factor to °C

    def indices(self, columns: Mapping[str, Array | None]) -> tuple[Floats | None, Array | None]:
        """Return the refractive index per event, and flags (`NO_AIR`).

        There is no index if no column is about the air. It is NaN where a sensor reads what no
        air has; flags are None if none does.
        """
        given = {name: column for name in AIR if (column := columns[name]) is not None}
        if not given:
            return None, None
        # Sensors are slow: most events have the air of the event before.
        count = len(next(iter(given.values())))
        anew = np.zeros(count, bool)
        anew[:1] = True
        for column in given.values():
            anew[1:] |= column[1:] != column[:-1]
        begins = np.flatnonzero(anew)
        air: dict[str, Any] = dict(self.constants)
        flag = np.zeros(len(begins), np.uint8)
        for name, column in given.items():
            air[name] = self._read(name, column[begins])
            flag |= ~AIR[name].plausible(air[name]) * np.uint8(NO_AIR[name])
        index = 1 + refractivity(self.wavelength, *air.values())
        poor = np.count_nonzero(flag) > 0
        if poor:
            index[flag > 0] = np.nan
        if len(begins) == 1:
            return np.full(count, index[0]), np.full(count, flag[0]) if poor else None
        times = np.diff(begins, append=count)
        return np.repeat(index, times), np.repeat(flag, times) if poor else None

    def _read(self, name: str, values: Array) -> Floats:
        offset, factor = self.thermometer if name == THERMOMETER else (0.0, 1.0)
        return offset + factor * values.astype(np.float64)


def air_of(settings: AirSettings, bound: Bound) -> Air:
    """Return the air of a run: of settings, else of a device's configuration, else usual air.

    Raises
    ------
    ValueError
        If the temperature has a unit that is none.
    """
    constants = {name: _constant(name, settings, bound) for name in AIR}
    thermometer = bound.get(THERMOMETER)
    return Air(
        wavelength=settings.wavelength,
        constants=constants,
        index=1 + float(refractivity(settings.wavelength, *constants.values())),
        thermometer=_to_celsius(thermometer.unit if thermometer else None),
    )


def _constant(name: str, settings: AirSettings, bound: Bound) -> float:
    said: float | None = getattr(settings, name.removeprefix("air_"))
    if said is not None:
        return said
    for source in bound.values():
        for key, value in source.configuration.items():
            if key.endswith(name) and isinstance(value, int | float) and AIR[name].plausible(value):
                return float(value)
    return AIR[name].usual


def _to_celsius(unit: str | None) -> tuple[float, float]:
    """Return offset and factor from a unit of temperature to °C."""
    if unit in (None, "degC"):
        return 0.0, 1.0
    import pint

    registry: Any = pint.application_registry
    try:
        zero, one = (float(registry.Quantity(x, unit).to("degC").magnitude) for x in (0.0, 1.0))
    except Exception:  # units are free text, and pint's parser fails on it in a dozen ways
        raise ValueError(f"{THERMOMETER}: {unit!r} is no unit of temperature") from None
    return zero, one - zero


def refractivity(wavelength: float, temperature: Any, pressure: Any, humidity: Any) -> Floats:
    """Return n - 1 by the modified Edlén equation.

    K. P. Birch and M. J. Downs, Metrologia 30 (1993) 155 and 31 (1994) 315.

    Parameters
    ----------
    wavelength : float
        In vacuum, nm.
    temperature, pressure, humidity : array_like
        °C, hPa and %, of shapes that broadcast.
    """
    wave = (1e3 / wavelength) ** 2  # square of the wave number, 1/µm²
    t, p = np.asarray(temperature, np.float64), 100 * np.asarray(pressure, np.float64)
    standard = 1e-8 * (8342.54 + 2406147 / (130 - wave) + 15998 / (38.9 - wave))
    dry = p * standard / 96095.43 * (1 + 1e-8 * (0.601 - 0.00972 * t) * p) / (1 + 0.003661 * t)
    vapour = np.asarray(humidity, np.float64) / 100 * saturation(t)
    made: Floats = dry - vapour * (3.7345 - 0.0401 * wave) * 1e-10
    return made


def saturation(temperature: Any) -> Floats:
    """Return the saturation pressure of water vapour over water, Pa; `temperature` in °C.

    R. S. Davis, Metrologia 29 (1992) 67.
    """
    kelvin = np.asarray(temperature, np.float64) + 273.15
    exponent = 1.2378847e-5 * kelvin**2 - 1.9121316e-2 * kelvin + 33.93711047
    made: Floats = np.exp(exponent - 6.3431645e3 / kelvin)
    return made
