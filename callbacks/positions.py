"""Positioning correction: the best position of each event that any of its sources knows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._faults import Fault, anywhere, reasons
from p06bs.callbacks._motion import steps
from p06bs.callbacks._settings import Finite, check_names, unit_of
from p06bs.model.modality import (
    INVALID,
    Bound,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)

SOURCES = ("interferometer", "encoder", "nominal")
"""The sources of a position, the best one first. Their codes are 1, 2 and 3."""

NOTHING = np.empty(0)
NOTHING.flags.writeable = False


def _names(axes: Sequence[str]) -> Sequence[str]:
    made = [name + end for name in axes for end in ("", "_source", "_offset", "_lag")]
    made += [f"{source}_{name}" for source in SOURCES for name in axes]
    check_names(axes, made)
    return axes


@dataclass(frozen=True)
class Setup:
    """The sources of each axis, the best one first, and how they are put together."""

    sources: Mapping[str, Sequence[str]]
    average: int
    zeroed: bool
    lag: float


class Positions(Modality):
    """Take each position from the interferometer, else from the encoder, else as it was demanded.

    What the encoder says in a gap of the interferometer is moved by the running offset
    between both, so that the position goes on where it was. Where detectors look later than
    positions are captured, positions are moved on by the `lag`. An event is invalid if no source
    knows the position in one of the axes.
    """

    name = "positions"

    class Settings(ModalitySettings):
        """The axes, and how their sources are put together."""

        axes: Annotated[tuple[str, ...], AfterValidator(_names)] = Field(
            ("x", "y"), min_length=1, description="x, y, z, rotation, or what they are called"
        )
        average: int = Field(
            10, ge=1, le=1000, description="events of which the running offset is the mean"
        )
        zero: Literal["own", "nominal"] = Field(
            "own",
            description="nominal: interferometer and encoder have no zero of their own, and are "
            "moved to the nominal position in the first event in which both are known",
        )
        lag: Finite = Field(
            0.0,
            ge=-100,
            le=100,
            description="points (time times points/s) by which detectors look later than "
            "positions are captured; `snake_lag` finds it",
        )

    @classmethod
    def declare(cls, settings: Any) -> dict[str, Input]:
        """Return what each source says of each axis; the run itself comes first."""
        made: dict[str, Input] = {}
        for source in reversed(SOURCES):
            for name in settings.axes:
                role = _role(name) if source == "nominal" else f"{source}_position_{name}"
                made[f"{source}_{name}"] = Input(role=role, unit=unit_of(name), optional=True)
        return made

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return position, source and offset of each axis that has a source in the run."""
        made: dict[str, Output] = {}
        for name in _sources(settings, bound):
            unit = unit_of(name)
            made[name] = Output(
                unit=unit, atol=1e-9, role=_role(name), description="the best that is known"
            )
            made[f"{name}_source"] = Output(
                dtype="uint8",
                hinted=False,
                description="1: interferometer, 2: encoder, 3: nominal, 0: none",
            )
            made[f"{name}_offset"] = Output(
                unit=unit,
                atol=1e-9,
                hinted=False,
                description="running offset that was added; NaN: none was known yet",
            )
            made[f"{name}_lag"] = Output(
                unit=unit, atol=1e-9, hinted=False, description="what was added for the lag"
            )
        return made

    def prepare(self, settings: Any, bound: Bound) -> Setup:
        """Return the sources of each axis.

        Raises
        ------
        ValueError
            If none of the axes has a source, or zeros have to come from nominal positions that
            are not there.
        """
        sources, zeroed = _sources(settings, bound), settings.zero == "nominal"
        if not sources:
            wanted = ", ".join(settings.axes)
            raise ValueError(f"axes: nothing feeds any of {wanted} in this run")
        lacking = [name for name, there in sources.items() if "nominal" not in there]
        if zeroed and lacking:
            wanted = ", ".join(f"nominal_{name}" for name in lacking)
            raise ValueError(f"zero: nominal needs {wanted}, which nothing feeds in this run")
        return Setup(sources, settings.average, zeroed, settings.lag)

    def process(self, setup: Setup, **columns: Any) -> Columns:
        """Return what each source says, µm (deg), NaN where that is no number."""
        made: dict[str, Array] = {}
        faults = []
        for name, sources in setup.sources.items():
            known = np.zeros(len(columns[f"{sources[0]}_{name}"]), bool)
            for source in sources:
                place = np.array(columns[f"{source}_{name}"], np.float64)
                finite = np.isfinite(place)
                place[~finite] = np.nan
                made[f"{source}_{name}"] = place
                known |= finite
            text = f"{name} is not known: no number from {' or '.join(sources)}"
            faults.append(Fault(~known, text, ()))
        bad = anywhere(faults, len(known))
        return {**made, INVALID: reasons(bad, faults)} if bad.any() else made

    def scan(
        self, setup: Setup, state: Mapping[str, Any] | None, columns: Columns
    ) -> tuple[dict[str, Any], Columns]:
        """Return positions, sources and offsets.

        The state has, by input, the last differences between what better sources said and what
        it said (`apart`), and what moves it to the zero of the nominal position (`zero`); and how
        the stage moves (`motion`).
        """
        before = state or {"apart": {}, "zero": {}, "motion": {}}
        apart, zero = dict(before["apart"]), dict(before["zero"])
        made: dict[str, Array] = {}
        for name, sources in setup.sources.items():
            place = np.full(len(columns[f"{sources[0]}_{name}"]), np.nan)
            code, offset = np.zeros(len(place), np.uint8), np.zeros(len(place))
            for source in sources:
                key = f"{source}_{name}"
                said = columns[key]
                if setup.zeroed and source != "nominal":
                    zero[key], said = _zeroed(zero.get(key), said, columns[f"nominal_{name}"])
                gap = np.isnan(place) & np.isfinite(said)
                if source != sources[0]:
                    differences = place - said
                    both = np.isfinite(differences)
                    known = apart.get(key, NOTHING)
                    differences = np.concatenate([known, differences[both]])
                    apart[key] = differences[-setup.average :].copy()  # lets the others go
                    count = len(known) + np.cumsum(both)[gap]
                    offset[gap] = _means(differences, count, setup.average)
                place[gap] = said[gap] + np.nan_to_num(offset[gap])
                code[gap] = SOURCES.index(source) + 1
            made[name], made[f"{name}_source"], made[f"{name}_offset"] = place, code, offset
        motion: Mapping[str, Any] = {}
        moved = np.zeros((len(setup.sources), len(place)))
        if setup.lag:
            places = np.stack([made[name] for name in setup.sources])
            motion, moved = steps(before["motion"], places)
            moved *= setup.lag
        for name, further in zip(setup.sources, moved, strict=True):
            made[name], made[f"{name}_lag"] = made[name] + further, further
        return {"apart": apart, "zero": zero, "motion": motion}, made

    @classmethod
    def example(cls) -> tuple["Positions", Columns]:
        """Return two axes whose interferometers have gaps, one of them with the encoder."""
        way = np.arange(48) / 10
        columns: dict[str, Array] = {}
        for axis, first in (("x", 12), ("y", 30)):
            columns[f"nominal_{axis}"] = way
            columns[f"encoder_{axis}"] = way + 3 + way**2 / 100
            lost = (np.arange(48) >= first) & (np.arange(48) < first + 10)
            columns[f"interferometer_{axis}"] = np.where(lost, np.nan, way + 0.05 + way**2 / 90)
        columns["encoder_y"][33:36] = np.nan
        return cls(), columns


