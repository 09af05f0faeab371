"""Refuse arguments of plans that make no sense, before anything moves or a run opens.

All raise ValueError with the argument's name, what it was, and what it must be.
"""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

MOST_POINTS = 10_000_000
"""Of one scan: more are taken for a mistake."""


def finite(**values: Any) -> None:
    """Check that values are finite real numbers."""
    for name, value in values.items():
        if not (isinstance(value, Real) and math.isfinite(value)):
            raise ValueError(f"{name} must be a finite number, not {value!r}")


def positive(**values: Any) -> None:
    """Check that values are finite and more than 0."""
    finite(**values)
    for name, value in values.items():
        if value <= 0:
            raise ValueError(f"{name} must be more than 0, not {value!r}")


def time_per_point(dwell: Any) -> None:
    """Check seconds per point; None leaves detectors as they are set."""
    if dwell is not None:
        positive(dwell=dwell)


def not_negative(**values: Any) -> None:
    """Check that values are finite and not less than 0."""
    finite(**values)
    for name, value in values.items():
        if value < 0:
            raise ValueError(f"{name} must be 0 or more, not {value!r}")


def counts(**values: Any) -> None:
    """Check that values are whole numbers from 1 on, and no more points altogether than fit."""
    for name, value in values.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number, 1 or more, not {value!r}")
    points(math.prod(values.values()))


def points(number: float) -> None:
    """Check that there are not too many points, before they are made."""
    if number > MOST_POINTS:
        raise ValueError(
            f"a scan has at most {MOST_POINTS} points, not {number:.4g}: "
            "take fewer, or a larger distance"
        )


def ends(name: str, start: Any, stop: Any, number: Any) -> None:
    """Check the ends of an axis of a map, and the number of points between them."""
    finite(**{f"start of {name}": start, f"stop of {name}": stop})
    counts(**{f"points of {name}": number})
    if start == stop and number > 1:
        raise ValueError(
            f"{name} does not move between {start!r} and {stop!r}: give it 1 point, not {number}"
        )


def two(name: str, values: Any) -> None:
    """Check that something is a pair, one value for each axis."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        raise ValueError(f"{name} must be two values, one for each axis, not {values!r}")


def motors(*devices: Any) -> None:
    """Check that devices can be moved, each of them once."""
    for device in devices:
        if not hasattr(device, "set"):
            raise ValueError(f"{device!r} is no motor")
    if len({id(device) for device in devices}) < len(devices):
        names = ", ".join(str(device.name) for device in devices)
        raise ValueError(f"each motor may be given once: {names}")


def energies(values: Iterable[float], unit: Any) -> None:
    """Check that photon energies are in their motor's unit: eV and keV are mixed up easily."""
    for value in values:
        positive(energy=value)
        if (unit == "keV" and value >= 1000) or (unit == "eV" and value < 100):
            other = "eV" if unit == "keV" else "keV"
            raise ValueError(
                f"energies are in {unit}, the motor's unit: {value:g} {unit} looks as if "
                f"meant in {other}"
            )
