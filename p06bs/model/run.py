"""Follow one raw run for one modality: what it is, what feeds the inputs, which rows there are."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from typing import Any

from p06bs.model.binding import Binding, BindingError, bind
from p06bs.model.candidates import ASIDE, aligned_streams
from p06bs.model.constants import read_before
from p06bs.model.documents import Document
from p06bs.model.first_values import FirstValues
from p06bs.model.modality import Modality
from p06bs.model.reconfigured import changed
from p06bs.model.rows import Rows
from p06bs.model.source import Source
from p06bs.model.upstream import Upstream

HELD_DOCUMENTS = 10_000
"""How many documents wait for the descriptors of the announced streams before they go unheard."""


class RawRun:
    """Take the documents of one raw run and make rows of them as soon as the inputs are bound.

    The inputs are bound when the first row of any stream arrives and every
    stream announced in ``aligned_streams`` has its descriptor, at the latest at
    the stop document. Until then documents are held, at most `HELD_DOCUMENTS`.
    Where a descriptor leaves the dtype open ("array" and no dtype_numpy) or an
    axis (None in the shape), the first event that holds numbers says it, so that
    counts which a recorded run has as lists of integers stay integers.
    With `limit`, the first so many rows are all that there are.
    Derived runs of the raw run may feed inputs, too (`feed`). Those of the pipelines that `after`
    names are waited for: until it is known what they make nothing is bound.

    Raises
    ------
    BindingError
        From `add`, `feed` and `go_without`, at the stop document or when too many documents wait,
        if the run does not have what the modality needs.

    Attributes
    ----------
    upstream : dict of str to Upstream
        The derived runs that may feed inputs, by uid.
    """

    def __init__(
        self,
        modality: Modality,
        start: Document,
        limit: int | None = None,
        after: Collection[str] = (),
    ) -> None:
        self.modality = modality
        self.limit = limit
        self.after = tuple(after)
        self.upstream: dict[str, Upstream] = {}
        self._without = ""  # why derived runs that are not there are not waited for
        self.start = start
        self.uid: str = start["uid"]
        self.stop: Document | None = None
        self.descriptors: dict[str, Document] = {}
        self.resources: dict[str, Document] = {}
        self.binding: Binding | None = None
        self.rows: Rows | None = None
        self._held: list[tuple[str, Document, Any]] = []
        self._orphans: defaultdict[str, list[tuple[str, Document, Any]]] = defaultdict(list)
        self._tried = 0
        self.reconfigured: set[str] = set()  # inputs whose device was configured anew
        self.refused: list[tuple[str, Exception]] = []  # documents that could not be used
        self.problem = ""  # why the inputs are not bound yet, if that was tried
        self._found: FirstValues | None = None  # of what the binding leaves open

    def add(self, name: str, document: Document, where: Any = None) -> None:
        """Take one document; `where` says where its columns can be read again."""
        match name:
            case "descriptor":
                if document["uid"] not in self.descriptors:
                    self.descriptors[document["uid"]] = document
                    self._compare(document)
                    self._adopt(document["uid"])
            case "stream_resource":
                self.resources[document["uid"]] = document
                self._adopt(document["uid"])
            case "event" | "event_page" | "stream_datum":
                self._row(name, document, where)
            case "stop" if self.stop is None:
                self.stop = document
                if self.rows is None:
                    self._bind(final=True)
                else:
                    self.rows.finish()
            case _:
                pass

    def feed(self, run: str, name: str, document: Document, where: Any = None) -> None:
        """Take the next document of the derived run with uid `run`, whose rows may feed inputs."""
        if name == "start":
            self.upstream[run] = Upstream(document)
            return
        fed = self.upstream[run]
        was_described = fed.described
        fed.add(name, document, where)
        if self.rows is not None:
            self.rows.release()
        elif fed.described and not was_described:
            self._bind_late()

    @property
    def lacks(self) -> tuple[str, ...]:
        """Names of the pipelines whose derived run is waited for, before inputs are bound."""
        if self.rows is not None:
            return ()
        begun = {one.name: one for one in self.upstream.values()}
        return tuple(
            name
            for name in self.after
            if (not self._without if name not in begun else not begun[name].described)
        )

    @property
    def unbegun(self) -> tuple[str, ...]:
        """Those of them that have not begun, while rows, or the end, wait for that."""
        if not self._held and self.stop is None:
            return ()
        begun = {one.name for one in self.upstream.values()}
        return tuple(name for name in self.lacks if name not in begun)

    def go_without(self, why: str) -> None:
        """Wait no longer for derived runs that have not begun; `why`, as a sentence."""
        self._without = why
        self._bind_late()

    def _bind_late(self) -> None:
        """Bind what rows wait for, because it is known now what derived runs make."""
        if self.stop is not None or (self._held and self._announced()):
            self._tried = len(self.descriptors)
            self._bind(final=self.stop is not None)

    @property
    def held(self) -> int:
        """Number of documents that wait for the inputs to be bound."""
        return len(self._held)

    @property
    def ending(self) -> Document | None:
        """With what the derived run is to end when all rows are computed; None if more may come.

        The raw run's stop document. If a derived run that feeds inputs did not end well, its stop
        document counts.
        """
        rows = self.rows
        if rows is None or self.binding is None:
            return None if self.lacks else self.stop
        if rows.full:
            return self.stop
        if rows.cut_by is not None:
            return rows.cut_by.bad_end
        fed_by = [self.upstream[uid] for uid in self.binding.fed_by]
        if self.stop is None or rows.waiting or any(one.stop is None for one in fed_by):
            return None
        if self.stop["exit_status"] != "success":
            return self.stop
        return next(filter(None, (one.bad_end for one in fed_by)), self.stop)

    def _compare(self, descriptor: Document) -> None:
        """Note inputs of which a further descriptor says another unit or configuration."""
        if self.binding is None:
            return
        self.reconfigured |= changed(self.binding, self.start, descriptor)

    def _row(self, name: str, document: Document, where: Any) -> None:
        if self.rows is not None:
            self._enter(name, document, where)
            return
        self._held.append((name, document, where))
        final = len(self._held) > HELD_DOCUMENTS
        scanned = any(not ASIDE.fullmatch(d.get("name", "")) for d in self.descriptors.values())
        news = scanned and len(self.descriptors) > self._tried and self._announced()
        if self._found is not None:
            self._look_at(self._found, name, document)
        if final or news or self._found is not None:
            self._tried = len(self.descriptors)
            self._bind(final=final)

    def _announced(self) -> bool:
        """Return whether each stream announced as aligned has its descriptor."""
        return not self._unannounced()

    def _unannounced(self) -> list[str]:
        """Return the streams announced as aligned whose descriptors have not come."""
        there = {d.get("name", "primary") for d in self.descriptors.values()}
        return [name for name in aligned_streams(self.start) if name not in there]

    @property
    def awaited(self) -> str:
        """What has to come before the inputs are bound, in words; "" once they are."""
        if self.rows is not None:
            return ""
        if self.problem:
            return f"what it lacks: {self.problem}"
        if self.lacks:
            return f"the derived run of {', '.join(self.lacks)}"
        if self._found is not None:
            said = ", ".join(self._found.missing)
            return f"the first numbers of {said}, whose descriptor leaves dtype or shape open"
        if missing := self._unannounced():
            return f"the descriptor of stream {', '.join(missing)}, which aligned_streams announces"
        if any(not ASIDE.fullmatch(d.get("name", "")) for d in self.descriptors.values()):
            return "the first event"
        return "a descriptor: no stream has begun"

    def _bind(self, *, final: bool) -> None:
        if self._found is None:
            if self.lacks:
                return
            try:
                found = bind(
                    self.modality,
                    self.start,
                    self.descriptors.values(),
                    list(self.upstream.values()),
                    read_before(self._held, self.descriptors),
                )
            except BindingError as error:
                self.problem = ". ".join((str(error), *self._unfed()))
                if final:
                    self._held.clear()
                    raise BindingError(self.problem) from None
                return
            self._found = FirstValues(found)
            self.problem = ""
            for name, document, _ in self._held:
                self._look_at(self._found, name, document)
        if not final and self._found.missing:
            return
        self.binding = self._found.close()
        self.rows = Rows(self.binding, self.limit, self.upstream)
        for uid in self.binding.fed_by:
            self.upstream[uid].want(
                [b.data_key for b in self.binding.bound.values() if b.run == uid]
            )
        held, self._held = self._held, []
        for name, document, where in held:
            try:
                self._enter(name, document, where)
            except Exception as error:  # whatever it holds, those behind it are entered
                self.refused.append((name, error))
        if self.stop is not None:
            self.rows.finish()

    def _unfed(self) -> Iterator[str]:
        """Yield why derived runs make nothing that could feed inputs."""
        if self._without:
            yield self._without
        for one in self.upstream.values():
            if one.descriptor is None and one.stop is not None:
                ended = f"{one.stop['exit_status']}: {one.stop.get('reason')}"
                yield f"{one.name} made no rows: it ended with {ended}"

    def _look_at(self, found: FirstValues, name: str, document: Document) -> None:
        """Let an event say what its descriptor leaves open."""
        descriptor = self.descriptors.get(document["descriptor"])
        if name != "stream_datum" and descriptor is not None:
            found.look_at(descriptor.get("name", "primary"), document)

    def _enter(self, name: str, document: Document, where: Any) -> None:
        assert self.rows is not None
        descriptor = self.descriptors.get(document["descriptor"])
        if descriptor is None:
            self._orphans[document["descriptor"]].append((name, document, where))
            return
        key = None
        if name == "stream_datum":
            resource = self.resources.get(document["stream_resource"])
            if resource is None:
                self._orphans[document["stream_resource"]].append((name, document, where))
                return
            key = resource["data_key"]
        self.rows.add(Source(descriptor.get("name", "primary"), key), name, document, where)

    def _adopt(self, uid: str) -> None:
        """Enter the documents that came before the descriptor or resource they name."""
        for name, document, where in self._orphans.pop(uid, ()):
            self._row(name, document, where)

    @property
    def orphans(self) -> int:
        """Documents that name a descriptor or stream resource which never came."""
        return sum(map(len, self._orphans.values()))