def _role(axis: str) -> str:
    """Return the role of positions of an axis, as devices and maps know it."""
    return axis if axis == "rotation" else f"position_{axis}"


def _sources(settings: Any, bound: Bound) -> dict[str, tuple[str, ...]]:
    """Return the sources that each axis has in a run, the best one first, if it has any."""
    there = {
        name: tuple(source for source in SOURCES if f"{source}_{name}" in bound)
        for name in settings.axes
    }
    return {name: sources for name, sources in there.items() if sources}


def _zeroed(zero: float | None, said: Floats, nominal: Floats) -> tuple[float | None, Floats]:
    """Return what moves a source to the nominal zero, and the source moved by it.

    The first event in which both are known says it; before, the source says nothing.
    """
    first = 0
    if zero is None:
        both = np.flatnonzero(np.isfinite(nominal - said))
        if not len(both):
            return None, np.full(len(said), np.nan)
        first = int(both[0])
        zero = float(nominal[first] - said[first])
    moved = said + zero
    moved[:first] = np.nan
    return zero, moved


def _means(differences: Floats, count: npt.NDArray[np.intp], average: int) -> Floats:
    """Return the mean of the last differences before each event; NaN where there are none.

    `count` says how many of `differences` there are before the event; in a gap it is the same.
    """
    counts, of = np.unique(count, return_inverse=True)
    means = [
        float(differences[max(n - average, 0) : n].mean()) if n else np.nan for n in counts.tolist()
    ]
    moved: Floats = np.array(means)[of]
    return moved
