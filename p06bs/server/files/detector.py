"""Rows of detectors: read from HDF5 and Zarr files under configured roots only."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException
from tiled.server.schemas import Asset, DataSource, Management
from tiled.structures.core import StructureFamily

from p06bs.bus.frames import Frames, FramesMissingError
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput
from p06bs.server.files.announced import rows_announced, rows_described, settled
from p06bs.server.files.datasets import DatasetCheck
from p06bs.server.files.roots import ZARR, FileRoots, OutsideError, path_of

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

CHUNK_BYTES = 4 << 20
FLOAT = np.dtype(np.float64)


@dataclass(frozen=True, slots=True)
class DetectorView:
    """Rows in files; which segment of which file, in their order.

    Attributes
    ----------
    recent : tuple
        First row and monotonic time of the newest announcements, of a run that goes on.
    """

    data_key: str
    segments: tuple[tuple[Document, int, int], ...]
    roots: FileRoots
    rows: int
    rows_per_chunk: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    recent: tuple[tuple[int, float], ...] = ()

    def read(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop - 1`.

        Raises
        ------
        FramesMissingError
            If they were announced lately and are not in the file yet.
        HTTPException
            403 if the file lies outside the roots, 404 if the rows are not in it, or it
            cannot be opened, 415 if it is of a kind that is not read or does not hold
            what the descriptor says.
        """
        try:
            return self._rows(start, stop)
        except FramesMissingError:
            if self._may_come(start, stop):
                raise
            rows = f"row {start}" if stop - start == 1 else f"rows {start} to {stop - 1}"
            raise HTTPException(
                404,
                f"{self.data_key}: {rows} were announced, and are not (all) in the file, or "
                "that is not there",
            ) from None

    def _may_come(self, start: int, stop: int) -> bool:
        """Return whether all that is missing of these rows was announced lately."""
        old = settled(self.rows, self.recent, time.monotonic())
        if stop <= old or start >= old:
            return start >= old
        try:
            self._rows(old - 1, old)
        except FramesMissingError:
            return False
        return True

    def _rows(self, start: int, stop: int) -> Array:
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
        """Return rows of one file; what is wrong with it is logged with its path, and said without.

        Raises
        ------
        FramesMissingError
            If they are not there, or there is no such file.
        HTTPException
            403 or 415.
        """
        try:
            path = self.roots.real(path_of(resource))
            if resource.get("mimetype") == ZARR:
                from p06bs.server.files.zarrfile import read_rows

                rows = read_rows(path, _inner(resource), start, stop, self.shape, self.roots)
                return rows.astype(self.dtype, copy=False)
            there = {**resource, "uri": f"file://localhost{quote(str(path))}"}
            bound = BoundInput("", self.data_key, True, self.shape, self.shape, self.dtype.str)
            with Frames(DatasetCheck(self.roots), final=True) as reader:
                rows = reader(there, start, stop - start, bound)
            return rows.reshape((stop - start, *self.shape)).astype(self.dtype, copy=False)
        except OutsideError as error:
            why = "its file, or what that leads to, is outside the directories that may be read"
            raise self._refused(403, why, error) from None
        except (OSError, KeyError) as error:
            # Clients ask again and again for rows that are not there yet.
            logger.debug("%s cannot be read: %s", self.data_key, error)
            raise FramesMissingError(f"{self.data_key}: the rows are not in the file yet") from None
        except (AttributeError, TypeError, ValueError) as error:
            why = "its file is of a kind that is not read, or does not hold what is described"
            raise self._refused(415, why, error) from None

    def _refused(self, status: int, why: str, error: Exception) -> HTTPException:
        logger.info("%s cannot be read: %s", self.data_key, error)
        return HTTPException(status, f"{self.data_key} cannot be read: {why}")

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
    description: Any,
    segments: Sequence[tuple[Document, int, int]],
    roots: FileRoots,
) -> DetectorView | UnreadableView:
    """Return the rows of a data key that stream_datum documents announced.

    Parameters
    ----------
    description : mapping
        Of the data key, from the descriptor; anything else describes nothing.
    segments : sequence
        Stream resource, first and last + 1 index.
    """
    found = rows_described(description)
    shape, dtype = found or ((), FLOAT)
    per_chunk = rows_per_chunk(description)
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


def rows_per_chunk(description: Any) -> int:
    """Return how many rows of a data key make a chunk, whatever its descriptor says of it."""
    shape, dtype = rows_described(description) or ((), FLOAT)
    return max(1, CHUNK_BYTES // max(1, dtype.itemsize * prod(shape)))


def _inner(resource: Document) -> str:
    parameters = resource.get("parameters") or {}
    for key in ("array_path", "dataset", "path"):
        if isinstance(parameters.get(key), str):
            return str(parameters[key]).strip("/")
    return ""
