"""Frames that lie in files of detectors: which of them are a stream's rows, and where they are."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from p06bs.bus.frames import dataset_of, rows_per_event
from p06bs.model.documents import Document
from p06bs.writers._columns import Column, Table
from p06bs.writers._h5 import field, group

log = logging.getLogger(__name__)

_PAIR = {"dtype": "array", "dtype_numpy": "<i8", "shape": [2]}
_TEXT = {"dtype": "string", "shape": []}

MOST_SINGLE = 10_000
"""Of so many rows each is a source of a virtual dataset, which is what nexusformat (NeXpy) takes
sources for: it gets the shape of others wrong. One costs 0.2 ms and 100 bytes."""


@dataclass(frozen=True, slots=True)
class _Source:
    """A dataset of a detector's file: its path as a link has it, and how many rows make an event.

    `shape` and `dtype` are the dataset's; it may grow.
    """

    path: str
    dataset: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    per_event: int


class External:
    """The rows of one external data key: which frames of which file belong to which seq_nums.

    Attributes
    ----------
    frames : h5py.ExternalLink or h5py.Dataset or None
        The announced rows in their order, once finished; None where there are none, or they
        cannot be shown.
    """

    def __init__(
        self, parent: h5py.Group, name: str, data_key: str, described: Mapping[str, Any]
    ) -> None:
        self.data_key = data_key
        self.group = group(parent, name, "NXcollection", data_key=data_key)
        columns: dict[str, dict[str, Any]] = {
            "indices": _PAIR,
            "seq_nums": _PAIR,
            "stream_resource": _TEXT,
            "descriptor": _TEXT,
            "uid": _TEXT,
        }
        self._described = described
        self._rows = Table({key: Column(self.group, key, d) for key, d in columns.items()})
        self.resources: dict[str, Document] = {}
        self.announced: list[tuple[Document, int, int]] = []  # resource, first and last index + 1
        self.frames: h5py.ExternalLink | h5py.Dataset | None = None

    def add(self, datum: Document, resource: Document) -> None:
        """Take a stream_datum and the stream resource that it names."""
        self.resources[resource["uid"]] = resource
        self.announced.append((resource, datum["indices"]["start"], datum["indices"]["stop"]))
        row = {key: [datum[key]] for key in ("stream_resource", "descriptor", "uid")}
        for key in ("indices", "seq_nums"):
            row[key] = [[datum[key]["start"], datum[key]["stop"]]]
        self._rows.extend(row)

    def finish(self, tree: Path, directory: Path) -> None:
        """Write the row map, link the files that can be found, and show the announced rows."""
        self._rows.flush()
        self.group.attrs["ranges"] = "start inclusive, stop exclusive, as in the stream_datum"
        field(self.group, "resource_uid", list(self.resources))
        shape = tuple(int(n or 0) for n in self._described.get("shape") or ())
        sources: dict[str, _Source] = {}
        for number, (uid, resource) in enumerate(self.resources.items()):
            name = f"frames_{number}"
            try:
                sources[uid] = source = _source(resource, shape, tree, directory)
            except ValueError as error:
                log.warning("%s is not linked: %s", self.data_key, error)
                field(self.group, f"{name}_not_linked", str(error))
                continue
            self.group[name] = h5py.ExternalLink(source.path, source.dataset)
        kinds = {(one.shape[1:], one.dtype, one.per_event) for one in sources.values()}
        if len(sources) == len(self.resources) and len(kinds) == 1:
            self.frames = self._frames(sources)

    def _frames(self, sources: Mapping[str, _Source]) -> h5py.ExternalLink | h5py.Dataset | None:
        """Link the file if its rows are the announced ones; else make a virtual dataset of these.

        Files have frames that no document announced, of points that were measured again.
        """
        (row, dtype, per_event), *_ = (
            (s.shape[1:], s.dtype, s.per_event) for s in sources.values()
        )
        ranges = self._ranges(per_event)
        if not ranges:
            return None
        rows = sum(stop - start for _, start, stop in ranges)
        if len(sources) == 1 and len(ranges) == 1:
            (source,) = sources.values()
            if ranges[0][1] == 0 and source.shape[0] <= rows:
                return h5py.ExternalLink(source.path, source.dataset)
        layout, first = h5py.VirtualLayout((rows, *row), dtype), 0
        step = 1 if rows <= MOST_SINGLE else rows
        for uid, start, stop in ranges:
            source = sources[uid]
            shape = (max(stop, source.shape[0]), *row)  # its writer may be behind
            frames = h5py.VirtualSource(source.path, source.dataset, shape, dtype)
            for low in range(start, stop, step):
                high = min(low + step, stop)
                layout[first : first + high - low] = frames[low:high]
                first += high - low
        made = self.group.create_virtual_dataset("frames", layout, _missing(dtype))
        if self._described.get("units"):
            made.attrs["units"] = str(self._described["units"])
        return made

    def _ranges(self, per_event: int) -> list[tuple[str, int, int]]:
        """Return the announced rows as few ranges: uid of the resource, first and last row + 1."""
        ranges: list[tuple[str, int, int]] = []
        for resource, first, last in self.announced:
            uid, start, stop = resource["uid"], first * per_event, last * per_event
            if ranges and ranges[-1][0] == uid and ranges[-1][2] == start:
                ranges[-1] = uid, ranges[-1][1], stop
            elif stop > start:
                ranges.append((uid, start, stop))
        return ranges


def _source(resource: Document, shape: tuple[int, ...], tree: Path, directory: Path) -> _Source:
    """Look into the file of a stream resource whose events have this shape.

    Raises
    ------
    ValueError
        If there is nothing to link. A link to a file that is not there would make the NeXus
        file invalid.
    """
    path, name = dataset_of(resource)
    try:
        # The detector may write it still: a reader of its SWMR file sees what is flushed.
        with h5py.File(path, "r", swmr=True) as file:
            dataset = file.get(name)
            if not isinstance(dataset, h5py.Dataset):
                raise ValueError(f"{path} has no dataset {name}")
            per_event = rows_per_event(dataset, shape)
            found, dtype = dataset.shape, dataset.dtype
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error}") from None
    path = path.resolve()
    inside = path.is_relative_to(tree) and directory.is_relative_to(tree)
    target = os.path.relpath(path, directory) if inside else str(path)
    return _Source(target, name, found, dtype, per_event)


def _missing(dtype: np.dtype[Any]) -> Any:
    """Return what a virtual dataset reads as where its file is gone: zeros would be data."""
    if dtype.kind in "fc":
        return np.nan
    return np.iinfo(dtype).max if dtype.kind in "iu" else None
