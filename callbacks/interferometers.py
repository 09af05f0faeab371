"""Interferometers: counts to nanometres in air of any refractive index; lost beams are NaN."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from p06bs.callbacks._air import AIR, AIR_INPUTS, Air, AirSettings, air_of
from p06bs.callbacks._settings import Finite, Positive, check_names
from p06bs.model.modality import (
    INVALID,
    Bound,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LOST = 1
"""Bit of the flag: the beam is lost, or reads no number."""
SECOND_LOST = 2
"""Bit of the flag: the same of the second beam."""

BLOCK = 8192
"""Events worked on at a time, so that the intermediate arrays stay in the cache."""


class SecondBeam(ModalitySettings):
    """Say where a second, parallel beam is, so that the rotation of the stage is known.

    position = first + (second - first) · arm / separation
    """

    separation: Positive = Field(description="mm from the first to the second beam")
    arm: Finite = Field(
        description="mm from the first beam to the sample, positive towards the second beam"
    )


class InterferometerAxis(ModalitySettings):
    """Say what a count of an interferometer is worth, and how its beam runs."""

    resolution: Positive = Field(description="nm of displacement in vacuum per count")
    direction: Literal[1, -1] = Field(1, description="-1: the position falls when counts rise")
    zero: Finite | Literal["first"] = Field(
        0.0, description="nm to subtract; first: that of the first event with a beam"
    )
    dead_path: Finite = Field(
        0.0, description="mm of air in the beam, beside that in the reference, at the position 0"
    )
    angle: float = Field(
        0.0, gt=-500, lt=500, description="mrad between the beam and the direction of motion"
    )
    second: SecondBeam | None = Field(None, description="a second beam against Abbe's error")


def _names(axes: Mapping[str, InterferometerAxis]) -> Mapping[str, InterferometerAxis]:
    made = [name + end for name in axes for end in ("", "_2", "_valid", "_2_valid", "_flag")]
    made += [*AIR, "gate_samples", "refractive_index"]
    check_names(axes, made)
    return axes


@dataclass(frozen=True)
class Axis:
    """An axis made ready for a run."""

    scale: float  # nm per count in vacuum along the motion, with the sign of the direction
    dead_path: float  # nm, likewise
    zero: float | None  # None: that of the first event with a beam
    lever: float | None  # arm / separation; None: there is no second beam


@dataclass(frozen=True)
class Setup:
    """Axes, and the air as far as it is not an input."""

    axes: Mapping[str, Axis]
    air: Air
    valid_bit: int | None
    gated: bool

    def there(self, valid: Array) -> Mask:
        """Return which values of a valid input say that a beam is there."""
        if self.valid_bit is None:
            return valid > 0
        made: Mask = valid.astype(np.int64) & (1 << self.valid_bit) != 0
        return made


class Interferometers(Modality):
    """Turn counts of interferometers into positions in nm.

    An axis whose beam is lost is NaN and flagged. The event is valid all the same, even if
    all axes are lost: where there is an encoder, its position is known (`Positions`). An event
    is invalid if the air is not known, or the gate is empty.
    """

    name = "interferometers"

    class Settings(AirSettings):
        """The axes, and the air where no input says it."""

        axes: Annotated[dict[str, InterferometerAxis], AfterValidator(_names)] = Field(
            min_length=1, description="axis -> what its counts are worth"
        )
        valid_bit: int | None = Field(
            None,
            ge=0,
            le=31,
            description="bit of the valid inputs that is set while the beam is there; "
            "None: all but 0 says so",
        )

        gated: bool = Field(
            False, description="whether counts are means of a gate, which then must not be empty"
        )

    @classmethod
    def declare(cls, settings: Any) -> dict[str, Input]:
        """Return counts and valid bit of each beam, and the air."""
        made: dict[str, Input] = {}
        for name, axis in settings.axes.items():
            for beam in (name, f"{name}_2")[: 1 if axis.second is None else 2]:
                made[beam] = Input(role=f"interferometer_{beam}")
                made[f"{beam}_valid"] = Input(role=f"interferometer_{beam}_valid", optional=True)
        if settings.gated:
            made["gate_samples"] = Input(role="gate_samples")
        return {**made, **AIR_INPUTS}

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return position and flag of each axis, and the index where the air is measured."""
        made: dict[str, Output] = {}
        for name in settings.axes:
            made[name] = Output(
                unit="nm",
                atol=1e-6,
                role=f"interferometer_position_{name}",
                description="position",
            )
            made[f"{name}_flag"] = Output(
                dtype="uint8", hinted=False, description="1: beam lost, 2: second beam lost"
            )
        if not AIR.keys().isdisjoint(bound):
            made["refractive_index"] = Output(
                unit="1", hinted=False, description="of the air at the wavelength"
            )
        return made

    def prepare(self, settings: Any, bound: Bound) -> Setup:
        """Return the constants per axis, and the air.

        Raises
        ------
        ValueError
            If the settings need an input that is not bound, or the temperature has a unit
            that is none.
        """
        wanted = self.declare(settings)
        missing = [n for n, i in wanted.items() if not i.optional and n not in bound]
        if missing:
            raise ValueError(f"axes: need {', '.join(missing)}, which nothing feeds in this run")
        axes = {}
        for name, axis in settings.axes.items():
            along = axis.direction / np.cos(1e-3 * axis.angle)
            axes[name] = Axis(
                scale=float(axis.resolution * along),
                dead_path=float(1e6 * axis.dead_path * along),
                zero=None if axis.zero == "first" else axis.zero,
                lever=None if axis.second is None else axis.second.arm / axis.second.separation,
            )
        return Setup(axes, air_of(settings, bound), settings.valid_bit, settings.gated)

    def process(self, setup: Setup, **columns: Any) -> Columns:
        """Return positions before zeroing and dead path, flags, and the index per event."""
        count = len(columns[next(iter(setup.axes))])
        made: dict[str, Array] = {}
        for name in setup.axes:
            made[name], made[f"{name}_flag"] = np.empty(count), np.zeros(count, np.uint8)
        bad = np.zeros(count, bool)
        with np.errstate(all="ignore"):  # what it would warn of is flagged
            index = setup.air.indices(columns)
            if index is not None:
                made["refractive_index"] = index
                np.isnan(index, out=bad)
            if setup.gated:
                bad |= ~(columns["gate_samples"] > 0)
            for at in _blocks(count):
                rarer = 1 / (setup.air.index if index is None else index[at])
                for name in setup.axes:
                    _measure(setup, name, columns, rarer, made, at)
        if bad.any():
            made[INVALID] = _reasons(setup, columns, bad)
        return made

    def scan(
        self, setup: Setup, state: Mapping[str, Mapping[str, float]] | None, columns: Columns
    ) -> tuple[dict[str, Mapping[str, float]], Columns]:
        """Return positions from their zero on.

        The state of an axis is the refractive index and the position at its first event with
        a beam.
        """
        after = dict(state or {})
        made = dict(columns)
        index = columns.get("refractive_index")
        for name, axis in setup.axes.items():
            place = columns[name]
            if name not in after:
                first = int(np.argmax(np.isfinite(place)))
                if not np.isfinite(place[first]):
                    continue  # no beam yet
                begun = setup.air.index if index is None else float(index[first])
                after[name] = {"index": begun, "place": float(place[first])}
            zero = after[name]["place"] if axis.zero is None else axis.zero
            if not (zero or axis.dead_path):
                continue
            dead = axis.dead_path * after[name]["index"]
            made[name] = moved = np.empty_like(place)
            for at in _blocks(len(place)):
                n = setup.air.index if index is None else index[at]
                np.subtract(place[at], zero + axis.dead_path - dead / n, out=moved[at])
        return after, made

    @classmethod
    def example(cls) -> tuple["Interferometers", Columns]:
        """Return two axes, one of them with two beams, and gaps in which beams are lost."""
        counts = np.arange(48) * 5000
        second = {"separation": 20.0, "arm": 5.0}
        columns: dict[str, Array] = {
            "x": counts,
            "x_valid": (counts % 7 > 0).astype(np.uint8),
            "y": counts / 3,
            "y_2": np.where(counts % 11, counts / 2.9, np.nan),
            "air_temperature": np.repeat([21.0, 21.2, 21.4, 21.2], 12),
            "air_pressure": np.repeat([1008.0, 1009.0], 24),
        }
        axes: dict[str, Any] = {
            "x": {"resolution": 0.1, "zero": "first"},
            "y": {"resolution": 0.1, "dead_path": 30.0, "second": second},
        }
        return cls(axes=axes), columns


