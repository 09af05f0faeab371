"""The snapshots of one derived run: when they are made, and the documents that they are in."""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from p06bs.model.compute import Setup
from p06bs.model.derived import DerivedRun, same_outputs
from p06bs.model.documents import NamedDocument
from p06bs.model.folding import Folding
from p06bs.model.rows import Taken

EVERY = 2.0
"""Seconds between two snapshots while the run goes on."""


class Results:
    """Fold what batches contribute, and yield the documents of snapshots.

    Parameters
    ----------
    derived : DerivedRun
        Of a modality with `fold`.
    published : set of str
        Streams of which an earlier process has published the last snapshot already.
    """

    def __init__(self, derived: DerivedRun, *, published: AbstractSet[str] = frozenset()) -> None:
        self._derived = derived
        self._published = published
        self._folding = Folding()
        self._setup: Setup | None = None
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
            yield from self._derived.folds(number, outputs)
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

    def _show(self, *, final: bool) -> Iterator[NamedDocument]:
        self._shown = self._derived.clock()
        if self._setup is None or (final and self._derived.snapshots in self._published):
            return
        snapshot = self._folding.snapshot(self._setup, final=final)
        if snapshot is not None:
            yield self._derived.snapshot(snapshot)
