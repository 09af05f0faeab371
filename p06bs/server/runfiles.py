"""A run's directory in the archive: its documents, its columns, and what lies where.

==================  ============================================================
file                content
==================  ============================================================
``UID.doclog``      the run's log: a hard link to it where that can be, or a copy
``0.arrow``, ...    column files: one for a stream's scalar columns, one for each
                    column of arrays
``contents.json``   names of streams and columns, their layouts, and where in which
                    files the detectors' rows are
==================  ============================================================

A directory is written under another name and then renamed, so it is whole or not there.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p06bs.bus.framing import SUFFIX
from p06bs.bus.reader import read_log
from p06bs.model.documents import Document
from p06bs.server.columnfile import ColumnFileWriter, ColumnView, Layout, batch_rows
from p06bs.server.detector import Roots, detector_view
from p06bs.server.sink import RunView
from p06bs.server.stream import StreamView
from p06bs.server.survey import Pages, StreamSurvey, Survey, column_name, conform

if TYPE_CHECKING:
    from p06bs.server.columns import View

CONTENTS = "contents.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class Location:
    """Where in the storage the directories of runs are.

    Attributes
    ----------
    storage : Path
        The archive's directory.
    """

    storage: Path

    def run(self, uid: str) -> Path:
        """Return the directory of all generations of a run."""
        return self.storage / uid[:2] / uid

    def generation(self, uid: str, generation: int) -> Path:
        """Return the directory of one generation of a run."""
        return self.run(uid) / str(generation)

    def log(self, uid: str, generation: int) -> Path:
        """Return the file with a run's documents."""
        return self.generation(uid, generation) / f"{uid}{SUFFIX}"


def write_run(log: Path, run: Survey, directory: Path) -> None:
    """Write the directory of a run: the second pass over its log.

    Parameters
    ----------
    log : Path
        The run's log; documents that came since the survey are passed over.
    directory : Path
        Must not exist; when it does, it is whole and on the disk.
    """
    scratch = directory.with_name(f"{directory.name}.part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    link(log, scratch / log.name)
    contents = {
        "format": FORMAT,
        "documents": run.documents,
        "start": run.start,
        "stop": run.stop,
        "resources": run.resources,
        "streams": _write_streams(log, run, scratch),
    }
    (scratch / CONTENTS).write_text(json.dumps(contents, default=str))
    for file in scratch.iterdir():
        sync(file)
    sync(scratch)
    scratch.rename(directory)
    for parent in (directory.parent, directory.parent.parent, directory.parent.parent.parent):
        sync(parent)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system does not let us."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync(path: Path) -> None:
    """Force a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_run(directory: Path, roots: Roots) -> RunView:
    """Return a run of the archive, from its directory.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    """
    contents = json.loads((directory / CONTENTS).read_text())
    metadata = {"start": contents["start"]}
    if contents["stop"] is not None:
        metadata["stop"] = contents["stop"]
    streams = {
        name: partial(_stream_view, directory, stream, contents["resources"], roots)
        for name, stream in contents["streams"].items()
    }
    return RunView(metadata, streams, untouched)


def untouched() -> None:
    """Take no note that somebody reads: the archive forgets nothing."""


def stream_names(run: Survey) -> dict[str, str]:
    """Return the name that each stream has as a part of a path."""
    return _path_names(run.streams)


def _path_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each name one that can be a part of a path, all different."""
    found: dict[str, str] = {}
    for name in names:
        part = name.replace("/", "_")
        if part in ("", ".", ".."):
            part = f"_{part}"
        while part in found.values():
            part += "_"
        found[name] = part
    return found


class _Writers:
    """The column files of a stream while they are written."""

    def __init__(self, directory: Path, stream: StreamSurvey, number: int) -> None:
        self.stream = stream
        self.names = _path_names([*stream.columns, *map(column_name, stream.external)])
        self.layouts = {name: column.final() for name, column in stream.columns.items()}
        scalars = {name: one for name, one in self.layouts.items() if not one.shape}
        groups = [scalars] if scalars else []
        groups += [{name: one} for name, one in self.layouts.items() if one.shape]
        arrays = sum(one.row_bytes for one in self.layouts.values() if one.shape)
        average = stream.nbytes // max(1, stream.rows) - arrays
        self.columns: dict[str, dict[str, Any]] = {}
        self._writers: list[tuple[ColumnFileWriter, dict[str, Layout]]] = []
        for index, group in enumerate(groups):
            file = f"{number}.{index}.arrow"
            rows = batch_rows(group, average if group is scalars else 0)
            writer = ColumnFileWriter(directory / file, group, rows)
            self._writers.append((writer, group))
            self.columns.update({name: {"file": file, "batch": rows} for name in group})

    def put(self, page: Mapping[str, Any]) -> None:
        count = len(page["seq_num"])
        for writer, group in self._writers:
            writer.append(
                {name: conform(page.get(name), one, count) for name, one in group.items()}
            )

    def close(self) -> None:
        for writer, _ in self._writers:
            writer.close()
            for name, width in writer.widths.items():
                self.layouts[name] = replace(self.layouts[name], dtype=f"<U{width}")

    def contents(self) -> dict[str, Any]:
        """Return what `contents.json` says of the stream."""
        stream = self.stream
        return {
            "metadata": stream.metadata,
            "rows": stream.rows,
            "columns": {
                self.names[name]: {
                    **where,
                    "column": name,
                    "kind": self.layouts[name].kind,
                    "dtype": self.layouts[name].dtype,
                    "shape": self.layouts[name].shape,
                }
                for name, where in self.columns.items()
            },
            "external": {
                self.names[column_name(key)]: {"data_key": key, "segments": segments}
                for key, segments in stream.external.items()
            },
        }


def _write_streams(log: Path, run: Survey, directory: Path) -> dict[str, Any]:
    names = stream_names(run)
    with contextlib.ExitStack() as stack:
        writers = {}
        for number, (name, stream) in enumerate(run.streams.items()):
            writers[name] = _Writers(directory, stream, number)
            stack.callback(writers[name].close)
        pages = Pages()
        for entry in read_log(log):
            if entry.index >= run.documents:
                break
            for name, page, _ in pages.take(entry):
                writers[name].put(page)
        for name, page, _ in pages.rest():
            writers[name].put(page)
    return {names[name]: writer.contents() for name, writer in writers.items()}


def _stream_view(
    directory: Path, stream: Mapping[str, Any], resources: Mapping[str, Document], roots: Roots
) -> StreamView:
    columns: dict[str, View] = {}
    for name, column in stream["columns"].items():
        layout = Layout(column["kind"], column["dtype"], tuple(column["shape"]))
        columns[name] = ColumnView(
            directory / column["file"], column["column"], layout, stream["rows"], column["batch"]
        )
    keys = stream["metadata"]["data_keys"]
    for name, external in stream["external"].items():
        key = external["data_key"]
        segments = [(resources[uid], start, stop) for uid, start, stop in external["segments"]]
        columns[name] = detector_view(key, keys.get(key) or {}, segments, roots)
    return StreamView(stream["metadata"], columns, frozenset(stream["external"]))
