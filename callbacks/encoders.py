"""Encoders: positions from words that wrap, or from what a box makes of them within a gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from p06bs.callbacks._settings import Finite, check_names
from p06bs.callbacks._words import Array, Floats, Integers, Mask, divided, fold, split, unwrapped
from p06bs.model.modality import (
    INVALID,
    Bound,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)

WRAPPED = 1
"""Bit of the flag: the word wrapped inside the gate."""
OUTSIDE = 2
"""Bit of the flag: the mean lies outside of minimum and maximum by more than a count."""
LEAP = 4
"""Bit of the flag: the step from the event before is more than a quarter of the range."""


def _not_zero(value: float) -> float:
    if value == 0:
        raise ValueError("must not be 0")
    return value


class EncoderAxis(ModalitySettings):
    """Say how an axis counts, and what a count is worth.

    position = offset + direction · scale · (counts - origin)
    """

    scale: Annotated[Finite, AfterValidator(_not_zero)] = Field(
        description="µm (deg) per count; not 0"
    )
    offset: Finite = Field(0.0, description="position at the origin, µm (deg)")
    origin: int | None = Field(
        None,
        gt=-(2**62),
        lt=2**62,
        description="word at which the position is `offset`; the first reading is taken to be the "
        "shorter way round from it. None: 0, and the first reading is what its word says",
    )
    direction: Literal[1, -1] = Field(1, description="-1: the position falls when the word rises")
    unit: Literal["um", "deg"] | None = Field(
        None, description="of the position; None: deg for an axis called rotation, else um"
    )
    bits: Literal[0] | Annotated[int, Field(ge=2, le=63)] = Field(
        32, description="of a word, which wraps; 0: values that do not wrap"
    )
    signed: bool | None = Field(
        None, description="whether the first word is; None: as the data are described"
    )
    reading: Literal["value", "mean", "sum"] = Field(
        "mean",
        description="what is captured: the word at the trigger, or its mean or sum in a gate",
    )


def _names(axes: Mapping[str, EncoderAxis]) -> Mapping[str, EncoderAxis]:
    made = [name + end for name in axes for end in ("", "_min", "_max", "_sum", "_flag")]
    made += [f"{name}_half_width" for name in axes] + ["gate_samples"]
    check_names(axes, made)
    return axes


@dataclass(frozen=True)
class Axis:
    """An axis made ready for a run."""

    scale: float  # with the sign of the direction
    offset: float
    origin: int | None
    bits: int | None
    signed: bool
    reading: str

    def position(self, counts: Array, rest: Floats | None = None) -> Floats:
        """Return offset + scale · (counts + rest - origin)."""
        if self.origin:
            counts = counts - self.origin
        made = counts.astype(np.float64)
        if rest is not None:
            made += rest
        made *= self.scale
        if self.offset:
            made += self.offset
        return made


class Encoders(Modality):
    """Turn words of encoders into positions that go on where the words wrap.

    An event is invalid if its gate is empty, or if the reading of one of the axes is
    not finite, does not fit the bits of its word, or is a mean that a wrap inside
    the gate has ruined.
    """

    name = "encoders"

    class Settings(ModalitySettings):
        """The axes: x, y, z, rotation, or what they are called."""

        axes: Annotated[dict[str, EncoderAxis], AfterValidator(_names)] = Field(
            min_length=1, description="axis -> how it counts"
        )

    @classmethod
    def declare(cls, settings: Any) -> dict[str, Input]:
        """Return the reading, its minimum and its maximum of each axis, and the samples."""
        made: dict[str, Input] = {}
        for name, axis in settings.axes.items():
            reading = f"{name}_sum" if axis.reading == "sum" else name
            made[reading] = Input(role=f"encoder_{reading}")
            for end in ("min", "max"):
                made[f"{name}_{end}"] = Input(role=f"encoder_{name}_{end}", optional=True)
        sums = any(axis.reading == "sum" for axis in settings.axes.values())
        made["gate_samples"] = Input(role="gate_samples", optional=not sums)
        return made

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return position and flag of each axis, and half the width where it is captured."""
        made: dict[str, Output] = {}
        for name, axis in settings.axes.items():
            unit = axis.unit or ("deg" if name == "rotation" else "um")
            made[name] = Output(unit=unit, role=f"encoder_position_{name}", description="position")
            if f"{name}_min" in bound and f"{name}_max" in bound:
                made[f"{name}_half_width"] = Output(
                    unit=unit, hinted=False, description="half the way within the gate"
                )
            made[f"{name}_flag"] = Output(
                dtype="uint8",
                hinted=False,
                description="1: wrapped inside the gate, 2: mean outside minimum and maximum, "
                "4: leap of more than a quarter of the range",
            )
        return made

    def prepare(self, settings: Any, bound: Bound) -> dict[str, Axis]:
        """Return the axes by name.

        Raises
        ------
        ValueError
            If the settings need an input that is not bound.
        """
        missing = [
            n for n, i in self.declare(settings).items() if not i.optional and n not in bound
        ]
        if missing:
            raise ValueError(f"axes: need {', '.join(missing)}, which nothing feeds in this run")
        made = {}
        for name, axis in settings.axes.items():
            source = bound[f"{name}_sum" if axis.reading == "sum" else name]
            unsigned = np.dtype(source.dtype or "f8").kind == "u"
            made[name] = Axis(
                scale=axis.direction * axis.scale,
                offset=axis.offset,
                origin=axis.origin,
                bits=axis.bits or None,
                signed=not unsigned if axis.signed is None else axis.signed,
                reading=axis.reading,
            )
        return made

    def process(self, setup: dict[str, Axis], **columns: Any) -> Columns:
        """Return what `scan` needs of each axis: whole counts, the rest, half width, flag."""
        made: dict[str, Array] = {}
        problems: list[tuple[Mask, str, Sequence[Array]]] = []
        samples: Array | None = columns["gate_samples"]
        with np.errstate(all="ignore"):  # what it would warn of is flagged as invalid
            if samples is not None:
                open_ = (samples > 0) & (samples < np.inf)
                problems.append((open_, "the gate is empty (samples: {})", (samples,)))
            for name, axis in setup.items():
                lowest, highest = columns[f"{name}_min"], columns[f"{name}_max"]
                size = "" if axis.bits is None else f", which {axis.bits} bits do not hold"
                if axis.reading == "sum" and samples is not None:
                    total = columns[f"{name}_sum"]
                    whole, rest, fits = divided(total, np.where(open_, samples, 1), axis.bits)
                    text = f"{name} sums up to {{}} in {{}} samples{size}"
                    problems.append((fits, text, (total, samples)))
                else:
                    whole, rest, fits = split(columns[name], axis.bits)
                    problems.append((fits, f"{name} reads {{}}{size}", (columns[name],)))
                flag = np.zeros(len(whole), np.uint8)
                if lowest is not None and highest is not None:
                    exact = lowest.dtype.kind in "iu" and highest.dtype.kind in "iu"
                    width = np.subtract(highest, lowest, dtype=np.int64 if exact else np.float64)
                    known = (width >= 0) & (width < np.inf)
                    text = f"{name} has minimum {{}} and maximum {{}}"
                    problems.append((known, text, (lowest, highest)))
                    width = width.astype(np.float64)
                    if axis.bits is not None:
                        gate = Gate(lowest, highest, width, samples)
                        lost = gate.examine(axis, whole, rest, flag)
                        text += ": it wrapped inside the gate, so that its mean is lost"
                        problems.append((~lost | ~known, text, (lowest, highest)))
                    width *= abs(axis.scale) / 2
                    made[f"{name}_half_width"] = width
                made[name], made[f"{name}_rest"], made[f"{name}_flag"] = whole, rest, flag
        if all(good.all() for good, _, _ in problems):
            return made
        reasons: list[list[str]] = [[] for _ in range(len(problems[0][0]))]
        for good, text, shown in problems:
            for event in np.flatnonzero(~good).tolist():
                reasons[event].append(text.format(*(values[event] for values in shown)))
        return {**made, INVALID: np.array(["; ".join(said) for said in reasons], object)}

    def scan(
        self, setup: dict[str, Axis], state: Mapping[str, int] | None, columns: Columns
    ) -> tuple[dict[str, int], Columns]:
        """Return positions; the state is how far each axis has counted without wrapping."""
        after: dict[str, int] = dict(state or {})
        made: dict[str, Array] = {}
        for name, axis in setup.items():
            word, flag = columns[name], columns[f"{name}_flag"]
            if axis.bits is None:
                made[name] = axis.position(word)
            else:
                before = after.get(name, axis.origin)
                if before is None:
                    before = fold(int(word[0]), axis.bits, axis.signed)
                counts, step = unwrapped(word, axis.bits, before)
                after[name] = int(counts[-1])
                made[name] = axis.position(counts, columns[f"{name}_rest"])
                leaps = np.abs(step) > 1 << (axis.bits - 2)
                leaps[0] &= name in (state or {})
                if leaps.any():
                    flag = np.where(leaps, flag | LEAP, flag)
            made[f"{name}_flag"] = flag
            if f"{name}_half_width" in columns:
                made[f"{name}_half_width"] = columns[f"{name}_half_width"]
        return after, made

    @classmethod
    def example(cls) -> tuple["Encoders", Columns]:
        """Return two axes, one of which wraps, as a position-capture box captures them."""
        way = 2**31 - 1000 + 50 * np.arange(48)
        x = ((way + 2**31) % 2**32 - 2**31).astype(np.int32)
        axes = {"x": {"scale": 0.005}, "rotation": {"scale": 1e-4, "bits": 24, "reading": "sum"}}
        columns = {
            "x": x + 0.25,
            "x_min": x - 2,
            "x_max": x + 3,
            "rotation_sum": 125 * (way - way[0]) + 7,
            "gate_samples": np.r_[0, np.full(47, 125)].astype(np.uint32),
        }
        return cls(axes=axes), columns


