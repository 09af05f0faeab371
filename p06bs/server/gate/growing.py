"""Reads of arrays that grow meanwhile.

A client that reads an array says which shape it expects from the structure it
has. When the array has grown since, Tiled calls that an error; here the read
is bounded to the rows that the client knows.
"""

import re
from urllib.parse import parse_qsl, urlencode

from tiled.ndslice import NDSlice

GROWING = re.compile(r"/api/v1/array/(full|block)/(?!.*/maps/[^/]+$)")
"""Rows are added to columns. A map has no rows: another shape of it is another map."""


def bounded_query(query: bytes) -> bytes:
    """Return the query of an array read with its slice bounded to the expected shape."""
    fields = dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))
    expected = fields.get("expected_shape", "")
    if not re.fullmatch(r"\d{1,18}(,\d+)*", expected):
        return query
    bounded = bounded_slice(fields.get("slice", ""), int(expected.split(",")[0]))
    if bounded is None:
        return query
    fields["slice"] = bounded
    return urlencode(fields).encode("latin-1")


def bounded_slice(text: str, rows: int) -> str | None:
    """Return the slice that takes `rows` rows, or None where that needs no change.

    Parameters
    ----------
    text : str
        A numpy-style slice as clients send it; "" is everything.
    rows : int
        Length of the leading axis of the result that the client expects.
    """
    try:
        first, *rest = NDSlice.from_numpy_str(text) or (slice(None),)
    except ValueError:
        return None  # for Tiled to refuse
    if not isinstance(first, slice) or rows == 0:
        return None
    step = first.step or 1
    start = 0 if first.start is None and step > 0 else first.start
    if start is None or start < 0:
        return None
    stop = start + rows * step
    bounded: str = NDSlice(slice(start, stop if stop >= 0 else None, step), *rest).to_numpy_str()
    return bounded
