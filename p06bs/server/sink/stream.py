"""One stream of a run: its descriptors' metadata and its rows, in memory or by reference.

The newest rows are in memory. Older ones that were let go lie in the log of the run,
and are read from there when somebody asks for them.
"""

import itertools
import threading
from collections.abc import Mapping
from typing import Any

from p06bs.model.documents import Document
from p06bs.server.files.announced import rows_described
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.columns import Column, TextColumn, View
from p06bs.server.sink.described import DescribedColumns
from p06bs.server.sink.external import ExternalColumn
from p06bs.server.sink.fitting import Fitted, Fitting
from p06bs.server.sink.pages import LoggedPage
from p06bs.server.sink.places import Place, RowsLostError
from p06bs.server.sink.shares import Shares
from p06bs.server.sink.stream_log import StreamLog, Values, joined
from p06bs.server.sink.values import size_of
from p06bs.server.sink.views import EventColumn, StreamView

STREAM_BYTES = 4096
COLUMN_BYTES = 1536
"""What Python keeps about a stream and about a column, beside the rows."""

PATIENCE_SECONDS = 5.0
"""How long arrays that are not as their checksum says count as "not visible yet"."""


class Stream:
    """One stream of a run.

    Parameters
    ----------
    name : str
        As a node is called.
    descriptor : dict
        The first one.
    shares : Shares
        Sizes of chunks and blocks.
    lock : RLock
        Held while what readers look at changes.
    roots : FileRoots
        Where its files may lie.
    place : Place or None
        Of the descriptor in the log.

    Attributes
    ----------
    rows : int
        Rows that can be read.
    numbers : dict
        Column -> its number, in the order in which columns came. One whose values become
        arrays, or stop being arrays, comes anew.
    by_reference : int
        How many of them, the oldest, were let go or never held.
    """

    def __init__(
        self,
        name: str,
        descriptor: Document,
        shares: Shares,
        lock: "threading.RLock",
        roots: FileRoots,
        place: Place | None,
    ) -> None:
        self.name = name
        self.shares = shares
        self.metadata = {k: v for k, v in descriptor.items() if k not in ("name", "run_start")}
        self.described = DescribedColumns(self.metadata["data_keys"], shares)
        self.columns = self.described.columns()
        self._count = itertools.count(1)
        self.numbers = {name: next(self._count) for name in self.columns}
        self._roots = roots
        self.external: dict[str, ExternalColumn] = {}
        self._add_external()
        self.rows = self.by_reference = 0
        self._valued: set[str] = set()
        self._lock = lock
        self._log = StreamLog(name, self.described)
        self._log.describe(descriptor["uid"], place)
        self._document_bytes = STREAM_BYTES + 2 * size_of(self.metadata)

    @property
    def nbytes(self) -> int:
        """Bytes that the stream takes."""
        return (
            self._document_bytes
            + COLUMN_BYTES * (len(self.described.origins) + len(self.external))
            + self.data_bytes
            + self._log.nbytes
            + sum(column.nbytes for column in self.external.values())
        )

    @property
    def data_bytes(self) -> int:
        """Bytes of the rows that are in memory, as allocated."""
        return sum(column.nbytes for column in self.columns.values())

    @property
    def logged(self) -> bool:
        """Whether all rows lie in the log, so that they may be let go."""
        return self._log.complete

    @property
    def in_log(self) -> int:
        """Rows that are not, or not with all their columns, in memory.

        More than those `by_reference` where a column came late, or became text.
        """
        return max((column.first for column in self.columns.values()), default=0)

    def update(self, descriptor: Document, place: Place | None) -> None:
        """Note a further descriptor, at `place` in the log: configuration, perhaps new keys.

        Raises
        ------
        ValueError
            If a column would have to be called otherwise for them.
        """
        described = self.described.including(descriptor["data_keys"], descriptor["data_keys"])
        news = {k: descriptor[k] for k in ("uid", "time", "configuration") if k in descriptor}
        # A new dict each time: views hold the old one.
        updates = [*self.metadata.get("_config_updates", ()), news]
        keys = {**descriptor["data_keys"], **self.metadata["data_keys"]}
        self.metadata = {**self.metadata, "data_keys": keys, "_config_updates": updates}
        self._describe(described)
        self._add_external()
        self._log.describe(descriptor["uid"], place)
        self._document_bytes += size_of(descriptor)

    def _describe(self, described: DescribedColumns) -> None:
        self.described = self._log.described = described

    def _add_external(self) -> None:
        new = {}
        for key, column in self.described.external.items():
            row = rows_described(self.metadata["data_keys"][key])
            if column not in self.external and row is not None:
                new[column] = ExternalColumn(key, *row, self._roots, self.shares.chunk)
                self.numbers[column] = next(self._count)
        self.external = {**self.external, **new}  # a new dict: readers look at the old one

    def fit(self, page: LoggedPage) -> Fitted:
        """Return the rows of a page as the columns take them; nothing changes.

        Raises
        ------
        LookupError, TypeError, ValueError, LogError, OSError
            If they do not fit the description, or what came before.
        """
        logged = self.logged and page.place is not None
        return Fitting(self.described, self.columns, self._valued, self.rows, logged).page(page)

    def needs(self, fitted: Fitted) -> int:
        """Return how many bytes `put` would allocate more, at most."""
        news = len(fitted.described.origins) - len(self.described.origins)
        nbytes = COLUMN_BYTES * news
        for name, values in fitted.values.items():
            nbytes += fitted.columns[name].needs(values)  # type: ignore[arg-type]
        return nbytes

    def put(self, fitted: Fitted) -> None:
        """Write rows behind those that are there; nobody sees them before `commit`.

        Raises
        ------
        LogError, OSError
            If they cannot be read from the log, or there is no memory: then no column
            has more rows than before.
        """
        try:
            for name, values in fitted.values.items():
                fitted.columns[name].put(values)  # type: ignore[arg-type]
        except BaseException:
            for column in fitted.columns.values():
                column.cut(self.rows)
            raise

    def skip(self, fitted: Fitted) -> None:
        """Leave rows in the log, and all before them, too."""
        for name, values in fitted.values.items():
            fitted.columns[name].skip(values)  # type: ignore[arg-type]
        self.by_reference = self.rows + fitted.count

    def commit(self, fitted: Fitted, place: Place | None) -> None:
        """Show the rows that `put` wrote, or `skip` left in the log."""
        for name, column in fitted.columns.items():
            old = self.columns.get(name)
            if old is None or bool(old.shape) != bool(column.shape):
                self.numbers[name] = next(self._count)
        self.columns = fitted.columns
        self._valued |= fitted.valued
        self._describe(fitted.described)
        if fitted.count:
            self._log.note(self.rows, place)
        self.rows += fitted.count

    def refused(self) -> None:
        """Note that a page of the stream was refused."""
        self._log.interrupt()

    def drop(self, nbytes: int) -> int:
        """Let the oldest rows go, of about `nbytes` bytes; return how many bytes that gave."""
        before = self.data_bytes
        while self.data_bytes and before - self.data_bytes < nbytes:
            # What failed may have left blocks behind all rows: these go with the last ones.
            row = self.rows
            if nbytes < before:
                row = min(column.oldest_end for column in self.columns.values() if column.nbytes)
            with self._lock:
                for column in self.columns.values():
                    column.forget(row)
                self.by_reference = max(self.by_reference, row)
        return before - self.data_bytes

    def announce(self, data_key: str, resource: Document, start: int, stop: int) -> None:
        """Add rows that lie in a file.

        Raises
        ------
        KeyError
            If the descriptor has no such data key, or says nothing of its shape.
        """
        self.external[self.described.external[data_key]].announce(resource, start, stop)

    def view(self) -> StreamView:
        """Return the stream as it is now."""
        columns: dict[str, View] = {
            name: EventColumn(self, name, self.rows, c.dtype, c.shape, c.rows_per_chunk)
            for name, c in self.columns.items()
        }
        columns.update((name, column.view()) for name, column in self.external.items())
        return StreamView(self.metadata, columns, frozenset(self.external), self)

    def read(self, views: Mapping[str, View], start: int, stop: int) -> dict[str, Values]:
        """Return rows `start` to `stop - 1` of event columns, by name, in the types of `views`.

        Raises
        ------
        RowsLostError
            If they are not in memory, and cannot be read from the log, or if a column has
            become another one since it was looked at.
        """
        with self._lock:
            columns = {name: self.columns[name] for name in views}
            for name, view in views.items():
                _check_same(name, columns[name], view)
            stop = max(start, min(stop, self.rows))
            firsts = {name: min(max(c.first, start), stop) for name, c in columns.items()}
            held: dict[str, list[Any]] = {
                name: c.parts(firsts[name], stop) for name, c in columns.items()
            }
        found: dict[str, list[Any]] = {name: [] for name in views}
        earlier = max(firsts.values(), default=start)
        if earlier > start:
            found = self._log.read(columns, start, earlier)
        return {
            name: joined(columns[name], view.dtype, found[name], firsts[name] - start, held[name])
            for name, view in views.items()
        }


def _check_same(name: str, column: Column, view: View) -> None:
    """Check that a column still has the rows that a view of it has.

    Raises
    ------
    RowsLostError
        If not.
    """
    if isinstance(column, TextColumn) and view.dtype.kind != "U":
        raise RowsLostError(f"column {name} has become text: ask for it again")
    if column.shape != view.shape:
        raise RowsLostError(f"column {name} has rows of shape {column.shape} now: ask for it again")
