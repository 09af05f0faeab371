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
    values = np.asarray(array)
    if values.dtype.kind not in "biufc":
        raise SerializationError(f"{values.dtype} is no type of the pixels of an image.")
    if values.ndim == 3 and values.dtype == np.uint8 and values.shape[2] in (3, 4):
        _check(values.shape[:2])
        return _encoded(Image.fromarray(np.ascontiguousarray(values)))
    values = np.atleast_2d(values)
    _check(values.shape)
    if values.dtype.kind == "c":
        values = np.abs(values)
    if values.dtype == np.bool_:
        return _encoded(Image.fromarray(values.astype(np.uint8) * 255))
    low, high = _scale(values)
    hidden = np.isnan(values) if values.dtype.kind == "f" else None
    with np.errstate(invalid="ignore", over="ignore"):
        if low < 0 < high:
            most = max(-low, high)
            return _encoded(_signed(_levels(values, -most, most), hidden))
        return _encoded(_grey(_levels(values, low, high), hidden))


def _check(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or not 0 < shape[0] * shape[1] <= MOST_PIXELS:
        raise UnsupportedShape(shape)


def _scale(values: Array) -> tuple[float, float]:
    """Return what is darkest and brightest."""
    step = -(-values.size // SAMPLE_PIXELS)
    sample = values.ravel()[::step].astype(np.float64)
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
    scaled = (values.astype(np.float64) / 2 - low / 2) / (high / 2 - low / 2) * 255
    levels: Array = np.nan_to_num(np.clip(scaled, 0, 255)).round().astype(np.uint8)
    return levels


def _grey(levels: Array, hidden: Array | None) -> Image.Image:
    image = Image.fromarray(levels)
    if hidden is not None and hidden.any():
        image.putalpha(Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    return image


def _signed(levels: Array, hidden: Array | None) -> Image.Image:
    at = np.linspace(0, 1, 256)[:, None]
    cold, white, hot = (np.array(colour, float) for colour in (COLD, WHITE, HOT))
    below = cold + (white - cold) * np.minimum(2 * at, 1)
    above = white + (hot - white) * np.maximum(2 * at - 1, 0)
    colours = np.where(at < 0.5, below, above).round().astype(np.uint8)
    alpha = np.full(levels.shape, 255, np.uint8) if hidden is None else ~hidden * np.uint8(255)
    return Image.fromarray(np.dstack([colours[levels], alpha]))


def _encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", compress_level=1)
    return buffer.getvalue()
