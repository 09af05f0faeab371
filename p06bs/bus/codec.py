"""The codec: documents to bytes and back, for the wire and for the log alike.

MessagePack, with extension types for what documents carry beyond it:

====  =================  ==========================================================
code  Python type        payload
====  =================  ==========================================================
1     numpy.ndarray      head line (dtype and shape as literals), raw C-order bytes
2     numpy.generic      as 1, shape ()
3     ndarray of str     MessagePack ``[shape, [strings]]`` (dtype object)
4     date, time, both   ISO 8601 behind the name of the type
5     numpy.ndarray      head line, place of its raw bytes among the *buffers*
====  =================  ==========================================================

Large arrays can stay out of band, as in pickle's protocol 5: the MessagePack names
their place in *buffers*, bytes beside it that need not be copied to be written and
need not be read to know the rest. Nothing is ever pickled or unpickled.
"""

import ast
import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import ormsgpack

from p06bs.bus.errors import WireError
from p06bs.model.documents import LoggedArray

Buffer = bytes | bytearray | memoryview

LARGE = 1 << 15
"""Arrays from so many bytes on stay out of band."""

_ARRAY, _SCALAR, _STRINGS, _TIME, _OUT_OF_BAND = 1, 2, 3, 4, 5
_TIMES = {cls.__name__: cls for cls in (datetime.datetime, datetime.date, datetime.time)}
_ALIGN = 16  # raw data start at a multiple of this, so that decoded arrays are aligned
_BUFFER_ALIGN = 64  # a cache line
_OPTIONS = ormsgpack.OPT_PASSTHROUGH_DATETIME


@dataclass(frozen=True, slots=True)
class Packed:
    """An encoded document: its MessagePack, and the buffers that large arrays in it lie in.

    The buffers are one stretch of bytes in several pieces. `run` says which run the
    document belongs to, where it is not known otherwise.
    """

    body: bytes
    buffers: tuple[Buffer, ...] = ()
    run: str = ""

    @property
    def nbytes(self) -> int:
        """Length of the buffers together, bytes."""
        return sum(memoryview(piece).nbytes for piece in self.buffers)

    def unpack(self) -> Any:
        """Decode it; see `unpack`."""
        return unpack(self.body, b"".join(self.buffers))


def pack(obj: Any) -> bytes:
    """Encode a document, all of it in band.

    Tuples, sets and other sequences become lists, complex numbers numpy
    scalars, paths strings. Object arrays that do not hold strings only, and
    masked arrays, become nested lists (None where masked).

    Raises
    ------
    TypeError
        If a value cannot travel (an integer beyond 64 bit, a key that is no
        string, an object of an unknown type); names its path in the document.
    """
    try:
        return ormsgpack.packb(obj, default=_encode, option=_OPTIONS)
    except TypeError:
        return ormsgpack.packb(_plain(obj, "document"), default=_encode, option=_OPTIONS)


def pack_document(name: str, document: Any) -> Packed:
    """Encode a document with its large arrays out of band.

    The buffers are views of the arrays where these are contiguous: write or send
    them before the arrays change.

    Raises
    ------
    TypeError
        As `pack`.
    """
    out = _Buffers()
    try:
        body = ormsgpack.packb(document, default=out.encode, option=_OPTIONS)
    except TypeError:
        out = _Buffers()
        body = ormsgpack.packb(_plain(document, name), default=out.encode, option=_OPTIONS)
    return Packed(body, tuple(out.pieces))


def unpack(buffer: Buffer, buffers: Buffer | None = None) -> Any:
    """Decode what `pack` or `pack_document` made; what follows it is not looked at.

    Arrays are read-only views. Without `buffers` a `LoggedArray` stands for each
    array that is out of band.

    Raises
    ------
    WireError
        If the bytes are not MessagePack, or hold an extension that `pack` does not
        make, or an array lies beyond the buffers.
    """
    try:
        hook = _decode if buffers is None else partial(_decode, buffers=buffers)
        return ormsgpack.unpackb(buffer, ext_hook=hook)
    except ValueError as error:
        raise WireError(f"{len(buffer)} bytes are no document: {error}") from error


class _Buffers:
    """Encode arrays, each once (pages share their timestamps), the large ones out of band."""

    __slots__ = ("_encoded", "nbytes", "pieces")

    def __init__(self) -> None:
        self.pieces: list[Buffer] = []
        self.nbytes = 0
        self._encoded: dict[int, tuple[Any, Any]] = {}  # by id; kept alive, so that it stays it

    def encode(self, obj: Any) -> Any:
        if type(obj) is not np.ndarray:
            return _encode(obj)
        if id(obj) not in self._encoded:
            self._encoded[id(obj)] = (obj, self._array(obj))
        return self._encoded[id(obj)][1]

    def _array(self, obj: npt.NDArray[Any]) -> Any:
        if obj.nbytes < LARGE or obj.dtype.hasobject or obj.dtype.kind == "T":
            return _encode_array(obj)
        place = self.nbytes.to_bytes(8, "little")
        self.pieces.append(_bytes_of(obj))
        self.nbytes += obj.nbytes
        rest = -self.nbytes % _BUFFER_ALIGN
        if rest:
            self.pieces.append(bytes(rest))
            self.nbytes += rest
        return ormsgpack.Ext(_OUT_OF_BAND, _head(obj.dtype, obj.shape) + place)


