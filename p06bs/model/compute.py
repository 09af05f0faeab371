"""Compute a batch: run the modality, and keep one bad event from spoiling it.

The same function runs in a worker, in a notebook callback and in the
reference `process`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.model.binding import Binding
from p06bs.model.modality import (
    INVALID,
    PART,
    RESERVED,
    Columns,
    Modality,
    ModalitySettings,
    Output,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Setup:
    """A modality made ready for a run and its settings, once per worker."""

    modality: Modality
    settings: ModalitySettings
    binding: Binding
    prepared: Any
    outputs: Mapping[str, Output]


@dataclass(frozen=True, slots=True)
class Result:
    """What a batch gave: a reason per event ("" if valid), and columns of the valid ones.

    `parts` are what it contributes to `fold`: more than one if it was halved.
    """

    reasons: list[str]
    columns: dict[str, Array]
    parts: tuple[Any, ...] = ()

    def __len__(self) -> int:
        return len(self.reasons)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Mask of the events that have a row in `columns`."""
        return np.array([not r for r in self.reasons], bool)


BATCH_BYTES = 1 << 25
"""Most bytes of a batch's inputs or outputs, so that a worker's memory is bounded."""


def rows_within(binding: Binding, outputs: Mapping[str, Output], most: int) -> int:
    """Return how many events a batch may have: `most`, or fewer where they are large."""
    made = sum(math.prod(o.shape) * np.dtype(o.dtype).itemsize for o in outputs.values())
    return max(1, min(most, BATCH_BYTES // max(1, binding.row_bytes, made)))


def make_ready(modality: Modality, settings: ModalitySettings, binding: Binding) -> Setup:
    """Return the setup of a modality; slow, so call it once for a run and its settings."""
    prepared = modality.prepare(settings, binding.bound)
    outputs = dict(modality.outputs(settings, binding.bound))
    reserved = RESERVED & set(outputs)
    if reserved:
        raise ValueError(f"{modality.name} may not call outputs {', '.join(sorted(reserved))}")
    return Setup(modality, settings, binding, prepared, outputs)


def invalid(count: int, reason: str) -> Result:
    """Return a result whose `count` events are all invalid for `reason`."""
    return Result([_text(reason) or "unknown"] * count, {})


def _text(reason: str) -> str:
    """Return a reason, which is whatever an author's code said, as text that can travel."""
    return reason.encode("utf-8", "replace").decode()


def compute(setup: Setup, columns: Mapping[str, Array | None], reasons: list[str]) -> Result:
    """Run the modality over a batch's columns.

    If it fails, the batch is halved until single events are left; those that
    still fail are invalid with the exception as reason.
    """
    good = np.array([not r for r in reasons], bool)
    if not good.all():
        if not good.any():
            return Result(reasons, {})
        columns = {k: None if c is None else c[good] for k, c in columns.items()}
    arrays: dict[str, Array | None] = dict.fromkeys(setup.modality.declared)
    for name, column in columns.items():
        if column is not None:
            column.flags.writeable = False
        arrays[name] = column
    part = _halving(setup, arrays, int(good.sum()))
    if good.all():
        return part
    merged = list(reasons)
    for i, reason in zip(np.flatnonzero(good).tolist(), part.reasons, strict=True):
        merged[i] = reason
    return Result(merged, part.columns, part.parts)


def _halving(setup: Setup, columns: Mapping[str, Array | None], count: int) -> Result:
    try:
        return _once(setup, columns, count)
    except (Exception, SystemExit) as error:  # whatever an author's code raises, for this event
        if count == 1:
            return invalid(1, f"{type(error).__name__}: {error}")
    half = count // 2
    parts = [
        _halving(setup, {k: None if c is None else c[cut] for k, c in columns.items()}, n)
        for cut, n in ((slice(0, half), half), (slice(half, count), count - half))
    ]
    return join(parts)


def join(parts: Sequence[Result]) -> Result:
    """Put results of consecutive batches together."""
    made = [p for p in parts if p.columns]
    columns = (
        {k: np.concatenate([p.columns[k] for p in made]) for k in made[0].columns} if (made) else {}
    )
    folded = tuple(part for p in parts for part in p.parts)
    return Result([r for p in parts for r in p.reasons], columns, folded)


def _once(setup: Setup, columns: Mapping[str, Array | None], count: int) -> Result:
    made = dict(setup.modality.process(setup.prepared, **columns))
    flags = made.pop(INVALID, None)
    parts: tuple[Any, ...] = ()
    if setup.modality.fold is not None:
        if PART not in made:
            raise ValueError(f"process of {setup.modality.name} returned no {PART!r} to fold")
        parts = (made.pop(PART),)
    if setup.modality.scan is None:
        made = check_outputs(setup, made, count)
    else:
        made = {k: np.asarray(c) for k, c in made.items()}
        short = [k for k, c in made.items() if c.shape[:1] != (count,)]
        if short:
            raise ValueError(f"process made columns of wrong length: {', '.join(short)}")
    return flagged(setup, made, flags, count, parts)


def flagged(
    setup: Setup, made: dict[str, Array], flags: Any, count: int, parts: tuple[Any, ...] = ()
) -> Result:
    """Return the result of columns and what the reserved column says of their events, or None."""
    if flags is None:
        return Result([""] * count, made, parts)
    said = np.asarray(flags)
    if said.dtype == np.bool_:
        reasons = ["flagged" if flag else "" for flag in said.tolist()]
    else:
        reasons = [_text(str(flag)) for flag in said.tolist()]
    if len(reasons) != count:
        name = setup.modality.name
        raise ValueError(f"{name} flagged {len(reasons)} events of a batch of {count}")
    keep = np.array([not r for r in reasons], bool)
    if not keep.all():
        made = {k: c[keep] for k, c in made.items()} if keep.any() else {}
    return Result(reasons, made, parts)


def check_outputs(setup: Setup, made: Columns, count: int) -> dict[str, Array]:
    """Return the columns as declared.

    Raises
    ------
    ValueError
        If a column is missing, unknown, or has another shape or dtype than declared.
    """
    if set(made) != set(setup.outputs):
        missing = sorted(set(setup.outputs) - set(made))
        extra = sorted(set(made) - set(setup.outputs))
        raise ValueError(
            f"{setup.modality.name} made columns other than declared: "
            f"missing {missing}, not declared {extra}"
        )
    checked: dict[str, Array] = {}
    for name, declared in setup.outputs.items():
        column = np.asarray(made[name])
        if column.shape != (count, *declared.shape):
            raise ValueError(
                f"{setup.modality.name} made {name} with shape {column.shape}, "
                f"declared is {(count, *declared.shape)}"
            )
        dtype = np.dtype(declared.dtype)
        if column.dtype != dtype:
            column = _as_declared(setup.modality, name, column, dtype)
        checked[name] = column
    return checked


def _as_declared(modality: Modality, name: str, column: Array, dtype: np.dtype[Any]) -> Array:
    """Return a column in the dtype declared, as long as no value changes but by rounding."""
    whole = column.dtype.kind in "iu" and dtype.kind in "iu"
    if not whole and not np.can_cast(column.dtype, dtype, "same_kind"):
        raise ValueError(f"{modality.name} made {name} as {column.dtype}, declared is {dtype}")
    cast = column.astype(dtype)
    if dtype.kind not in "fc" and not np.array_equal(cast, column):
        raise ValueError(f"{modality.name} made {name} with values that {dtype} does not hold")
    return cast
