"""Encoders: positions from words that wrap, or from what a box makes of them within a gate."""

from collections.abc import Mapping
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from p06bs.callbacks._encoder_axis import FLAGS, Axis
from p06bs.callbacks._faults import anywhere, empty_gates, reasons
from p06bs.callbacks._gates import WRAPPED
from p06bs.callbacks._settings import Finite, check_names, require, require_inputs, unit_of
from p06bs.model.modality import (
    INVALID,
    Bound,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)


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


ENDS = ("", "_min", "_max", "_sum", "_rest", "_flag", "_half_width")
"""Of the names of all columns of an axis."""


def _names(axes: Mapping[str, EncoderAxis]) -> Mapping[str, EncoderAxis]:
    made = [name + end for name in axes for end in ENDS]
    check_names(axes, [*made, "gate_samples"])
    return axes


def _reading(name: str, axis: EncoderAxis) -> str:
    """Return the name of the input that an axis is read from."""
    return f"{name}_sum" if axis.reading == "sum" else name


class Encoders(Modality):
    """Turn words of encoders into positions that go on where the words wrap.

    An axis whose reading is not finite, does not fit the bits of its word, or is a mean that a
    wrap inside the gate has ruined, is NaN and flagged. An event is invalid if its gate is
    empty, or if none of its axes is known. An axis that a run lacks is left out.
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
            reading = _reading(name, axis)
            made[reading] = Input(role=f"encoder_{reading}", optional=True, group="axes")
            for end in ("min", "max"):
                made[f"{name}_{end}"] = Input(role=f"encoder_{name}_{end}", optional=True)
        # `prepare` requires them where there is a sum.
        return {**made, "gate_samples": Input(role="gate_samples", optional=True)}

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return position and flag of each axis there is, and half the width if captured."""
        made: dict[str, Output] = {}
        for name, axis in settings.axes.items():
            if _reading(name, axis) not in bound:
                continue
            unit = axis.unit or unit_of(name)
            made[name] = Output(unit=unit, role=f"encoder_position_{name}", description="position")
            if f"{name}_min" in bound and f"{name}_max" in bound:
                made[f"{name}_half_width"] = Output(
                    unit=unit, hinted=False, description="half the way within the gate"
                )
            made[f"{name}_flag"] = Output(
                dtype="uint8",
                hinted=False,
                description=", ".join(f"{bit}: {text}" for bit, text in FLAGS.items()),
            )
        return made

    def prepare(self, settings: Any, bound: Bound) -> dict[str, Axis]:
        """Return the axes that there are by name.

        Raises
        ------
        ValueError
            If the settings need an input that is not bound.
        """
        require_inputs("axes", self.declare(settings), bound, self.declared)
        made = {}
        for name, axis in settings.axes.items():
            source = bound.get(_reading(name, axis))
            if source is None:
                continue
            if axis.reading == "sum":
                require(bound, "gate_samples", f"axes.{name}.reading = 'sum'")
            unsigned = np.dtype(source.dtype or "f8").kind == "u"
            made[name] = Axis(
                name=name,
                scale=axis.direction * axis.scale,
                offset=axis.offset,
                origin=axis.origin,
                bits=axis.bits or None,
                signed=not unsigned if axis.signed is None else axis.signed,
                reading=axis.reading,
            )
        return made

    @np.errstate(all="ignore")  # what it would warn of is flagged
    def process(self, setup: dict[str, Axis], **columns: Any) -> Columns:
        """Return of each axis what `scan` needs: words, their rests, flag, half width."""
        made: dict[str, Any] = {}
        faults = []
        empty = empty_gates(columns["gate_samples"])
        for axis in setup.values():
            read, found = axis.read(columns, empty)
            made |= read
            # A wrap is no fault of the encoder: what positions have besides may bridge it.
            faults.append([fault for fault in found if fault.flag != WRAPPED])
        if empty is None and not all(faults):
            return made
        count = len(made[next(iter(setup))])
        invalid = np.logical_and.reduce([anywhere(found, count) for found in faults])
        if empty is not None:
            faults.insert(0, [empty])
            invalid |= empty.where
        return {**made, INVALID: reasons(invalid, chain(*faults))}

    def scan(
        self, setup: dict[str, Axis], state: Mapping[str, int] | None, columns: Columns
    ) -> tuple[dict[str, int], Columns]:
        """Return positions; the state is how far each axis has counted without wrapping."""
        counted: dict[str, int] = dict(state or {})
        made: dict[str, Any] = {}
        for axis in setup.values():
            made |= axis.follow(columns, counted)
        return counted, made

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
