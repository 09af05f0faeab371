"""What a benchmark reports: values of interleaved repetitions, and the goal they are held to."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One quantity, once per repetition.

    Parameters
    ----------
    what : str
        Its name.
    unit : str
        Its unit; empty for ratios.
    values : tuple of float
        In the order in which they were measured.
    at_least, at_most : float, optional
        The goal, to which the median is held.
    """

    what: str
    unit: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None

    @property
    def median(self) -> float:
        """Median over the repetitions."""
        return statistics.median(self.values)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None if there is none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        if self.at_most is not None:
            return self.median <= self.at_most
        return None

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        text = f"{_number(self.median)} [{_number(low)} .. {_number(high)}]"
        text = f"{self.what:<58}{text:>28} {self.unit:<9}"
        if self.reached is None:
            return text.rstrip()
        goal = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return f"{text}goal {goal}: {'reached' if self.reached else 'MISSED'}"

    def plain(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "what": self.what,
            "unit": self.unit,
            "median": self.median,
            "values": list(self.values),
            "at_least": self.at_least,
            "at_most": self.at_most,
            "reached": self.reached,
        }


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, ...]:
    """Return ours / theirs by repetition, so that what slows both cancels out."""
    return tuple(a / b for a, b in zip(ours, theirs, strict=True))


def turns(variants: Sequence[str], repeat: int) -> list[str]:
    """Return in which order variants are measured: each once per repetition, beginning in turn."""
    return [
        variants[(number + place) % len(variants)]
        for number in range(repeat)
        for place in range(len(variants))
    ]


def _number(value: float) -> str:
    """Return a number with three significant digits at least."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
