"""The refractive index of the air that the simulated interferometers measure in."""


def refractivity(wavelength: float, temperature: float, pressure: float, humidity: float) -> float:
    """Return n - 1 of air by the modified Edlén equation.

    K. P. Birch and M. J. Downs, Metrologia 31 (1994) 315, which holds from 350 to
    650 nm; in the near infrared it deviates by some 1e-8.

    Parameters
    ----------
    wavelength : float
        In vacuum, nm.
    temperature : float
        °C.
    pressure : float
        hPa.
    humidity : float
        Relative, %.
    """
    sigma2 = (1e3 / wavelength) ** 2  # 1/µm²
    pascal = pressure * 1e2
    standard = 1e-8 * (8342.54 + 2406147 / (130 - sigma2) + 15998 / (38.9 - sigma2))
    compressed = 1 + 1e-8 * (0.601 - 0.00972 * temperature) * pascal
    dry = pascal * standard / 96095.43 * compressed / (1 + 0.003661 * temperature)
    # Saturation by Magnus' formula over water.
    vapour = humidity / 100 * 611.2 * 10 ** (7.591386 * temperature / (240.7263 + temperature))
    return dry - vapour * (3.7345 - 0.0401 * sigma2) * 1e-10
