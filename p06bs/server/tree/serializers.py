"""What Tiled's web UI can show: tables as lines of JSON, maps and frames as PNG."""

import io
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
from PIL import Image
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send
from tiled.media_type_registration import SerializationRegistry
from tiled.serialization.table import json_sequence
from tiled.structures.core import StructureFamily
from tiled.utils import SerializationError, UnsupportedShape

from p06bs.server.sink.values import Array

SEQUENCE = "application/json-seq"
LINES = "application/x-ndjson"

MOST_PIXELS = 1 << 25
"""Pixels of an image; an Eiger 16M has 18e6."""

SAMPLE_PIXELS = 1 << 20
"""Pixels from which the colour scale is found."""

BAND_PIXELS = 1 << 18
"""Pixels that are made at a time: in between they take some tens of bytes each."""

COLD, WHITE, HOT = (5, 48, 97), (247, 247, 247), (103, 0, 31)
"""Ends and middle of the colours for signed values: ColorBrewer's RdBu, reversed."""


def register(registry: SerializationRegistry) -> None:
    """Add the media types to a registry, which should be a copy of Tiled's default."""
    registry.register(StructureFamily.table, LINES, json_lines)
    registry.register(StructureFamily.array, "image/png", png)


def json_lines(mimetype: str, frame: Any, metadata: Mapping[str, Any]) -> Iterator[bytes]:
    """Yield the rows of a table as lines of JSON."""
    for record in json_sequence(mimetype, frame, metadata):
        yield record.removeprefix(b"\x1e")


class LinesForPages:
    """Give web pages that ask for the rows of a table lines of JSON.

    Tiled's UI asks for `application/json-seq` and reads lines. RFC 7464 puts a record
    separator before each record, which JavaScript's JSON does not take, so the UI shows
    no rows. Pages say that they accept JSON (axios does); other clients get what they ask
    for.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request (ASGI)."""
        if (
            scope["type"] == "http"
            and scope["path"].startswith("/api/v1/table/")
            and "application/json" in Headers(scope=scope).get("accept", "")
        ):
            fields = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if ("format", SEQUENCE) in fields:
                asked = [(k, LINES if (k, v) == ("format", SEQUENCE) else v) for k, v in fields]
                scope = {**scope, "query_string": urlencode(asked).encode("latin-1")}
        await self._app(scope, receive, send)


def png(mimetype: str, array: Array, metadata: Mapping[str, Any]) -> bytes:
    """Return an array as an image.

    NaN is transparent. The scale goes from the 1st to the 99th percentile of what is
    finite, or from the lowest to the highest value where these two are the same; values
    of both signs are blue and red, with white at zero, others are grey. One axis becomes
    one line. Three or four bytes in the last of three axes are a colour.

    Raises
    ------
    UnsupportedShape
        If the array has another number of axes, or no or too many pixels.
    SerializationError
        If it does not hold numbers.
    """
    values = np.ascontiguousarray(array)
    if values.dtype.kind not in "biufc":
        raise SerializationError(f"{values.dtype} is no type of the pixels of an image.")
    if values.ndim == 3 and values.dtype == np.uint8 and values.shape[2] in (3, 4):
        _check(values.shape[:2])
        return _encoded(Image.fromarray(values))
    values = np.atleast_2d(values)
    _check(values.shape)
    if values.dtype == np.bool_:
        return _encoded(Image.fromarray(values.astype(np.uint8) * 255))
    low, high = _scale(values)
    if low < 0 < high:
        most = max(-low, high)
        return _encoded(_signed(values, -most, most))
    return _encoded(_grey(values, low, high))


def _check(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not 0 < shape[0] * shape[1] <= MOST_PIXELS:
        raise UnsupportedShape(shape)


def _bands(values: Array) -> Iterator[tuple[slice, Array]]:
    """Yield pixels, as real numbers, and which of all they are: the whole costs no copy."""
    flat = values.reshape(-1)
    for first in range(0, flat.size, BAND_PIXELS):
        band = slice(first, first + BAND_PIXELS)
        yield band, _real(flat[band])


def _real(values: Array) -> Array:
    return np.abs(values) if values.dtype.kind == "c" else values


def _scale(values: Array) -> tuple[float, float]:
    """Return what is darkest and brightest."""
    step = -(-values.size // SAMPLE_PIXELS)
    sample = _real(values.reshape(-1)[::step]).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    # Values that are there: between them the difference may be more than a float can hold.
    low = np.percentile(sample, 1, method="lower")
    high = np.percentile(sample, 99, method="higher")
    if low == high:
        low, high = sample.min(), sample.max()
    return float(low), float(high)


def _levels(values: Array, low: float, high: float) -> Array:
    """Return values as 0 to 255; what is not a number is 0, and all are 127 without a range."""
    if not high > low:
        return np.full(values.shape, 127, np.uint8)
    # In halves: the range itself may be more than a float can hold.
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = (values.astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2) * 255
        levels: Array = np.nan_to_num(np.clip(scaled, 0, 255)).round().astype(np.uint8)
    return levels


def _alpha(values: Array) -> Array:
    """Return 0 where a value is not a number, else 255."""
    return np.where(np.isnan(values), 0, 255).astype(np.uint8)


def _grey(values: Array, low: float, high: float) -> Image.Image:
    levels = np.empty(values.shape, np.uint8)
    for band, pixels in _bands(values):
        levels.reshape(-1)[band] = _levels(pixels, low, high)
    image = Image.fromarray(levels)
    if values.dtype.kind in "fc":
        alpha = np.empty(values.shape, np.uint8)
        for band, pixels in _bands(values):
            alpha.reshape(-1)[band] = _alpha(pixels)
        if not alpha.all():
            image.putalpha(Image.fromarray(alpha))
    return image


def _signed(values: Array, low: float, high: float) -> Image.Image:
    at = np.linspace(0, 1, 256)[:, None]
    cold, white, hot = (np.array(colour, float) for colour in (COLD, WHITE, HOT))
    below = cold + (white - cold) * np.minimum(2 * at, 1)
    above = white + (hot - white) * np.maximum(2 * at - 1, 0)
    colours = np.where(at < 0.5, below, above).round().astype(np.uint8)
    image = np.empty((*values.shape, 4), np.uint8)
    for band, pixels in _bands(values):
        image.reshape(-1, 4)[band, :3] = colours[_levels(pixels, low, high)]
        image.reshape(-1, 4)[band, 3] = _alpha(pixels)
    return Image.fromarray(image)


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()
