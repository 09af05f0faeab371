"""Follow one raw run for one modality: what it is, what feeds the inputs, which rows there are."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.model.binding import (
    ASIDE,
    Binding,
    BindingError,
    Candidate,
    aligned_streams,
    bind,
    candidates,
    squeezed,
)
from p06bs.model.documents import Document, LoggedArray
from p06bs.model.modality import BoundInput, Modality
from p06bs.model.rows import Rows, Source
from p06bs.model.units import unit_scale

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

    Raises
    ------
    BindingError
        From `add`, at the stop document or when too many documents wait, if the
        run does not have what the modality needs.
    """

    def __init__(self, modality: Modality, start: Document, limit: int | None = None) -> None:
        self.modality = modality
        self.limit = limit
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
        self._found: Binding | None = None  # until the first events say what it leaves open
        self._first: dict[str, _Numbers] = {}

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
                if self.rows is not None:
                    self.rows.finish()
            case _:
                pass

    def _compare(self, descriptor: Document) -> None:
        """Note inputs of which a further descriptor says another unit or configuration."""
        if self.binding is None:
            return
        again = {(c.stream, c.data_key): c for c in candidates(self.start, [descriptor])}
        for name, bound in self.binding.bound.items():
            said = again.get((bound.stream, bound.data_key))
            if said is not None and not _is_alike(said, bound):
                self.reconfigured.add(name)

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
        if self._found is not None:
            said = ", ".join(
                f"{b.stream}/{b.data_key}"
                for n, b in self._found.bound.items()
                if _open(b) and n not in self._first
            )
            return f"the first numbers of {said}, whose descriptor leaves dtype or shape open"
        if missing := self._unannounced():
            return f"the descriptor of stream {', '.join(missing)}, which aligned_streams announces"
        if any(not ASIDE.fullmatch(d.get("name", "")) for d in self.descriptors.values()):
            return "the first event"
        return "a descriptor: no stream has begun"

    def _bind(self, *, final: bool) -> None:
        if self._found is None:
            try:
                found = bind(self.modality, self.start, self.descriptors.values())
            except BindingError as error:
                self.problem = str(error)
                if final:
                    self._held.clear()
                    raise
                return
            self._found = found
            self.problem = ""
            for name, document, _ in self._held:
                self._look_at(found, name, document)
        found = self._found
        if not final and any(_open(b) and n not in self._first for n, b in found.bound.items()):
            return
        self.binding = replace(
            found,
            bound={
                n: _closed(b, self._first[n]) if n in self._first else b
                for n, b in found.bound.items()
            },
        )
        self.rows = Rows(self.binding, self.limit)
        held, self._held = self._held, []
        for name, document, where in held:
            try:
                self._enter(name, document, where)
            except Exception as error:  # whatever it holds, those behind it are entered
                self.refused.append((name, error))

    def _look_at(self, found: Binding, name: str, document: Document) -> None:
        """Remember an event's value of each input whose descriptor leaves something open."""
        descriptor = self.descriptors.get(document["descriptor"])
        if name == "stream_datum" or descriptor is None:
            return
        stream = descriptor.get("name", "primary")
        for wanted, bound in found.bound.items():
            data = document.get("data")
            values = data.get(bound.data_key) if isinstance(data, Mapping) else None
            if bound.stream != stream or wanted in self._first or not _open(bound):
                continue
            rows = [values] if isinstance(document["uid"], str) else values
            value = None if rows is None or not len(rows) else _numbers(rows[0])
            if value is not None and _is_like(value, bound.source_shape):
                self._first[wanted] = value

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

    def losses(self) -> dict[str, Any]:
        """Return what did not become rows, or not as it should: counts that differ, rows
        without partner, orphans, inputs whose device was configured anew meanwhile.

        Only what is not as it should be has a field, so an empty dict is the rule.
        """
        found: dict[str, Any] = {}
        if self.limit is not None:
            return found  # what lies behind the limit is no loss
        if self.rows is not None:
            counts = self.rows.counts
            if len(set(counts.values())) > 1:
                found["source_counts"] = counts
            if self.rows.unpaired:
                found["unpaired_rows"] = self.rows.unpaired
        if self.orphans:
            found["orphan_documents"] = self.orphans
        if self.reconfigured:
            found["reconfigured_inputs"] = sorted(self.reconfigured)
        return found


def _open(bound: BoundInput) -> bool:
    """Return whether the descriptor does not say an input's dtype or the length of an axis."""
    return not bound.external and (not bound.dtype or 0 in bound.source_shape)


_Numbers = npt.NDArray[Any] | LoggedArray


def _closed(bound: BoundInput, value: _Numbers) -> BoundInput:
    """Return what feeds an input, with dtype and shape of its first value where they are open."""
    shape = bound.source_shape if 0 not in bound.source_shape else value.shape
    inner = squeezed(shape, len(bound.shape))
    return replace(
        bound,
        dtype=bound.dtype or value.dtype.str,
        source_shape=shape,
        shape=(1,) * (len(bound.shape) - len(inner)) + inner,
    )


def _is_like(value: _Numbers, shape: tuple[int, ...]) -> bool:
    """Return whether a value can be of a described shape, in which 0 is an open length."""
    return value.ndim == len(shape) if 0 in shape else value.size == math.prod(shape)


def _numbers(value: Any) -> _Numbers | None:
    """Return a value as an array; None if it is no number and no regular array of numbers."""
    try:
        array = value if isinstance(value, LoggedArray) else np.asarray(value)
    except ValueError:  # ragged
        return None
    return array if array.dtype.kind in "biufc" else None


def _is_alike(said: Candidate, bound: BoundInput) -> bool:
    """Return whether a descriptor says of an input what the one says that it was bound by."""
    now, before = said.configuration, bound.configuration
    return (
        now.keys() == before.keys()
        and all(np.array_equal(now[key], before[key]) for key in now)
        and unit_scale(said.unit, bound.unit) in (bound.scale, None)
    )
