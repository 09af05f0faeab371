"""What pipelines make of raw runs, and why: for whoever asks ``p06bs why``.

Decisions only: no socket, no clock, no thread.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from p06bs.metadata import ANALYSIS
from p06bs.model.binding import Binding
from p06bs.model.documents import Document
from p06bs.model.losses import warnings
from p06bs.model.revisions import Revision
from p06bs.pipeline.run import RunPipeline

REMEMBERED = 1000
"""Runs that are over of which it is still known what became of them."""


class State(StrEnum):
    """What a pipeline does about a run."""

    WAITS = "waits"
    WORKS = "works"
    STANDS_BY = "stands by"
    """Another process makes the derived run; this one goes on with it when that ends."""
    DONE = "done"
    DONE_BEFORE = "done before"
    """Another process has finished the derived run."""
    LEFT = "left"
    REFUSED = "refused"
    """The pipeline itself cannot be had as it is configured."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What one pipeline makes of one run.

    Attributes
    ----------
    pipeline, modality : str
    state : State
    why : str
        In words: what it waits for, what it looked for and did not find, how far it is.
    derived : str or None
        Uid of the derived run.
    inputs : mapping of str to str
        Input -> ``stream/data key`` that feeds it, or ``pipeline/stream/data key``; empty until
        that is known.
    settings : mapping
        ``change``, ``preset``, ``digest`` and ``changed_by`` of the settings that hold, or
        are to hold from one of the next events on.
    events, invalid : int
        Rows of the derived run so far, and how many of them are invalid.
    warnings : tuple of str
        What is not as it should be, and did not keep it from working.
    computed : bool
        Nobody remembers: it is what would be done.
    """

    pipeline: str
    modality: str
    state: State
    why: str
    derived: str | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    events: int = 0
    invalid: int = 0
    warnings: tuple[str, ...] = ()
    computed: bool = False

    def plain(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "state": str(self.state), "warnings": list(self.warnings)}


def decision(pipeline: str, run: RunPipeline, held_up: str = "") -> Decision:
    """Return what a pipeline makes of a run now. Any thread.

    Parameters
    ----------
    pipeline : str
    run : RunPipeline
    held_up : str
        Why no worker computes what there is to compute; "" if one does.
    """
    work, binding = run.work, run.raw.binding
    state, why = _state(run, held_up)
    return Decision(
        pipeline,
        run.modality.name,
        state,
        why,
        run.derived,
        fed(binding),
        told(run.asked) if binding is not None else {},
        0 if work is None else work.fan_in.next,
        0 if work is None else work.derived.invalid,
        tuple(_warnings(run)),
    )


def fed(binding: Binding | None) -> dict[str, str]:
    """Return which data key feeds which input."""
    bound = {} if binding is None else binding.bound
    return {
        name: f"{one.pipeline}/{one.stream}/{one.data_key}".lstrip("/")
        for name, one in bound.items()
    }


def told(revision: Revision) -> dict[str, Any]:
    """Return which settings these are."""
    return {
        "change": revision.change,
        "preset": revision.preset,
        "digest": revision.digest,
        "changed_by": revision.changed_by,
    }


def _state(run: RunPipeline, held_up: str) -> tuple[State, str]:
    work, raw = run.work, run.raw
    if run.left is not None:
        return State.LEFT, run.left
    if run.was_done:
        return State.DONE_BEFORE, "another process has finished its derived run"
    if run.stands_by:
        return State.STANDS_BY, run.stands_by
    if work is not None and work.ended:
        return State.DONE, work.failure and f"it failed: {work.failure}"
    if raw.rows is None:
        return State.WAITS, f"for {raw.awaited}"
    if work is None:
        return State.WAITS, "for prepare, which tries the settings on this run"
    there = raw.rows.taken + raw.rows.available
    if work.fan_in.next < there:
        said = f"at event {work.fan_in.next} of {there}"
        return State.WORKS, f"{said}; {held_up}" if held_up else said
    if raw.rows.waiting:
        awaited = ", ".join(raw.rows.awaited)
        return State.WORKS, f"at event {there}; the next ones wait for {awaited}"
    if raw.stop is None:
        return State.WORKS, "all events so far are computed; it has no stop document yet"
    if raw.ending is None:
        return State.WORKS, "all events are computed; it waits for those that feed it to end"
    return State.WORKS, "all events are computed; it ends"


def _warnings(run: RunPipeline) -> Iterator[str]:
    for change, reason in list(run.refusals.items()):
        yield f"change {change} of the settings does not fit this run: {reason}"
    yield from warnings(run.raw)


Foresee = Callable[[str], tuple[Document, list[Decision]]]


@dataclass(slots=True)
class _Run:
    start: Document
    live: Mapping[str, Callable[[], Decision]] = field(default_factory=dict)
    over: dict[str, Decision] = field(default_factory=dict)


class Decisions:
    """What the pipelines of one process make of the runs that came; bounded.

    Parameters
    ----------
    foresee : callable
        Returns the start document of a run that is not remembered, by what `why` is asked for,
        and what the pipelines would make of it.
    most : int
        Runs that are remembered when they are over.
    """

    def __init__(self, foresee: Foresee, most: int = REMEMBERED) -> None:
        self._foresee = foresee
        self._most = most
        self._runs: OrderedDict[str, _Run] = OrderedDict()  # in the order in which they came

    def why(self, run: str = "-1") -> dict[str, Any]:
        """Return what each pipeline makes of a raw run, and why. Any thread.

        Of a run that is not remembered it is computed from the run's log.

        Parameters
        ----------
        run : str
            Its uid or the beginning of that; -1 is the newest, -2 the one before.

        Raises
        ------
        ValueError
            If no run, or more than one, is called so.
        LogError, OSError
            If the log of a run that is not remembered cannot be read.
        """
        try:
            uid = chosen(run, list(self._runs))
        except ValueError:
            start, decisions = self._foresee(run)
        else:
            start, decisions = self._runs[uid].start, self._of(uid)
        about = {key: start.get(key) for key in ("scan_id", "plan_name", "time", ANALYSIS)}
        return {"run": start["uid"], **about, "pipelines": [each.plain() for each in decisions]}

    def begin(self, start: Document, live: Mapping[str, Callable[[], Decision]]) -> None:
        """Take a run that begins, and what tells of each pipeline while it goes on."""
        self._runs[start["uid"]] = _Run(start, live)

    def end(self, uid: str) -> None:
        """Keep what became of a run that is over; the oldest of too many are forgotten."""
        run = self._runs[uid]
        run.over = {name: tell() for name, tell in run.live.items()}
        run.live = {}
        over = [known for known, other in self._runs.items() if not other.live]
        for known in over[: max(0, len(over) - self._most)]:
            del self._runs[known]

    def _of(self, uid: str) -> list[Decision]:
        run = self._runs[uid]
        live = run.live  # first: what is live no more is over then
        return list(run.over.values()) or [tell() for tell in live.values()]


def chosen(which: str, uids: Iterable[str]) -> str:
    """Return the one of `uids`, the newest last, that begins so, or is the n-th from the end (-n).

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    known = list(uids)
    if which.startswith("-") and which[1:].isdecimal():
        back = int(which[1:])
        if not 1 <= back <= len(known):
            raise ValueError(f"there are {len(known)} runs, and none is {which}")
        return known[-back]
    found = named(which, known)
    if len(found) != 1:
        raise ValueError(f"{len(found)} runs begin with {which!r}")
    return found[0]


def named(which: str, uids: Iterable[str]) -> list[str]:
    """Return those of `uids` that begin so; the one that is so, if there is one."""
    found = [uid for uid in uids if uid.startswith(which)]
    return [which] if which in found else found
