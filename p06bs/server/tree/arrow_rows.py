"""Rows that somebody sends as an Arrow file: checked before they take more memory than that.

A few bytes can stand for any number of values: compressed, as a dictionary, as views of one
another, or as nulls, which take none. So what would have to be unfolded is refused.
"""

import struct
from collections.abc import Iterator

import pyarrow
from pyarrow import types

MAGIC_BYTES = 8
"""An Arrow file is a stream behind its magic number; what follows it is an index."""

VALUES_PER_BYTE = 8


class RowsError(ValueError):
    """Rows that are not taken; says why."""


def rows_of(body: bytes) -> pyarrow.Table:
    """Return the rows of an Arrow file; they are parts of `body`.

    Raises
    ------
    RowsError
        If they are compressed, or more than there are bytes for.
    pyarrow.ArrowException, OSError, ValueError
        If this is no Arrow file.
    """
    stream = pyarrow.py_buffer(body)[MAGIC_BYTES:]
    try:
        compressed = any(map(_is_compressed, pyarrow.ipc.MessageReader.open_stream(stream)))
    except struct.error as error:
        raise RowsError(f"a header ends too early: {error}") from error
    if compressed:
        raise RowsError("they are compressed: send Arrow without compression")
    table = pyarrow.ipc.open_stream(stream).read_all()
    table.validate(full=True)
    values = sum(map(values_in, _chunks(table)))
    if values > VALUES_PER_BYTE * len(body):
        raise RowsError(f"{values} values in {len(body)} bytes: send nulls in the column's type")
    return table


def cast(table: pyarrow.Table, schema: pyarrow.Schema, most: int) -> pyarrow.Table:
    """Return a table in other types, of at most about `most` bytes.

    Raises
    ------
    RowsError
        If a dictionary, or views, would have to be unfolded, or it would be larger.
    pyarrow.ArrowException, ValueError
        If values do not fit the types.
    """
    for sent, wanted in zip(table.schema, schema, strict=True):
        if sent.type != wanted.type and not (_is_flat(sent.type) and _is_flat(wanted.type)):
            raise RowsError(f"column {sent.name} has {sent.type}, not {wanted.type}")
    values = 0 if table.schema.types == schema.types else sum(map(values_in, _chunks(table)))
    if table.nbytes + 8 * values > most:
        raise RowsError(f"in the types of the table they may have more than {most} bytes")
    return table.cast(schema)


def copied(table: pyarrow.Table, buffer: pyarrow.Buffer) -> pyarrow.Table:
    """Return a table that keeps nothing but `buffer`, of `copied_bytes`."""
    _write(table, pyarrow.FixedSizeBufferWriter(buffer))
    return pyarrow.ipc.open_stream(buffer).read_all()


def copied_bytes(table: pyarrow.Table) -> int:
    """Return the bytes that a copy takes."""
    counted = pyarrow.MockOutputStream()
    _write(table, counted)
    return int(counted.size())


def values_in(array: pyarrow.Array) -> int:
    """Return the number of values, those in its values included."""
    return len(array) + sum(map(values_in, _below(array)))


def _write(table: pyarrow.Table, sink: pyarrow.NativeFile) -> None:
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def _chunks(table: pyarrow.Table) -> Iterator[pyarrow.Array]:
    for column in table.columns:
        yield from column.chunks


def _below(array: pyarrow.Array) -> Iterator[pyarrow.Array]:
    kind = array.type
    if types.is_struct(kind) or types.is_union(kind):
        yield from (array.field(i) for i in range(kind.num_fields))
    elif types.is_dictionary(kind):
        yield array.dictionary
    elif types.is_map(kind) or (types.is_nested(kind) and hasattr(array, "values")):
        yield array.values


def _is_flat(kind: pyarrow.DataType) -> bool:
    """Return whether each value is there itself, in what is nested, too."""
    if types.is_nested(kind):
        listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        known = listed or types.is_struct(kind) or types.is_map(kind)
        return known and all(_is_flat(kind.field(i).type) for i in range(kind.num_fields))
    return not (
        types.is_dictionary(kind)
        or types.is_run_end_encoded(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    )


def _is_compressed(message: pyarrow.Message) -> bool:
    """Return whether the body of a message is compressed: its header, a flatbuffer, says so."""
    metadata = message.metadata
    root = struct.unpack_from("<I", metadata, 0)[0]
    header = _table(metadata, _field(metadata, root, 2))
    if message.type == "dictionary":
        header = _table(metadata, _field(metadata, header, 1))
    elif message.type != "record batch":
        return False
    return bool(_field(metadata, header, 3))


def _table(metadata: pyarrow.Buffer, at: int) -> int:
    """Return where the table is that the field at `at` refers to."""
    return at + int(struct.unpack_from("<I", metadata, at)[0])


def _field(metadata: pyarrow.Buffer, table: int, number: int) -> int:
    """Return where a field of a table is; 0 if the table has it not."""
    slots = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, slots)[0]
    slot = 4 + 2 * number
    offset = struct.unpack_from("<H", metadata, slots + slot)[0] if slot < size else 0
    return table + int(offset) if offset else 0
