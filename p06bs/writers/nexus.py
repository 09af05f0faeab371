"""Write a run, raw or derived, as one NeXus file.

The interface is suitcase's: `export` writes the documents of a recorded run,
`Serializer` is a callback that takes them as they come. The file holds a
lossless tree of the documents (``/entry/bluesky``), and beside it, without
copies, what NeXus readers look for: instrument, sample, process, and a default
plot. The layout is described in ``docs/reference/nexus.md``.

References
----------
The NeXus manual, https://manual.nexusformat.org (base classes NXroot, NXentry,
NXdata, NXprocess, NXcollection; release v2026.01).
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import h5py

from p06bs.model.collected import page_of
from p06bs.model.documents import Document, NamedDocument
from p06bs.writers._entry import write_entry, write_root
from p06bs.writers._h5 import Names, group, json_text
from p06bs.writers._partfile import PartFile
from p06bs.writers._plots import write_plots
from p06bs.writers._streams import Stream, Texts

log = logging.getLogger(__name__)

Unfinished = Literal["discard", "keep"]


def export(
    gen: Iterable[tuple[str, Document]],
    directory: str | Path,
    file_prefix: str = "{start[uid]}",
    *,
    unfinished: Unfinished = "discard",
    tree: str | Path | None = None,
    beside: Iterable[NamedDocument] = (),
) -> dict[str, list[Path]]:
    """Write the documents of one run to one NeXus file.

    Parameters
    ----------
    gen : iterable of (name, document)
        One run, in an order that event-model allows.
    directory, file_prefix, unfinished, tree, beside
        As for `Serializer`.

    Returns
    -------
    dict
        ``{"all": [path]}``.

    Raises
    ------
    ValueError
        If there is no run in `gen`, or it has no stop document and `unfinished` is "discard".
    """
    options: dict[str, Any] = {"unfinished": unfinished, "tree": tree, "beside": beside}
    with Serializer(directory, file_prefix, **options) as serializer:
        for name, document in gen:
            serializer(name, document)
    if not serializer.artifacts:
        raise ValueError(
            f"no file was written to {directory}: the documents hold no complete run; "
            "unfinished='keep' writes one without a stop document"
        )
    return serializer.artifacts


class Serializer:
    """Take the documents of one run, and leave one NeXus file behind.

    Events are written as they come, to a hidden ``.part`` file; at the stop
    document the file is completed, synced, and appears under its name in one
    step. A file of that name is never overwritten.

    Parameters
    ----------
    directory : path
        Made if it does not exist.
    file_prefix : str
        Template of the file's name without ``.nxs``; ``start`` is the start
        document. May name folders within `directory`.
    unfinished : {"discard", "keep"}
        What `close` does with a run that has no stop document: remove what was
        written (the documents are in the run's log, and a complete file can be
        written later), or complete the file with what came.
    tree : path, optional
        Folder (a beamtime's, say) within which links to detector files are
        relative, so that it can be moved as a whole; others are absolute.
        Default: `directory`.
    beside : iterable of (name, document), optional
        Documents of other runs of the scan: the raw run of a derived one, and the derived run
        that corrects the positions. Maps are placed by the positions that these have. They
        are asked for when the run ends.

    Attributes
    ----------
    artifacts : dict
        ``{"all": [path]}`` once the file is there; empty before.

    Raises
    ------
    OSError
        From a call, if the file cannot be written; names it.
    ValueError
        From a call, if a document contradicts the ones before, or names unknown ones.
    """

    def __init__(
        self,
        directory: str | Path,
        file_prefix: str = "{start[uid]}",
        *,
        unfinished: Unfinished = "discard",
        tree: str | Path | None = None,
        beside: Iterable[NamedDocument] = (),
    ) -> None:
        if unfinished not in ("discard", "keep"):
            raise ValueError(f"unfinished is {unfinished!r}, it must be 'discard' or 'keep'")
        self.artifacts: dict[str, list[Path]] = {}
        self._directory = Path(directory).resolve()
        self._prefix = file_prefix
        self._unfinished = unfinished
        self._beside = beside
        self._tree = Path(tree).resolve() if tree is not None else self._directory
        self._start: Document | None = None
        self._part: PartFile | None = None
        self._file: h5py.File | None = None
        self._streams: dict[tuple[str, frozenset[str]], Stream] = {}
        self._by_descriptor: dict[str, Stream] = {}
        self._resources: dict[str, Document] = {}
        self._texts: dict[str, Texts] = {}
        self._names = Names()

    def __call__(self, name: str, doc: Document) -> None:
        """Take a document."""
        if (name == "start") == (self._start is not None):
            problem = "one run has two start documents" if self._start else "it comes before start"
            raise ValueError(f"{name} document {doc.get('uid')!r}: {problem}")
        if name != "start" and self._file is None:
            raise ValueError(f"{name} document {doc.get('uid')!r}: the file is closed already")
        try:
            self._take(name, doc)
            if self._file is not None and self._part is not None:
                self._part.check()
        except (OSError, RuntimeError):
            self._abandon()
            if self._part is not None:
                self._part.check()  # what HDF5 complains of follows from what the disk refused
            raise

    def _take(self, name: str, doc: Document) -> None:
        match name:
            case "start":
                self._open(doc)
            case "descriptor":
                self._describe(doc)
            case "event":
                self._stream(name, doc).add(page_of(doc))
            case "event_page":
                self._stream(name, doc).add(doc)
            case "stream_resource":
                self._resources[doc["uid"]] = doc
                self._text(name, doc)
            case "stream_datum":
                stream = self._stream(name, doc)
                stream.add_frames(doc, self._named("stream_resource", doc))
            case "resource" | "datum" | "datum_page":
                self._text(name, doc)
            case "stop":
                self._finish(doc)
            case _:
                raise ValueError(f"{name!r} is no document of event-model")

    def _open(self, start: Document) -> None:
        try:
            stem = self._prefix.format(start=start)
        except (KeyError, IndexError, AttributeError) as error:
            raise ValueError(
                f"file_prefix {self._prefix!r} asks for {error}, which the start document lacks"
            ) from error
        final = (self._directory / f"{stem}.nxs").resolve()
        if not final.is_relative_to(self._directory):
            raise ValueError(f"file_prefix {self._prefix!r} leads to {final}, out of the directory")
        self._start = start
        self._part = PartFile(final)
        self._file = h5py.File(self._part, "w")
        entry = group(self._file, "entry", "NXentry")
        documents = group(entry, "bluesky", "NXcollection")
        group(documents, "streams", "NXcollection")
        documents["start"] = json_text(start)

    @property
    def _documents(self) -> h5py.Group:
        assert self._file is not None
        return self._file["entry/bluesky"]

    def _describe(self, doc: Document) -> None:
        if doc["uid"] in self._by_descriptor:
            return
        name = doc.get("name", "primary")
        # event-model wants equal data keys within a stream; others get a group of their own.
        key = (name, frozenset(doc["data_keys"]))
        if key not in self._streams:
            self._streams[key] = Stream(self._documents["streams"], self._names(name), doc)
        self._streams[key].describe(doc)
        self._by_descriptor[doc["uid"]] = self._streams[key]

    def _stream(self, name: str, doc: Document) -> Stream:
        stream = self._by_descriptor.get(doc["descriptor"])
        if stream is None:
            raise ValueError(f"{name} names descriptor {doc['descriptor']!r}, which has not come")
        return stream

    def _named(self, kind: str, doc: Document) -> Document:
        resource = self._resources.get(doc[kind])
        if resource is None:
            raise ValueError(f"stream_datum names {kind} {doc[kind]!r}, which has not come")
        return resource

    def _text(self, name: str, doc: Document) -> None:
        if name not in self._texts:
            self._texts[name] = Texts(self._documents, name)
        self._texts[name].append(doc)

    def _finish(self, stop: Document | None) -> None:
        assert self._file is not None
        assert self._part is not None
        assert self._start is not None
        if stop is not None:
            self._documents["stop"] = json_text(stop)
        streams = list(self._streams.values())
        for stream in streams:
            stream.finish(self._tree, self._part.final.parent)
        entry = self._file["entry"]
        write_entry(entry, self._start, stop, streams)
        default = write_plots(entry, self._start, streams, self._beside)
        write_root(self._file, self._part.final, default)
        file, self._file = self._file, None
        file.close()
        self._part.publish()
        self.artifacts["all"] = [self._part.final]

    def close(self) -> None:
        """End the file if the run has not: see `unfinished`. May be called again."""
        if self._part is None or "all" in self.artifacts:
            return
        try:
            if self._file is not None and self._unfinished == "keep":
                self._finish(None)
            elif self._file is not None:
                log.warning("%s is not written: its run did not end", self._part.final)
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Let go of what was written."""
        file, self._file = self._file, None
        try:
            if file is not None:
                file.close()
        finally:
            if self._part is not None:
                self._part.discard()

    def __enter__(self) -> "Serializer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._unfinished = "discard"
        self.close()
