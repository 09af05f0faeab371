"""Compose a derived run: documents out of results that come in acquisition order.

The same class writes the documents of the reference `process`, of a notebook
callback and of a pipeline's sorter. It is the only place that knows how a
derived run looks.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from p06bs.model.binding import Binding
from p06bs.model.compute import Result, Setup
from p06bs.model.documents import (
    Document,
    NamedDocument,
    part_uid,
    run_uid,
    settings_json,
)
from p06bs.model.modality import Modality, Output
from p06bs.model.page import BOOKKEEPING, Stream, compose_page
from p06bs.model.reference import reference_to
from p06bs.model.revisions import Revision, configuration
from p06bs.model.scanning import Scanning
from p06bs.model.taken import RowNames

COPIED = (
    "scan_id",
    "plan_name",
    "plan_type",  # bluesky's LiveTable asks for it
    "sample",
    "beamtime_id",
    "proposal_id",
    "technique",
    "endstation",
    "scan",
    "shape",
    "extents",
    "snaking",
    "motors",
    "data_session",
    "beamtime_folder",
)
"""Fields of the raw start document that a derived run repeats, so that it is found by them."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one batch with their result, to be put in order and composed."""

    revision: int
    rows: RowNames
    result: Result


PREVIEW = -1
"""Number of a reprocessing that goes before: of a part of the events, while the scan runs."""


