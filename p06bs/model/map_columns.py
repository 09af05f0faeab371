"""The columns of streams that continue each other, as one; and what maps read of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from p06bs.model.mapped import Columns, Mapped
from p06bs.model.points import Column, Points, Positions
from p06bs.model.positions import Measurement
from p06bs.model.run_streams import Described, Run, number_column


class Typed(Column, Protocol):
    """A column of values that all have one type, and one shape."""

    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Stream(Protocol):
    """A stream as far as it is there: its descriptor, and its columns by their names.

    Beside the data keys' these may be ``seq_num`` and ``time``; whatever else has such a name
    is called otherwise.
    """

    @property
    def metadata(self) -> Mapping[str, Any]: ...
    @property
    def columns(self) -> Mapping[str, Typed]: ...

    def description(self, name: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a column, with ``data_key`` if that differs."""


Streams = Mapping[str, Stream]


@dataclass(frozen=True, slots=True)
class Chain:
    """Columns one after the other.

    Attributes
    ----------
    parts : sequence of (Column or None, int)
        Each with the number of its rows. Rows that a column lacks are `missing`, but
        those at the end of the last part are not there yet.
    missing : float
    """

    parts: Sequence[tuple[Column | None, int]]
    missing: float = np.nan

    @property
    def rows(self) -> int:
        """Rows that are there."""
        column, last = self.parts[-1]
        if column is not None:
            last = min(last, column.rows)
        return sum(rows for _, rows in self.parts[:-1]) + last

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows `start` to `stop - 1`."""
        found: list[npt.NDArray[Any]] = []
        first = 0
        for column, rows in self.parts:
            low, high = max(start - first, 0), min(stop - first, rows)
            first += rows
            if low >= high:
                continue
            there = max(low, min(high, column.rows)) if column is not None else low
            if column is not None and there > low:
                found.append(column.read(low, there).reshape(there - low))
            if there < high:
                found.append(np.full(high - there, self.missing))
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty(0)


@dataclass(frozen=True, slots=True)
class Counted:
    """The numbers of rows that have none of their own: 1, 2, 3..."""

    rows: int

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the numbers of rows `start` to `stop - 1`."""
        return np.arange(start + 1, stop + 1)


def described(start: Mapping[str, Any], streams: Streams) -> Run:
    """Return what a run says about itself."""
    return Run(
        start,
        {
            name: Described(
                view.metadata,
                {
                    key: view.description(key)
                    for key, column in view.columns.items()
                    if _is_number(column)
                },
            )
            for name, view in streams.items()
        },
    )


def points_of(
    one: Mapped, run: Run, streams: Streams, others: Mapping[str, tuple[Run, Streams]]
) -> Points:
    """Return what the rows of a map say beside their values.

    `others` are the runs that may have the positions, by `Measurement.of`.
    """
    numbers, _ = numbers_of(run, streams, one.streams)
    valid = valid_of(run, streams, one.streams)
    measured = one.where.measured
    if measured is None:
        return Points(numbers, None, valid)
    if measured.of:
        run, streams = others[measured.of]
    return Points(numbers, _positions(measured, run, streams), valid)


def valid_of(run: Run, streams: Streams, names: Sequence[str]) -> Chain | None:
    """Return whether the rows of streams are valid; None where nobody says."""
    flags = [streams[name].columns.get("valid") for name in names]
    _, lengths = numbers_of(run, streams, names)
    return Chain(list(zip(flags, lengths, strict=True)), 1.0) if any(flags) else None


def values_of(one: Columns, run: Run, streams: Streams) -> Chain:
    """Return the values of a map or curve; NaN in streams that do not have the column."""
    _, lengths = numbers_of(run, streams, one.streams)
    columns = [
        streams[name].columns[one.column] if name in one.having else None for name in one.streams
    ]
    return Chain(list(zip(columns, lengths, strict=True)))


def _positions(measured: Measurement, run: Run, streams: Streams) -> Positions:
    numbers, lengths = numbers_of(run, streams, measured.streams)
    y, x = (
        Chain(
            [
                (streams[stream].columns[key], rows)
                for stream, rows in zip(measured.streams, lengths, strict=True)
            ]
        )
        for key in (measured.y, measured.x)
    )
    return Positions(x, y, measured.scale, numbers if measured.joined else None)


def numbers_of(run: Run, streams: Streams, names: Sequence[str]) -> tuple[Chain, list[int]]:
    """Return the numbers of the rows of streams, and how many rows each has."""
    parts: list[tuple[Column, int]] = []
    for name in names:
        key = number_column(run, name)
        columns = streams[name].columns
        if key is not None and columns[key].rows:
            parts.append((columns[key], columns[key].rows))
        else:  # no events: what there is lies in files, row by row
            rows = max((columns[one].rows for one in run.streams[name].numbers), default=0)
            parts.append((Counted(rows), rows))
    return Chain(parts), [rows for _, rows in parts]


def _is_number(column: Any) -> bool:
    """Return whether a row is one number (ophyd-async describes some as of shape [1])."""
    return column.dtype.kind in "biuf" and prod(column.shape) == 1
