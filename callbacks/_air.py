"""Refractive index of air, by which interferometers and spectrometers measure lengths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from p06bs.callbacks._arrays import Array, Floats
from p06bs.model.modality import Bound, Input, ModalitySettings


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

VACUUM, THIN = 10.0, 500.0
"""hPa: the highest pressure of what is called a vacuum, and the lowest of what is called air.

Between the two is no beam of a beamline, but air whose pressure was said in kPa.
"""

AIR = {"air_temperature": TEMPERATURE, "air_pressure": PRESSURE, "air_humidity": HUMIDITY}
"""Input, which is its role, too -> what it measures."""

NO_AIR = {name: 4 << i for i, name in enumerate(AIR)}
"""Input -> bit of the flag: it reads what no air has."""

TOO_WET = 32
"""Bit of the flag: there would be more water vapour than pressure."""

AIR_INPUTS = {
    name: Input(role=name, unit=quantity.unit, optional=True, constant=True)
    for name, quantity in AIR.items()
}


def _is_likely(pressure: float) -> bool:
    return 0 <= pressure <= VACUUM or THIN <= pressure <= PRESSURE.highest


def _likely(pressure: float | None) -> float | None:
    if pressure is not None and not _is_likely(pressure):
        raise ValueError(
            f"{pressure:g} hPa is no vacuum (0 to {VACUUM:g} hPa) and no air ({THIN:g} to "
            f"{PRESSURE.highest:g} hPa); 1 kPa is 10 hPa"
        )
    return pressure


class AirSettings(ModalitySettings):
    """The air where no input says it, and the light."""

    wavelength: float = Field(1550.0, ge=300, le=1700, description="nm, of the laser in vacuum")
    temperature: float | None = Field(
        None, ge=TEMPERATURE.lowest, le=TEMPERATURE.highest, description="°C"
    )
    pressure: Annotated[float | None, AfterValidator(_likely)] = Field(
        None,
        ge=PRESSURE.lowest,
        le=PRESSURE.highest,
        description=f"hPa; 0 to {VACUUM:g} in vacuum, else from {THIN:g} on",
    )
    humidity: float | None = Field(
        None, ge=HUMIDITY.lowest, le=HUMIDITY.highest, description="%, relative"
    )


@dataclass(frozen=True)
class Air:
    """The air of a run: constants by input, which columns override.

    `index` is the refractive index of the constants, `is_dry_if_thin` whether the humidity is
    nobody's: there is none then below `THIN`.
    """

    wavelength: float
    constants: Mapping[str, float]
    index: float
    is_dry_if_thin: bool

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
            air[name] = column[begins].astype(np.float64)
            flag |= ~AIR[name].plausible(air[name]) * np.uint8(NO_AIR[name])
        if self.is_dry_if_thin:
            air["air_humidity"] = _usual_humidity(air["air_pressure"])
        flag |= (is_too_wet(*air.values()) & (flag == 0)) * np.uint8(TOO_WET)
        index = 1 + refractivity(self.wavelength, *air.values())
        poor = np.count_nonzero(flag) > 0
        if poor:
            index[flag > 0] = np.nan
        if len(begins) == 1:
            return np.full(count, index[0]), np.full(count, flag[0]) if poor else None
        times = np.diff(begins, append=count)
        return np.repeat(index, times), np.repeat(flag, times) if poor else None


def air_of(settings: AirSettings, bound: Bound) -> Air:
    """Return the air of a run: of settings, else of a device's configuration, else usual air.

    Raises
    ------
    ValueError
        If nothing measures the air, and there would be more water vapour than pressure.
    """
    said = {name: _constant(name, settings, bound) for name in AIR}
    constants = {n: AIR[n].usual if value is None else value for n, value in said.items()}
    is_dry_if_thin = said["air_humidity"] is None and "air_humidity" not in bound
    if is_dry_if_thin:
        constants["air_humidity"] = float(_usual_humidity(constants["air_pressure"]))
    temperature, pressure, humidity = constants.values()
    if AIR.keys().isdisjoint(bound) and is_too_wet(*constants.values()):
        raise ValueError(
            f"humidity: {humidity:g} % at {temperature:g} °C are {steam(temperature, humidity):.3g}"
            f" hPa of water vapour, more than the pressure of {pressure:g} hPa"
        )
    return Air(
        wavelength=settings.wavelength,
        constants=constants,
        index=1 + float(refractivity(settings.wavelength, *constants.values())),
        is_dry_if_thin=is_dry_if_thin,
    )


def _usual_humidity(pressure: Any) -> Any:
    return np.where(np.less(pressure, THIN), 0.0, HUMIDITY.usual)


def _constant(name: str, settings: AirSettings, bound: Bound) -> float | None:
    said: float | None = getattr(settings, name.removeprefix("air_"))
    if said is not None:
        return said
    for source in bound.values():
        for key, value in source.configuration.items():
            if (
                key.endswith(name)
                and isinstance(value, int | float)
                and AIR[name].plausible(value)
                and (name != "air_pressure" or _is_likely(value))
            ):
                return float(value)
    return None


def refractivity(wavelength: float, temperature: Any, pressure: Any, humidity: Any) -> Floats:
    """Return n - 1 by the modified Edlén equation.

    K. P. Birch and M. J. Downs, Metrologia 30 (1993) 155 and 31 (1994) 315.

    Parameters
    ----------
    wavelength : float
        In vacuum, nm.
    temperature, pressure, humidity : array_like
        °C, hPa and %, of shapes that broadcast. Nothing is humid where the pressure is 0.
    """
    wave = (1e3 / wavelength) ** 2  # square of the wave number, 1/µm²
    t, p = np.asarray(temperature, np.float64), 100 * np.asarray(pressure, np.float64)
    standard = 1e-8 * (8342.54 + 2406147 / (130 - wave) + 15998 / (38.9 - wave))
    dry = p * standard / 96095.43 * (1 + 1e-8 * (0.601 - 0.00972 * t) * p) / (1 + 0.003661 * t)
    vapour = np.where(p > 0, 100 * steam(t, humidity), 0)
    made: Floats = dry - vapour * (3.7345 - 0.0401 * wave) * 1e-10
    return made


def steam(temperature: Any, humidity: Any) -> Floats:
    """Return the partial pressure of water vapour, hPa, of a relative humidity in % at °C."""
    made: Floats = np.asarray(humidity, np.float64) / 100 * saturation(temperature) / 100
    return made


def is_too_wet(temperature: Any, pressure: Any, humidity: Any) -> Any:
    """Return where there would be more water vapour than pressure; vacuum has none."""
    return (np.asarray(pressure) > 0) & (steam(temperature, humidity) > pressure)


def saturation(temperature: Any) -> Floats:
    """Return the saturation pressure of water vapour over water, Pa; `temperature` in °C.

    R. S. Davis, Metrologia 29 (1992) 67.
    """
    kelvin = np.asarray(temperature, np.float64) + 273.15
    exponent = 1.2378847e-5 * kelvin**2 - 1.9121316e-2 * kelvin + 33.93711047
    made: Floats = np.exp(exponent - 6.3431645e3 / kelvin)
    return made