def _blocks(count: int) -> Iterator[slice]:
    return (slice(i, i + BLOCK) for i in range(0, count, BLOCK))


def _measure(
    setup: Setup, name: str, columns: Columns, rarer: Any, made: Columns, at: slice
) -> None:
    """Put position and flag of an axis of a block into `made`.

    `rarer` is 1 / refractive index.
    """
    axis = setup.axes[name]
    scale = axis.scale * rarer
    place, flag = made[name][at], made[f"{name}_flag"][at]
    lost = _displacement(setup, name, columns, scale, place, at)
    if lost is not None:
        flag[lost] = LOST
    if axis.lever is None:
        return
    other = np.empty_like(place)
    lost = _displacement(setup, f"{name}_2", columns, scale, other, at)
    other -= place
    other *= axis.lever
    place += other
    if lost is not None:
        flag[lost] |= SECOND_LOST


def _displacement(
    setup: Setup, beam: str, columns: Columns, scale: Any, place: Floats, at: slice
) -> Mask | None:
    """Put a beam's counts · scale into `place`, NaN where it is lost; return where that is."""
    counts, valid = columns[beam][at], columns[f"{beam}_valid"]
    place[...] = counts
    place *= scale
    known: Mask | None = None
    if valid is not None:
        known = valid[at] if valid.dtype == bool else setup.there(valid[at])
    if counts.dtype.kind == "f":
        finite = np.isfinite(counts)
        known = finite if known is None else known & finite
    if known is None or known.all():
        return None
    lost = ~known
    np.copyto(place, np.nan, where=lost)
    return lost


def _reasons(setup: Setup, columns: Columns, bad: Mask) -> Array:
    """Return why events are bad."""
    reasons = np.full(len(bad), "", object)
    events = np.flatnonzero(bad)
    if setup.gated:
        reasons[~(columns["gate_samples"] > 0)] += "; the gate is empty"
    problems = setup.air.problems(
        {n: None if columns[n] is None else columns[n][events] for n in AIR}
    )
    for wrong, text, values in problems:
        for i in np.flatnonzero(wrong).tolist():
            reasons[events[i]] += "; " + text.format(values[i])
    reasons[events] = [said.removeprefix("; ") for said in reasons[events]]
    return reasons
