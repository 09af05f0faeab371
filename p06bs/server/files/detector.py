"""Rows of detectors: read from HDF5 and Zarr files under configured roots only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException
from tiled.server.schemas import Asset, DataSource, Management
from tiled.structures.core import StructureFamily

from p06bs.bus.frames import FrameReader, FramesMissingError
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput
from p06bs.server.files.announced import rows_announced, rows_described
from p06bs.server.files.datasets import DatasetCheck
from p06bs.server.files.roots import ZARR, FileRoots, OutsideError, path_of

Array = npt.NDArray[Any]

CHUNK_BYTES = 4 << 20
FLOAT = np.dtype(np.float64)


@dataclass(frozen=True, slots=True)
class DetectorView:
    """Rows in files; which segment of which file, in their order.

    Attributes
    ----------
    growing : bool
        Whether a file that is not there may come yet.
    """

    data_key: str
    segments: tuple[tuple[Document, int, int], ...]
    roots: FileRoots
    rows: int
    rows_per_chunk: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    growing: bool = False

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`.

        Raises
        ------
        FramesMissingError
            If they are announced and not in the file yet.
        HTTPException
            403 if the file lies outside the roots, 404 if it cannot be opened, or is not
            there and will not come, 415 if it
            is of a kind that is not read or does not hold what the descriptor says.
        """
        parts = []
        first = 0
        for resource, low, high in self.segments:
            begin, end = max(start, first), min(stop, first + high - low)
            if begin < end:
                parts.append(self._read(resource, low + begin - first, low + end - first))
            first += high - low
        if not parts:
            return np.empty((0, *self.shape), self.dtype)
        return np.concatenate(parts)

    def _read(self, resource: Document, start: int, stop: int) -> Array:
        try:
            path = self.roots.real(path_of(resource))
            if resource.get("mimetype") == ZARR:
                from p06bs.server.files.zarrfile import read_rows

                rows = read_rows(path, _inner(resource), start, stop, self.shape, self.roots)
                return rows.astype(self.dtype, copy=False)
            there = {**resource, "uri": f"file://localhost{quote(str(path))}"}
            bound = BoundInput("", self.data_key, True, self.shape, self.shape, self.dtype.str)
            with FrameReader(0.0, DatasetCheck(self.roots)) as reader:
                rows = reader(there, start, stop - start, bound)
            return rows.reshape((stop - start, *self.shape)).astype(self.dtype, copy=False)
        except FramesMissingError:
            if self.growing or path.exists():
                raise
            raise HTTPException(404, f"{path} is not there (any more)") from None
        except OutsideError as outside:
            raise HTTPException(403, str(outside)) from None
        except (OSError, KeyError) as error:
            raise HTTPException(404, f"{self.data_key} cannot be read: {error}") from None
        except (ValueError, TypeError) as error:
            raise HTTPException(415, f"{self.data_key} cannot be read: {error}") from None

    def data_sources(self, structure: Any) -> list[Any]:
        """Return where the rows are, as bluesky's TiledWriter says it; files under roots only."""
        resources = {id(resource): resource for resource, _, _ in self.segments}.values()
        by_kind: dict[str, list[Document]] = {}
        for resource in resources:
            try:
                self.roots.real(path_of(resource))
            except (ValueError, OutsideError):
                continue
            by_kind.setdefault(str(resource.get("mimetype")), []).append(resource)
        return [
            DataSource(
                structure_family=StructureFamily.array,
                structure=structure,
                mimetype=mimetype,
                parameters=dict(same[0].get("parameters") or {}),
                management=Management.external,
                assets=[
                    Asset(
                        data_uri=one["uri"],
                        is_directory=mimetype == ZARR,
                        parameter="data_uris",
                        num=number,
                    )
                    for number, one in enumerate(same)
                ],
            )
            for mimetype, same in by_kind.items()
        ]


@dataclass(frozen=True, slots=True)
class UnreadableView:
    """Rows that are announced, and of which the descriptor does not say what they are."""

    rows: int
    reason: str
    dtype: np.dtype[Any] = FLOAT
    shape: tuple[int, ...] = ()

    @property
    def rows_per_chunk(self) -> int:
        """All of them: none can be read."""
        return max(1, self.rows)

    def read(self, start: int, stop: int) -> Array:
        """Refuse.

        Raises
        ------
        HTTPException
            415, with the reason.
        """
        raise HTTPException(415, self.reason)


def detector_view(
    data_key: str,
    description: Mapping[str, Any],
    segments: Sequence[tuple[Document, int, int]],
    roots: FileRoots,
) -> DetectorView | UnreadableView:
    """Return the rows of a data key that stream_datum documents announced.

    Parameters
    ----------
    description : mapping
        Of the data key, from the descriptor.
    segments : sequence
        Stream resource, first and last + 1 index.
    """
    found = rows_described(description)
    shape, dtype = found or ((), FLOAT)
    per_chunk = max(1, CHUNK_BYTES // max(1, dtype.itemsize * prod(shape)))
    rows = 0
    try:
        for _, start, stop in segments:
            rows = rows_announced(rows, start, stop, per_chunk)
    except ValueError as error:
        return UnreadableView(0, f"{data_key} cannot be read: {error}")
    if found is None:
        return UnreadableView(
            rows, f"{data_key} cannot be read: its descriptor gives no usable shape and dtype_numpy"
        )
    return DetectorView(data_key, tuple(segments), roots, rows, per_chunk, dtype, shape)


def _inner(resource: Document) -> str:
    parameters = resource.get("parameters") or {}
    for key in ("array_path", "dataset", "path"):
        if isinstance(parameters.get(key), str):
            return str(parameters[key]).strip("/")
    return ""