def _encode(obj: Any) -> Any:
    """Return what MessagePack can say instead of `obj`; ormsgpack calls it for the rest."""
    if isinstance(obj, np.ndarray):
        return _encode_array(obj)
    if isinstance(obj, np.generic):
        return ormsgpack.Ext(_SCALAR, _raw(np.asarray(obj)))
    if isinstance(obj, complex):
        return np.complex128(obj)
    for name, cls in _TIMES.items():
        if type(obj) is cls:
            return ormsgpack.Ext(_TIME, f"{name} {obj.isoformat()}".encode())
    if isinstance(obj, Mapping):
        return dict(obj)
    if isinstance(obj, Sequence | AbstractSet):
        return list(obj)
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    raise TypeError(f"{type(obj).__qualname__} cannot travel")


def _encode_array(array: npt.NDArray[Any]) -> Any:
    if isinstance(array, np.ma.MaskedArray):
        return array.tolist()
    if array.dtype.kind == "T":  # numpy's variable-width strings
        array = array.astype(object)
    if not array.dtype.hasobject:
        return ormsgpack.Ext(_ARRAY, _raw(array))
    if array.dtype.kind == "O" and all(type(item) is str for item in array.flat):
        content = ormsgpack.packb([list(array.shape), array.ravel().tolist()])
        return ormsgpack.Ext(_STRINGS, content)
    return array.tolist()


def _raw(array: npt.NDArray[Any]) -> bytes:
    return _head(array.dtype, array.shape) + array.tobytes()


def _bytes_of(array: npt.NDArray[Any]) -> memoryview:
    # uint8, because buffers of datetimes and of bytes in reverse order cannot be joined
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


@lru_cache(maxsize=1024)
def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    descr = np.lib.format.dtype_to_descr(dtype)
    line = repr((descr, shape)).encode()
    return line.ljust(-(-(len(line) + 1) // _ALIGN) * _ALIGN - 1) + b"\n"


@lru_cache(maxsize=1024)
def _layout(line: bytes) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Return dtype, shape and number of bytes that a head line announces."""
    descr, shape = ast.literal_eval(line.decode().rstrip())
    dtype = np.lib.format.descr_to_dtype(descr)
    if dtype.hasobject or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError("no array of objects, no negative length")
    return dtype, tuple(shape), dtype.itemsize * prod(shape)


def _decode(code: int, data: bytes, buffers: Buffer | None = None) -> Any:
    """Return what an extension holds. ormsgpack turns whatever it raises into ValueError."""
    if code == _OUT_OF_BAND:
        start = data.index(b"\n", 0, 1 << 16) + 1
        dtype, shape, nbytes = _layout(data[:start])
        place = int.from_bytes(data[start:], "little")
        if buffers is None:
            return LoggedArray(dtype, shape, place)
        if len(data) != start + 8 or place + nbytes > len(buffers):
            raise WireError(f"{shape} of {dtype} lies beyond {len(buffers)} bytes of buffers")
        return np.ndarray(shape, dtype, buffers, place)
    if code in (_ARRAY, _SCALAR):
        start = data.index(b"\n", 0, 1 << 16) + 1
        dtype, shape, nbytes = _layout(data[:start])
        if len(data) - start != nbytes:
            raise WireError(f"{len(data) - start} bytes for {shape} of {dtype}")
        array: npt.NDArray[Any] = np.ndarray(shape, dtype, data, start)
        return array[()] if code == _SCALAR else array
    if code == _STRINGS:
        shape, strings = ormsgpack.unpackb(data)
        if not all(type(item) is str for item in strings):
            raise WireError("an array of strings holds something else")
        array = np.array(strings, dtype=object).reshape(shape)
        array.flags.writeable = False
        return array
    if code == _TIME:
        name, text = data.decode().split(" ", 1)
        return _TIMES[name].fromisoformat(text)
    raise WireError(f"unknown extension type {code}")


def _plain(value: Any, path: str) -> Any:
    """Return a copy whose keys are plain strings; say where a value is that cannot travel."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{path} has the key {key!r}, a {type(key).__name__}; use strings")
        return {str(key): _plain(item, f"{path}[{str(key)!r}]") for key, item in value.items()}
    items = _items(value)
    if items is not None:
        return [_plain(item, f"{path}[{i}]") for i, item in enumerate(items)]
    try:
        ormsgpack.packb(value, default=_encode, option=_OPTIONS)
    except TypeError as error:
        text = repr(value)[:80]
        raise TypeError(f"{path} = {text} cannot be encoded: {error}") from None
    return value


def _items(value: Any) -> Iterable[Any] | None:
    if isinstance(value, np.ndarray):
        encoded = _encode_array(value)
        return encoded if isinstance(encoded, list) else None
    if isinstance(value, str | bytes | bytearray | memoryview):
        return None
    return value if isinstance(value, Sequence | AbstractSet) else None
