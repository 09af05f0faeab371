"""How the rows of a page fit the columns of a stream, and which other columns they need."""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from p06bs.server.sink.columns import Column, Packed, Rows
from p06bs.server.sink.described import DescribedColumns
from p06bs.server.sink.pages import LoggedPage
from p06bs.server.sink.values import Array, ShapeError, are_gaps


@dataclass(frozen=True, slots=True)
class Fitted:
    """The rows of a page as the columns take them."""

    count: int
    columns: dict[str, Column]
    values: dict[str, Array | Rows | Packed]
    described: DescribedColumns
    valued: set[str]
    """Columns that have their first value."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """The columns of a stream before a page comes; nothing here changes them.

    Attributes
    ----------
    valued : set of str
        Columns that have a value.
    rows : int
        Rows of each column.
    logged : bool
        Whether these and the page are in the log, so that another column can have them.
    """

    described: DescribedColumns
    columns: Mapping[str, Column]
    valued: Set[str]
    rows: int
    logged: bool

    def page(self, page: LoggedPage) -> Fitted:
        """Return the rows of a page as the columns, some of which may be new, take them.

        Raises
        ------
        LookupError, TypeError, ValueError, LogError, OSError
            If they do not fit the description, or what came before.
        """
        fitted = Fitted(len(page), dict(self.columns), {}, self._described(page), set())
        if not fitted.count:
            return fitted
        for name in fitted.described.origins:
            values = fitted.described.values(page, name)
            if name not in self.valued and not are_gaps(values):
                fitted.valued.add(name)
            elif name not in self.columns and self.logged:
                continue  # what it is will be known when it has a value
            try:
                column, fitting = self._column(fitted.described, name, values, fitted.count)
            except (TypeError, ValueError) as error:
                raise ValueError(f"column {name}: {error}") from error
            fitted.columns[name], fitted.values[name] = column, fitting
        return fitted

    def _described(self, page: LoggedPage) -> DescribedColumns:
        """Return the description with what a page has beside: it must be logged to have more."""
        if not len(page):
            return self.described
        if not self.logged:
            self.described.check_keys(page.page)
            return self.described
        if not isinstance(page.page["data"], Mapping):
            raise TypeError("data map data keys to values")
        return self.described.including(page.page["data"], {})

    def _column(
        self, described: DescribedColumns, name: str, values: Any, count: int
    ) -> tuple[Column, Array | Rows | Packed]:
        """Return a column that takes values, perhaps a new one, and the values as it takes them.

        The rows that a new one has before them are in the log. What is logged and data of
        whatever kind is taken as text at last.

        Raises
        ------
        TypeError, ValueError
            If none does.
        """
        column, first = self.columns.get(name), name not in self.valued
        is_data = described.origins[name].part == "data"
        if column is not None:
            try:
                return column, column.fit(values, count)
            except (TypeError, ValueError) as error:
                reshaped = first and not self.rows and isinstance(error, ShapeError)
                if not is_data or not (self.logged or reshaped):
                    raise
        if column is None or first:
            try:
                column = described.column_for(name, values, self.rows, strict=not self.logged)
                return column, column.fit(values, count)
            except (TypeError, ValueError):
                if not is_data or not self.logged:
                    raise
        # Rows of several shapes or kinds are JSON, those before them, too.
        text = described.text_behind(None if first else column, self.rows)
        return text, text.fit(values, count)
