"""Refractive index of air, by which interferometers and spectrometers measure lengths."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TEMPERATURE = (-40.0, 100.0)
"""Lowest and highest temperature that is taken for one of air, °C."""
PRESSURE = (0.0, 1200.0)
"""Lowest and highest pressure, hPa."""
HUMIDITY = (0.0, 100.0)
"""Lowest and highest relative humidity, %."""


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
