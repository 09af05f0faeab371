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

A directory is written under another name and then renamed, so it is whole or not there
when a process is killed; it is on the disk before the database names it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from p06bs.bus.framing import Entry
from p06bs.bus.reader import read_log
from p06bs.metadata import folder_of
from p06bs.model.documents import Document
from p06bs.server.archive.columnfile import (
    Array,
    ColumnFileWriter,
    ColumnView,
    Layout,
    batch_rows,
    read_columns,
)
from p06bs.server.archive.layouts import conform
from p06bs.server.archive.pages import Page
from p06bs.server.archive.survey import StreamSurvey, Survey
from p06bs.server.files.detector import detector_view
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.held import RunView

CONTENTS = "contents.json"
FORMAT = 1
SYNCING = 16
"""So many files are forced to the disk at once."""


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A stream in the archive, as the sink shows one: see `p06bs.server.sink.stream.StreamView`."""

    metadata: Mapping[str, Any]
    columns: Mapping[str, Any]
    external: frozenset[str]
    data_keys: Mapping[str, str | None]
    stream: None = None

    def description(self, name: str) -> Mapping[str, Any]:
        """Return what the descriptor says of a column, with its data key where that differs."""
        key = self.data_keys.get(name)
        described = self.metadata["data_keys"].get(key)
        if not isinstance(described, Mapping):
            return {}
        return described if key == name else {**described, "data_key": key}

    def read(self, names: Iterable[str], start: int, stop: int) -> dict[str, Array | list[str]]:
        """Return rows `start` to `stop - 1` of several event columns; text as lists."""
        return read_columns({name: self.columns[name] for name in names}, start, stop)


Read = Callable[[Path], Iterator[Entry]]


def write_run(log: Path, run: Survey, directory: Path, read: Read = read_log) -> None:
    """Write the directory of a run: the second pass over its log.

    Parameters
    ----------
    log : Path
        The run's log; documents that came since the survey are passed over.
    directory : Path
        Must not exist; when it does, it is whole. `sync_runs` forces it to the disk.
    read : callable
        Yields the entries of the log.
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
        "streams": _write_streams(read(log), run, scratch),
    }
    (scratch / CONTENTS).write_text(json.dumps(contents, default=str))
    scratch.rename(directory)


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system does not let us."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync_runs(directories: Iterable[Path]) -> None:
    """Force directories of runs to the disk; many at once are fast."""
    paths: set[Path] = set()
    for directory in directories:
        paths.update((*directory.iterdir(), directory, *directory.parents[:3]))
    with ThreadPoolExecutor(SYNCING) as pool:
        for _ in pool.map(_sync, paths):
            pass


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_run(directory: Path, roots: FileRoots) -> RunView:
    """Return a run of the archive, from its directory.

    Parameters
    ----------
    roots : FileRoots
        Where detector files may lie, beside the run's own beamtime folder.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    """
    contents = json.loads((directory / CONTENTS).read_text())
    metadata = {"start": contents["start"]}
    if contents["stop"] is not None:
        metadata["stop"] = contents["stop"]
    roots = roots.of(folder_of(contents["start"]))
    streams: dict[str, Any] = {
        name: partial(_stream_view, directory, stream, contents["resources"], roots)
        for name, stream in contents["streams"].items()
    }
    return RunView(metadata, streams, untouched)


def untouched() -> None:
    """Take no note that somebody reads: the archive forgets nothing."""


class _Writers:
    """The column files of a stream while they are written."""

    def __init__(self, directory: Path, stream: StreamSurvey, number: int) -> None:
        self.stream = stream
        self.names = stream.names()
        self.sources = {self.names[source]: source for source in stream.columns}
        self.layouts = {
            self.names[source]: column.final() for source, column in stream.columns.items()
        }
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

    def put(self, page: Page) -> None:
        count = len(page["", "seq_num"])
        for writer, group in self._writers:
            writer.append(
                {
                    name: conform(page.get(self.sources[name]), layout, count)
                    for name, layout in group.items()
                }
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
                name: {
                    **where,
                    "key": self.sources[name][1] if self.sources[name][0] == "data" else None,
                    "kind": self.layouts[name].kind,
                    "dtype": self.layouts[name].dtype,
                    "shape": self.layouts[name].shape,
                }
                for name, where in self.columns.items()
            },
            "external": {
                self.names["data", key]: {"key": key, "segments": segments}
                for key, segments in stream.external.items()
            },
        }


def _write_streams(entries: Iterator[Entry], run: Survey, directory: Path) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        writers = {}
        for number, (name, stream) in enumerate(run.streams.items()):
            writers[name] = _Writers(directory, stream, number)
            stack.callback(writers[name].close)
        again = Survey(run.start)
        for entry in islice(entries, 1, run.documents):
            for name, page, _ in again.take(entry):
                writers[name].put(page)
        for name, page, _ in again.rest():
            writers[name].put(page)
    return {name: writer.contents() for name, writer in writers.items()}


def _stream_view(
    directory: Path, stream: Mapping[str, Any], resources: Mapping[str, Document], roots: FileRoots
) -> StoredStream:
    columns: dict[str, Any] = {}
    data_keys: dict[str, str | None] = {}
    for name, column in stream["columns"].items():
        layout = Layout(column["kind"], column["dtype"], tuple(column["shape"]))
        columns[name] = ColumnView(
            directory / column["file"], name, layout, stream["rows"], column["batch"]
        )
        data_keys[name] = column["key"]
    described = stream["metadata"]["data_keys"]
    for name, external in stream["external"].items():
        data_keys[name] = key = external["key"]
        segments = [(resources[uid], start, stop) for uid, start, stop in external["segments"]]
        columns[name] = detector_view(key, described.get(key), segments, roots)
    external_names = frozenset(stream["external"])
    return StoredStream(stream["metadata"], columns, external_names, data_keys)
