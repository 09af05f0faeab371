"""Interferometers: counts to nanometres in air of any refractive index; lost beams are NaN."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field

from p06bs.callbacks._air import AIR, AIR_INPUTS, NO_AIR, TOO_WET, Air, AirSettings, air_of
from p06bs.callbacks._arrays import Array
from p06bs.callbacks._beams import LOST, SECOND_LOST, Axis, Beam
from p06bs.callbacks._faults import empty_gates, reasons
from p06bs.callbacks._settings import Finite, Positive, check_names, require, require_inputs
from p06bs.model.modality import (
    INVALID,
    Bound,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)

FLAGS = {LOST: "beam lost", SECOND_LOST: "second beam lost"} | {
    bit: f"{name} is none" for name, bit in NO_AIR.items()
}
FLAGS[TOO_WET] = "more water vapour than pressure"
"""What the bits of a flag say."""


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
class Setup:
    """Axes, and the air as far as it is not an input."""

    axes: Mapping[str, Axis]
    air: Air
    gated: bool


class Interferometers(Modality):
    """Turn counts of interferometers into positions in nm.

    An axis whose beam is lost is NaN and flagged; so are all while the air is not known. The
    event is valid all the same: where there is an encoder, its position is known (`Positions`).
    An event is invalid if its gate is empty.
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
                first = beam == name
                # `prepare` requires the second beam of an axis that is there.
                made[beam] = Input(
                    role=f"interferometer_{beam}", optional=True, group="axes" if first else ""
                )
                made[f"{beam}_valid"] = Input(role=f"interferometer_{beam}_valid", optional=True)
        if settings.gated:
            made["gate_samples"] = Input(role="gate_samples")
        return {**made, **AIR_INPUTS}

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return position and flag of each axis, and the index where the air is measured."""
        made: dict[str, Output] = {}
        for name in filter(bound.__contains__, settings.axes):
            made[name] = Output(
                unit="nm",
                atol=1e-6,
                role=f"interferometer_position_{name}",
                description="position",
            )
            made[f"{name}_flag"] = Output(
                dtype="uint8",
                hinted=False,
                description=", ".join(f"{bit}: {text}" for bit, text in FLAGS.items()),
            )
        if not AIR.keys().isdisjoint(bound):
            made["refractive_index"] = Output(
                unit="1", hinted=False, description="of the air at the wavelength"
            )
        return made

    def prepare(self, settings: Any, bound: Bound) -> Setup:
        """Return the constants per axis that there is, and the air.

        Raises
        ------
        ValueError
            If the settings need an input that is not bound, or there would be more water vapour
            than pressure.
        """
        require_inputs("axes", self.declare(settings), bound, self.declared)
        axes = {}
        for name, axis in settings.axes.items():
            if name not in bound:
                continue
            if axis.second is not None:
                require(bound, f"{name}_2", f"axes.{name}.second")
            along = axis.direction / np.cos(1e-3 * axis.angle)
            names = (name,) if axis.second is None else (name, f"{name}_2")
            axes[name] = Axis(
                beams=tuple(Beam(beam, settings.valid_bit) for beam in names),
                scale=float(axis.resolution * along),
                dead_path=float(1e6 * axis.dead_path * along),
                zero=None if axis.zero == "first" else axis.zero,
                lever=0.0 if axis.second is None else axis.second.arm / axis.second.separation,
            )
        return Setup(axes, air_of(settings, bound), settings.gated)

    @np.errstate(all="ignore")  # what it would warn of is flagged
    def process(self, setup: Setup, **columns: Any) -> Columns:
        """Return positions before zeroing and dead path, flags, and the index per event."""
        made: dict[str, Array] = {}
        index, poor = setup.air.indices(columns)
        for name, axis in setup.axes.items():
            place, flag = axis.measure(columns, setup.air.index if index is None else index)
            if poor is not None:
                flag |= poor
            made[name], made[f"{name}_flag"] = place, flag
        if index is not None:
            made["refractive_index"] = index
        if setup.gated and (empty := empty_gates(columns["gate_samples"])):
            made[INVALID] = reasons(empty.where, [empty])
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
        index = columns.get("refractive_index", setup.air.index)
        for name, axis in setup.axes.items():
            place = columns[name]
            if name not in after:
                first = int(np.argmax(np.isfinite(place)))
                if not np.isfinite(place[first]):
                    continue  # no beam yet
                there = index if isinstance(index, float) else float(index[first])
                after[name] = {"index": there, "place": float(place[first])}
            begun = after[name]
            moved: Any = begun["place"] if axis.zero is None else axis.zero
            if axis.dead_path:
                moved = axis.dead_path * (1 - begun["index"] / index) + moved
            made[name] = place - moved
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
