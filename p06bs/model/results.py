"""The snapshots of one derived run: when they are made, and the documents that they are in."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from p06bs.model.compute import Setup
from p06bs.model.derived import DerivedRun, described, same_outputs
from p06bs.model.documents import SNAPSHOTS, NamedDocument, part_uid
from p06bs.model.folding import Folding, Snapshot
from p06bs.model.modality import Output
from p06bs.model.taken import Taken

EVERY = 2.0
"""Seconds between two snapshots while the run goes on."""

ABOUT = {"raw_seq_num": "int64", "rows": "int64", "final": "bool"}
"""Data keys of a snapshot beside the results, and their dtypes."""


class Results:
    """Fold what batches contribute, and yield the documents of snapshots.

    Parameters
    ----------
    derived : DerivedRun
        Of a modality with `fold`.
    events : mapping of str to int
        Snapshots that an earlier process has published, by stream.
    published : set of str
        Streams of which it has published the last snapshot.

    Attributes
    ----------
    events : Counter
        Snapshots so far, by stream; for the stop document.
    """

    def __init__(
        self,
        derived: DerivedRun,
        *,
        events: Mapping[str, int] | None = None,
        published: AbstractSet[str] = frozenset(),
    ) -> None:
        self.events: Counter[str] = Counter(events or {})
        self._derived = derived
        self._published = published
        self._folding = Folding()
        self._setup: Setup | None = None
        self._stream = ""
        self._shown = derived.clock()

    def losses(self) -> dict[str, str]:
        """Return for the stop document why there are no results; nothing is the rule."""
        problem = self._folding.problem
        return {"results_problem": problem} if problem else {}

    def add(
        self, number: int, setup: Setup, rows: Taken, parts: Sequence[Any]
    ) -> Iterator[NamedDocument]:
        """Fold what a batch under revision `number` contributed; yield a snapshot if it is time."""
        outputs = setup.modality.results(setup.settings, setup.binding.bound)
        if self._setup is None or not same_outputs(outputs, self._folding.outputs):
            yield from self._show(final=True)
            self._folding.begin(outputs)
            yield from self._begin(number, outputs)
        self._setup = setup
        self._folding.add(number, setup, rows, parts)
        if self._derived.clock() - self._shown >= EVERY:
            yield from self._show(final=False)

    def again(self) -> list[tuple[int, Setup, Taken]]:
        """Return what has to be computed again for the last snapshot, because of a rewind."""
        return list(self._folding.again()) if self._folding.rewound else []

    def finish(
        self, parts: Sequence[tuple[Setup, int, Sequence[Any]]] | None
    ) -> Iterator[NamedDocument]:
        """Yield the last snapshot, of `parts` if what `again` returned was computed."""
        if parts is not None:
            self._folding.refold(parts)
        yield from self._show(final=True)

    def _begin(self, number: int, outputs: Mapping[str, Output]) -> Iterator[NamedDocument]:
        """Begin a stream, and yield its descriptor if no earlier process has recorded it."""
        self._stream = f"{SNAPSHOTS}_r{number}" if self._stream else SNAPSHOTS
        if self._stream in self.events:
            return
        self.events[self._stream] = 0
        process = self._derived.modality.name
        about = {name: Output(dtype=dtype) for name, dtype in ABOUT.items()}
        keys = {name: described(process, o) for name, o in {**outputs, **about}.items()}
        yield (
            "descriptor",
            {
                "uid": part_uid(self._derived.uid, self._stream),
                "run_start": self._derived.uid,
                "time": self._derived.clock(),
                "name": self._stream,
                "data_keys": keys,
                "object_keys": {process: list(keys)},
                "hints": {},
                "configuration": {},
            },
        )

    def _show(self, *, final: bool) -> Iterator[NamedDocument]:
        self._shown = self._derived.clock()
        if self._setup is None or (final and self._stream in self._published):
            return
        snapshot = self._folding.snapshot(self._setup, final=final)
        if snapshot is not None:
            yield "event", self._event(snapshot)

    def _event(self, snapshot: Snapshot) -> dict[str, Any]:
        self.events[self._stream] += 1
        number = self.events[self._stream]
        data: dict[str, Any] = {
            **snapshot.values,
            "raw_seq_num": snapshot.raw_seq_num,
            "rows": snapshot.rows,
            "final": snapshot.final,
        }
        run = self._derived.uid
        return {
            "descriptor": part_uid(run, self._stream),
            "uid": part_uid(run, self._stream, "final" if snapshot.final else number),
            "seq_num": number,
            "time": self._shown,
            "data": data,
            "timestamps": dict.fromkeys(data, self._shown),
        }
