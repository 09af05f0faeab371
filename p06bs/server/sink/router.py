"""Documents, one after the other, to the runs and streams that they belong to."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from p06bs.metadata import folder_of
from p06bs.model.documents import Document
from p06bs.server.files.roots import FileRoots, check_resource
from p06bs.server.sink.held import Change, Run
from p06bs.server.sink.holding import ROUTE_BYTES, Holding
from p06bs.server.sink.names import node_name
from p06bs.server.sink.pages import LoggedPage, page_of
from p06bs.server.sink.places import Place
from p06bs.server.sink.retention import NoRoomError
from p06bs.server.sink.stream import COLUMN_BYTES, PATIENCE_SECONDS, Stream
from p06bs.server.sink.values import plain, size_of, time_of


class DocumentError(ValueError):
    """A document that does not fit what came before; it left no trace in the sink."""


class Router:
    """Put documents where they belong.

    Parameters
    ----------
    holding : Holding
        The runs.
    roots : FileRoots
        Where files of detectors may lie.

    Attributes
    ----------
    refused : Counter
        Number of documents that were refused, by kind of document and of error.
    """

    def __init__(self, holding: Holding, roots: FileRoots) -> None:
        self.refused: Counter[str] = Counter()
        self._holding = holding
        self._roots = roots

    def put(self, name: str, document: Document, place: Place | None, older: bool) -> None:
        """Take one document, which lies at `place` in the log of its run; `older`: see `Sink`.

        Raises
        ------
        DocumentError
            If it does not fit what came before, or names what never came.
        """
        try:
            self._take(name, document, place, older)
        except Exception as error:
            # Whatever one document holds, those of other runs go on.
            self.refused[f"{name}: {type(error).__name__}"] += 1
            self._interrupt(document)
            problem = f"{type(error).__name__}: {error}"
            raise DocumentError(f"{name} document refused: {problem}") from error

    def _interrupt(self, document: Any) -> None:
        """Note in the index of a stream that not all that lies in the log is in its rows."""
        descriptor = document.get("descriptor") if isinstance(document, Mapping) else None
        try:
            _, stream = self._stream(descriptor)
        except (KeyError, TypeError):
            return  # it is of no stream
        stream.refused()

    def _stream(self, descriptor: Any) -> tuple[Run, Stream]:
        run, stream = self._holding.routed(descriptor)
        if not isinstance(stream, Stream):
            raise KeyError(descriptor)
        return run, stream

    def _take(self, name: str, document: Document, place: Place | None, older: bool) -> None:
        match name:
            case "event_page":
                self._append(document, place)
            case "event":
                self._append(page_of(document), place)
            case "start":
                self._start(document, place, older)
            case "descriptor":
                self._descriptor(document, place)
            case "stream_resource":
                self._stream_resource(document, place)
            case "stream_datum":
                self._stream_datum(document, place)
            case "stop":
                self._stop(document, place)
            case "resource" | "datum" | "datum_page":
                pass  # the events hold the datum ids, and that is what the column shows
            case _:
                raise ValueError("no such kind of document")

    def _start(self, document: Document, place: Place | None, older: bool) -> None:
        uid = document["uid"]
        if not isinstance(uid, str) or not uid or node_name(uid) != uid:
            raise ValueError(f"{uid!r} cannot be a part of a path")
        _check_log(uid, place)
        start = plain(document)
        start["time"] = time_of(start)
        held = self._holding.runs.get(uid)
        if held is not None and held.written is None:
            raise ValueError(f"run {uid} has started before")
        if held is not None:
            self._holding.leave(held)  # what somebody wrote under the uid of a run
        self._holding.add(Run(start), older)

    def _run(self, uid: str, place: Place | None) -> Run:
        run = self._holding.runs[uid]
        _check_log(uid, place)
        if run.written is not None:
            raise KeyError(uid)
        return run

    def _descriptor(self, document: Document, place: Place | None) -> None:
        run = self._run(document["run_start"], place)
        descriptor = plain(document)
        uid = _uid(descriptor)
        _check_time(descriptor)
        name = node_name(descriptor.get("name", "primary"))
        stream = run.streams.get(name)
        self._check_unused(run, uid, stream)
        if stream is None:
            roots = self._roots.of(folder_of(run.metadata["start"]))
            shares, lock = self._holding.shares, self._holding.lock
            stream = Stream(name, descriptor, shares, lock, roots, place)
            with self._holding.growing(run, stream.nbytes + ROUTE_BYTES):
                self._holding.route(run, uid, stream)
                run.streams[name] = stream
        else:
            columns = COLUMN_BYTES * 2 * len(descriptor["data_keys"])
            with self._holding.growing(run, size_of(descriptor) + columns + ROUTE_BYTES):
                stream.update(descriptor, place)
                self._holding.route(run, uid, stream)
        self._holding.note(Change(run.uid, name, "stream"))

    def _check_unused(self, run: Run, uid: str, to: Stream | Document | None) -> None:
        """Check that no document of the run means anything else by a uid."""
        try:
            other, meant = self._holding.routed(uid)
        except KeyError:
            return
        if other is run and meant != to:
            raise ValueError(f"another document of the run has the uid {uid}")

    def _stream_resource(self, document: Document, place: Place | None) -> None:
        # event-model lets them leave it out.
        uid = document["run_start"] if place is None else document.get("run_start", place.run)
        run = self._run(uid, place)
        resource = plain(document)
        uid = _uid(resource)
        check_resource(resource)
        self._check_unused(run, uid, resource)
        nbytes = size_of(resource)
        with self._holding.growing(run, nbytes + ROUTE_BYTES):
            self._holding.route(run, uid, resource)
            run.document_bytes += nbytes

    def _append(self, document: Document, place: Place | None) -> None:
        run, stream = self._stream(document["descriptor"])
        _check_log(run.uid, place)
        page = LoggedPage(document, place, patience=PATIENCE_SECONDS)
        fitted = stream.fit(page)
        in_log = stream.logged and place is not None
        if place is not None and in_log and place.nbytes > self._holding.shares.held // 8:
            self._holding.leave_in_log(run, stream)
            keep = False
        else:
            keep = self._holding.room_for_rows(run, lambda: stream.needs(fitted), in_log)
        if run.uid not in self._holding.runs:
            raise NoRoomError(f"run {run.uid} left memory for want of room")
        try:
            if keep:
                stream.put(fitted)  # readers go on meanwhile
            with self._holding.lock:
                if not keep:
                    stream.skip(fitted)
                stream.commit(fitted, place)
        finally:
            with self._holding.lock:
                self._holding.count(run)
        self._holding.note(Change(run.uid, stream.name, "rows"))

    def _stream_datum(self, document: Document, place: Place | None) -> None:
        run, stream = self._stream(document["descriptor"])
        _check_log(run.uid, place)
        _, resource = self._holding.routed(document["stream_resource"])
        if isinstance(resource, Stream):
            raise KeyError(document["stream_resource"])
        indices = document["indices"]
        start, stop = int(indices["start"]), int(indices["stop"])
        with self._holding.growing(run, ROUTE_BYTES):
            stream.announce(resource["data_key"], resource, start, stop)
        self._holding.note(Change(run.uid, stream.name, "rows"))

    def _stop(self, document: Document, place: Place | None) -> None:
        run = self._run(document["run_start"], place)
        stop = plain(document)
        _check_time(stop)
        nbytes = size_of(stop)
        with self._holding.growing(run, nbytes):
            # A new dict: views hold the old one.
            run.metadata = {**run.metadata, "stop": stop}
            self._holding.list_anew()
            run.document_bytes += nbytes
            self._holding.forget_routes(run)
            self._holding.retention.finished(run.uid)
        self._holding.note(Change(run.uid, None, "stop"))


def _check_log(uid: str, place: Place | None) -> None:
    """Check that a document of a run lies in its log, if in any: the archive takes no others."""
    if place is not None and place.run != uid:
        raise ValueError(f"it is of run {uid}, and lies in the log of run {place.run}")


def _uid(document: Document) -> str:
    """Return the uid of a document, by which others refer to it."""
    uid = document["uid"]
    if not isinstance(uid, str):
        raise TypeError(f"{uid!r} is no uid")
    return uid


def _check_time(document: Document) -> None:
    """Check that the time of a document, if it has one, is a finite number."""
    if "time" in document:
        time_of(document)