@dataclass(frozen=True)
class Gate:
    """What a box saw of an axis within each gate; `width` is maximum - minimum, counts."""

    lowest: Array
    highest: Array
    width: Floats
    samples: Array | None

    def examine(self, axis: Axis, whole: Integers, rest: Floats, flag: Array) -> Mask:
        """Flag what is odd and return whose mean is lost.

        A word that wraps inside a gate has visited both ends of its range, so minimum and
        maximum say no more than that. Two samples are the exception: they are minimum
        and maximum.
        """
        assert axis.bits is not None
        wrapped = self.width > 1 << (axis.bits - 1)
        gated = axis.reading != "value"
        lost = wrapped if gated else np.zeros_like(wrapped)
        if gated:
            outside = (whole + 1 < self.lowest) | (whole - 1 > self.highest)
            if outside.any():
                flag[outside & ~wrapped] |= OUTSIDE
        if not wrapped.any():
            return lost
        flag[wrapped] |= WRAPPED
        two = wrapped & (self.samples == 2) if self.samples is not None else np.zeros_like(wrapped)
        self.width[wrapped & ~two] = np.nan
        self.width[two] = (1 << axis.bits) - self.width[two]
        if gated:
            both = self.lowest[two].astype(np.int64) + self.highest[two].astype(np.int64)
            both += 1 << axis.bits
            whole[two], rest[two] = both // 2, both % 2 / 2
            lost = lost & ~two
        return lost
