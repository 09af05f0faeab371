"""Faults: in which events something is wrong with an axis or a gate, and what."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans
from p06bs.model.modality import INVALID, Columns, Output


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong in some events.

    Attributes
    ----------
    where : ndarray of bool, shape (events,)
    text : str
        With a place for each of the values `shown`.
    shown : sequence of ndarray, shape (events,) each
    flag : int
        Bit of the axis's flag that says so; 0: the whole event is at fault.
    """

    where: Booleans
    text: str
    shown: Sequence[Array]
    flag: int = 0


def empty_gates(samples: Array | None) -> Fault | None:
    """Return which gates are empty, of which a box captures 0; None if none is."""
    if samples is None:
        return None
    taken = (samples > 0) & (samples < np.inf)
    if np.count_nonzero(taken) == len(taken):
        return None
    return Fault(~taken, "the gate is empty (samples: {})", (samples,))


def anywhere(faults: Iterable[Fault], count: int) -> Booleans:
    """Return which of `count` events have one of the faults."""
    made = np.zeros(count, bool)
    for fault in faults:
        made |= fault.where
    return made


def reasons(invalid: Booleans, faults: Iterable[Fault]) -> Array:
    """Return what is wrong with the events that are invalid; "" for the others."""
    said: defaultdict[int, list[str]] = defaultdict(list)
    for fault in faults:
        for event in np.flatnonzero(fault.where & invalid).tolist():
            said[event].append(fault.text.format(*(values[event] for values in fault.shown)))
    return reasons_of({event: "; ".join(each) for event, each in said.items()}, len(invalid))


def reasons_of(found: Mapping[int, str], count: int) -> Array:
    """Return the reasons of `count` events, "" for those without."""
    made = np.full(count, "", object)
    made[list(found)] = list(found.values())
    return made


def invalidate(made: dict[str, Array], reasons: Mapping[int, str]) -> Columns:
    """Return the columns with the events that have a reason masked and flagged."""
    if not reasons:
        return made
    bad = list(reasons)
    for column in made.values():
        column[bad] = Output(dtype=column.dtype.str).fill
    return {**made, INVALID: reasons_of(reasons, len(column))}
