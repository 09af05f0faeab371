"""Tables that services write, in memory; checked before anything changes."""

import re
from typing import Any

import pyarrow
from starlette.exceptions import HTTPException
from tiled.structures.core import StructureFamily
from tiled.structures.table import TableStructure
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

from p06bs.server.tree.arrow_rows import RowsError, cast, copied, copied_bytes, rows_of
from p06bs.server.tree.written import Node, Room

_INDEX = re.compile(r"__index_level_\d+__")

MOST_PARTS = 64
"""Parts of a table that are kept apart: appending does not copy, reading many is slow."""


class TableNode(Node):
    """A table of one partition, to which rows are appended."""

    family = StructureFamily.table

    def __init__(self, *args: Any, structure: TableStructure) -> None:
        super().__init__(*args)
        try:
            self.schema: pyarrow.Schema = structure.arrow_schema_decoded
        except (AttributeError, TypeError, ValueError, OSError, pyarrow.ArrowException) as error:
            raise HTTPException(422, f"This is no Arrow schema: {error}") from error
        if len(set(self.schema.names)) != len(self.schema.names):
            raise HTTPException(422, "Columns of a table have different names.")
        listed = [name for name in self.schema.names if not _INDEX.fullmatch(name)]
        if [name for name in structure.columns if not _INDEX.fullmatch(name)] != listed:
            raise HTTPException(422, f"The columns of the schema are other ones: {listed[:20]}.")
        if structure.npartitions != 1:
            raise HTTPException(422, "Tables are kept in one partition: append to it.")
        self.arrow_schema = structure.arrow_schema
        self.columns = list(structure.columns)
        self._parts: list[pyarrow.Table] = []
        self.rows = 0
        self._data_bytes = 0

    @property
    def data_bytes(self) -> int:
        return self._data_bytes

    def write(self, media_type: str, body: bytes) -> None:
        """Take all rows."""
        rows = self.decoded(media_type, body)
        with self.changing() as room:
            table, nbytes = _kept(rows, room)
            self._parts, self.rows, self._data_bytes = [table], len(table), nbytes

    def append(self, partition: int, media_type: str, body: bytes) -> None:
        """Take more rows."""
        if partition != 0:
            raise HTTPException(422, f"There is no partition {partition}, only 0.")
        rows = self.decoded(media_type, body)
        with self.changing() as room:
            if len(self._parts) < MOST_PARTS:
                table, nbytes = _kept(rows, room)
                parts, nbytes = [*self._parts, table], self._data_bytes + nbytes
            else:
                room(self._data_bytes + rows.nbytes)  # for a moment they are there twice
                table = pyarrow.concat_tables([*self._parts, rows]).combine_chunks()
                parts, nbytes = [table], table.nbytes
            self._parts, self.rows, self._data_bytes = parts, self.rows + len(rows), nbytes

    def decoded(self, media_type: str, body: bytes) -> pyarrow.Table:
        """Return rows from an Arrow file, in the columns and types of the table."""
        if media_type != APACHE_ARROW_FILE_MIME_TYPE:
            raise HTTPException(
                415, f"Rows are written as {APACHE_ARROW_FILE_MIME_TYPE}, not as {media_type}."
            )
        try:
            table = rows_of(body)
            # Clients send the index of a data frame, too, where the table has none.
            sent = {name for name in table.column_names if not _INDEX.fullmatch(name)}
            odd = sent ^ {name for name in self.schema.names if not _INDEX.fullmatch(name)}
            if odd:
                raise RowsError(f"the columns are other ones: {', '.join(sorted(odd))}")
            return cast(table.select(self.schema.names), self.schema, self.tree.sink.shares.held)
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            raise HTTPException(422, f"These rows do not fit the table: {error}") from error

    def structure(self) -> TableStructure:
        """Return the structure."""
        return TableStructure(arrow_schema=self.arrow_schema, npartitions=1, columns=self.columns)

    def table(self) -> pyarrow.Table:
        """Return the rows."""
        return pyarrow.concat_tables(self._parts) if self._parts else self.schema.empty_table()


def _kept(rows: pyarrow.Table, room: Room) -> tuple[pyarrow.Table, int]:
    """Return a copy of rows, which keeps nothing of what they came in, and its bytes."""
    nbytes = copied_bytes(rows)
    room(nbytes)
    return copied(rows, pyarrow.allocate_buffer(nbytes)), nbytes