@dataclass
class DerivedRun:
    """Make the documents of one derived run from pages in acquisition order.

    Parameters
    ----------
    modality, raw_start, binding
        What is computed, for which run, from which data keys.
    initial : Revision
        The settings in force at the first row.
    clock
        Time of the documents and of events that have no time of their own.
    reprocessing : int
        Number of the reprocessing; 0 is the run that was made first, `PREVIEW` what shows a part
        of it before.
    rows : int, optional
        It is made of the first so many rows only.
    pipeline : str
        Name of the pipeline that makes it, if that is not the modality's.
    """

    modality: Modality
    raw_start: Document
    binding: Binding
    initial: Revision
    clock: Clock
    reprocessing: int = 0
    rows: int | None = None
    pipeline: str = ""
    uid: str = field(init=False)
    _streams: dict[int, Stream] = field(init=False, default_factory=dict)
    _setups: dict[int, Setup] = field(init=False, default_factory=dict)
    _latest: int | None = field(init=False, default=None)
    _events: Counter[str] = field(init=False, default_factory=Counter)
    _invalid: Counter[str] = field(init=False, default_factory=Counter)
    _scanning: Scanning = field(init=False, default_factory=Scanning)

    def __post_init__(self) -> None:
        self.uid = run_uid(
            self.raw_start["uid"],
            modality=self.modality.name,
            version=self.modality.version,
            digest=self.initial.digest,
            inputs=self.binding.record(),
            reprocessing=self.reprocessing,
        )

    def start(self) -> NamedDocument:
        """Return the start document."""
        raw = self.raw_start
        document = {name: raw[name] for name in COPIED if name in raw}
        document.update(
            uid=self.uid,
            time=self.clock(),
            original_run_uid=raw.get("original_run_uid", raw["uid"]),
            derived_from=self._direct_inputs(),
            process={
                "name": self.modality.name,
                "version": self.modality.version,
                "modality": reference_to(self.modality),
                "settings": settings_json(self.initial.settings),
                "settings_digest": self.initial.digest,
                "inputs": self.binding.record(),
                "source": asdict(self.binding.sources[0]),
                "reprocessing": self.reprocessing,
            },
        )
        if self.binding.warnings:
            document["process"]["warnings"] = list(self.binding.warnings)
        if self.pipeline not in ("", self.modality.name):
            document["process"]["pipeline"] = self.pipeline
        if self.reprocessing == PREVIEW:
            document["process"]["preview"] = True
        if self.initial.preset:
            document["process"]["preset"] = self.initial.preset
        if self.rows is not None:
            document["process"]["rows"] = self.rows
        if "dimensions" in (raw.get("hints") or {}):
            document["hints"] = {"dimensions": raw["hints"]["dimensions"]}
        return "start", document

    def _direct_inputs(self) -> list[str]:
        """Return the uids of the runs that feed inputs, the raw run first."""
        fed = [bound.run or str(self.raw_start["uid"]) for bound in self.binding.bound.values()]
        return sorted(dict.fromkeys(fed), key=lambda uid: uid != self.raw_start["uid"])

    def revise(self, revision: Revision, setup: Setup, first: int, raw_uid: str) -> NamedDocument:
        """Return the descriptor that records from which event on a revision is in force.

        Outputs that stay equal in name, shape and dtype go on in the same
        stream under a new descriptor; otherwise ``primary_r<revision>`` begins.
        """
        last = None if self._latest is None else self._streams[self._latest]
        before: Mapping[str, Output] = setup.outputs
        if self._latest is not None:
            before = self._setups[self._latest].outputs
        elif revision.number:
            # The first row came under changed settings already; primary is the initial ones'.
            before = self.modality.outputs(self.initial.settings, self.binding.bound)
        if same_outputs(before, setup.outputs):
            name, start = ("primary", 0) if last is None else (last.name, last.first)
        else:
            name, start = f"primary_r{revision.number}", first
        uid = part_uid(self.uid, name, revision.number)
        self._latest = revision.number
        self._streams[revision.number] = Stream(self.uid, name, uid, start)
        self._setups[revision.number] = setup
        process = self.modality.name
        now = self.clock()
        keys = {k: described(process, o) for k, o in setup.outputs.items()}
        keys.update(
            {k: {**d, "source": "p06bs", "object_name": process} for k, d in BOOKKEEPING.items()}
        )
        hinted = [k for k, o in setup.outputs.items() if o.hinted and not o.shape]
        return "descriptor", {
            "uid": uid,
            "run_start": self.uid,
            "time": now,
            "name": name,
            "data_keys": keys,
            "object_keys": {process: list(keys)},
            "hints": {process: {"fields": hinted}},
            "configuration": {
                process: configuration(
                    revision,
                    first=first,
                    raw_uid=raw_uid,
                    version=self.modality.version,
                    now=now,
                    roles={k: o.role for k, o in setup.outputs.items() if o.role},
                )
            },
        }

    def stream(self, revision: int) -> Stream:
        """Return the stream that a revision's rows belong to."""
        return self._streams[revision]

    def page(self, page: Page, setup: Setup | None = None) -> NamedDocument:
        """Return the event page of the next rows in acquisition order.

        `setup` is needed where `revise` got it before it was made ready for `scan`.
        """
        setup = setup or self._setups[page.revision]
        result = page.result
        if setup.modality.scan is not None:
            result = self._scanning.scan(setup, page.rows.seq, result)
        stream = self._streams[page.revision]
        document = compose_page(stream, setup.outputs, page.rows, result, self.clock())
        self.count(stream.name, len(page.rows), sum(map(bool, result.reasons)))
        return "event_page", document

    def count(self, stream: str, rows: int, invalid: int) -> None:
        """Count events for the stop document (those of an earlier writer included)."""
        self._events[stream] += rows
        self._invalid[stream] += invalid

    @property
    def invalid(self) -> int:
        """Number of invalid events so far."""
        return self._invalid.total()

    def pass_over(self, revision: int, rows: int) -> None:
        """Count rows for the stop document that another writer of this run delivers."""
        self._events[self._streams[revision].name] += rows

    def stop(
        self,
        exit_status: str = "success",
        reason: str = "",
        losses: Mapping[str, Any] | None = None,
        more_events: Mapping[str, int] | None = None,
    ) -> NamedDocument:
        """Return the stop document.

        `losses` say what of the raw run did not become rows, `more_events` how many
        events there are in streams of no rows.
        """
        document = {
            **(losses or {}),
            "uid": part_uid(self.uid, "stop"),
            "run_start": self.uid,
            "time": self.clock(),
            "exit_status": exit_status,
            "reason": reason,
            "num_events": {**self._events, **(more_events or {})},
            "num_invalid": {stream: self._invalid[stream] for stream in self._events},
        }
        return "stop", document


def same_outputs(one: Mapping[str, Output], other: Mapping[str, Output]) -> bool:
    """Return whether outputs have the same names, shapes and dtypes."""
    return {k: (o.shape, np.dtype(o.dtype)) for k, o in one.items()} == {
        k: (o.shape, np.dtype(o.dtype)) for k, o in other.items()
    }


def described(process: str, output: Output) -> dict[str, Any]:
    """Return the data key of an output."""
    dtype = np.dtype(output.dtype)
    kind = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "U": "string"}
    key: dict[str, Any] = {
        "source": f"p06bs {process}",
        "object_name": process,
        "dtype": "array" if output.shape else kind.get(dtype.kind, "number"),
        "dtype_numpy": dtype.str,
        "shape": list(output.shape),
        "units": output.unit,
    }
    if output.dims:
        key["dims"] = list(output.dims)
    return key
