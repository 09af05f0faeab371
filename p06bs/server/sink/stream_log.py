"""The rows of a stream that are not in memory: read back from the log of its run."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from p06bs.bus.framing import LogError
from p06bs.server.sink.columns import Column, Packed, TextColumn, texts_of
from p06bs.server.sink.described import DescribedColumns
from p06bs.server.sink.pages import LoggedPage, LoggedRows, page_of
from p06bs.server.sink.places import Place, Places, RowsLostError, pages_between
from p06bs.server.sink.values import Array, as_type

logger = logging.getLogger(__name__)

Values = Array | list[str]


class StreamLog:
    """Where the rows of a stream lie in the log of its run.

    Parameters
    ----------
    name : str
        Of the stream.
    described : DescribedColumns
        Its columns.

    Attributes
    ----------
    described : DescribedColumns
    complete : bool
        Whether all rows lie there, so that they may leave memory.
    """

    def __init__(self, name: str, described: DescribedColumns) -> None:
        self.complete = True
        self._name = name
        self.described = described
        self._descriptors: dict[str, int] = {}  # where they lie
        self._places = Places()
        self._path: Path | None = None
        self._problem = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the index."""
        return self._places.nbytes

    def describe(self, uid: str, place: Place | None) -> None:
        """Note a descriptor, to which events behind it refer."""
        self._descriptors.setdefault(uid, -1 if place is None else place.offset)

    def note(self, row: int, place: Place | None) -> None:
        """Note where the rows from `row` on lie: None is nowhere."""
        if place is None:
            self.complete = False
        else:
            self._path = place.path
            self._places.note(row, place.offset, place.nbytes)

    def interrupt(self) -> None:
        """Note that a page of the stream was refused."""
        self._places.interrupt()

    def read(self, columns: Mapping[str, Column], start: int, stop: int) -> dict[str, list[Any]]:
        """Return rows `start` to `stop - 1` as the log has them, page by page.

        Raises
        ------
        RowsLostError
            If they cannot be read.
        """
        try:
            return self._read(columns, start, stop)
        except (LogError, LookupError, OSError, TypeError, ValueError, RowsLostError) as error:
            self._complain(str(error))
            raise RowsLostError(
                f"rows {start} to {stop - 1} of stream {self._name} are not in memory, and cannot "
                "be read from the log of the run"
            ) from error

    def _read(self, columns: Mapping[str, Column], start: int, stop: int) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {column: [] for column in columns}
        got = start
        if self._path is None:
            raise RowsLostError("they lie in no log")
        for segment in self._places.segments(start, stop):
            row = segment.row
            for kind, document, place in pages_between(self._path, segment, self._descriptors):
                page = LoggedPage(page_of(document) if kind == "event" else document, place)
                low, high = max(got, row) - row, min(stop, row + len(page)) - row
                row += len(page)
                if low < high:
                    got += high - low
                    for wanted, column in columns.items():
                        values = column.fit(self.described.values(page, wanted), len(page))
                        found[wanted].append(_cut(values, low, high))
        if got != stop:
            raise RowsLostError(f"not all of them are in {self._path}")
        return found

    def _complain(self, problem: str) -> None:
        """Log why rows cannot be read, once: paths are nothing for clients, who ask again."""
        if problem != self._problem:
            self._problem = problem
            logger.warning("rows of stream %s cannot be read: %s", self._name, problem)


def _cut(values: Any, low: int, high: int) -> Any:
    if isinstance(values, Packed):
        return [text.decode() for text in values.texts[low:high]]
    if isinstance(values, LoggedRows):
        part = np.empty((high - low, *values.shape[1:]), values.dtype.newbyteorder("="))
        values.into(part, low)
        return part
    return values[low:high].copy()  # a view would keep the whole page in memory


def joined(
    column: Column, dtype: np.dtype[Any], earlier: list[Any], rows: int, held: list[Any]
) -> Values:
    """Return `rows` rows of what the log has, and those that are held.

    The type of the column may have changed since somebody looked at it, and while parts
    were read: each becomes what it was then, by which no value changes.
    """
    if isinstance(column, TextColumn):
        texts: list[str] = [text for part in earlier for text in part][:rows]
        return texts + texts_of(held)
    parts: list[Array] = []
    for part in earlier:
        parts.append(part[:rows])
        rows -= len(parts[-1])
    parts = [as_type(part, dtype) for part in (*parts, *held)]
    if not parts:
        return np.empty((0, *column.shape), dtype)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
