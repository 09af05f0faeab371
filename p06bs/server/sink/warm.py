"""What the first requests would load and set up, done at the start.

So the memory that the process takes beside its budget is known from the start, and
nobody's first table waits for it.
"""

import io

import numpy as np
import pandas
from tiled.media_type_registration import (
    default_compression_registry,
    default_serialization_registry,
)
from tiled.utils import APACHE_ARROW_FILE_MIME_TYPE

TABLES = (APACHE_ARROW_FILE_MIME_TYPE, "application/json-seq", "application/json", "text/csv")
ARRAYS = ("application/octet-stream", "application/json", "text/csv", "image/png", "image/tiff")
OCTETS = "application/octet-stream"


def warm_up() -> None:
    """Serialize a small table and a small array in the common formats, and compress them."""
    table = pandas.DataFrame({"number": np.arange(8.0), "count": np.arange(8), "text": ["x"] * 8})
    array = np.arange(256.0).reshape(16, 16)
    for family, formats, values in (("table", TABLES, table), ("array", ARRAYS, array)):
        known = default_serialization_registry.media_types(family)
        for media_type in formats:
            if media_type in known:
                serialize = default_serialization_registry.dispatch(family, media_type)
                for _ in serialize(media_type, values, {}):  # in one go, or row by row
                    pass
    for encoding in default_compression_registry.encodings(OCTETS):
        compressor = default_compression_registry.dispatch(media_type=OCTETS, encoding=encoding)
        file = compressor(io.BytesIO())
        file.write(array.tobytes())
        file.close()
