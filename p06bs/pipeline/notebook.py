"""Modalities as RunEngine callbacks: `callback`."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

from p06bs.model.binding import BindingError
from p06bs.model.documents import Document
from p06bs.model.modality import Modality
from p06bs.pipeline.inline import Subscriber, Worker

log = logging.getLogger(__name__)


def callback(
    modality: Modality,
    *subscribers: Subscriber,
    after: Sequence[Modality] = (),
    deadline: float = 10.0,
) -> Callable[[str, Document], None]:
    """Return a RunEngine callback that computes `modality` while the scan runs.

    ``RE.subscribe(callback(RegionSums(...), LiveTable(["Fe_K"])))``. Each event is
    computed as it comes. A run that lacks an input is left with a warning; what
    else goes wrong, in the modality or in a subscriber, is logged, and the other
    subscribers go on: a Bluesky plan never stops because of analysis.

    Rows that a detector's file lacks yet are tried again when later documents come, and those
    behind them wait, by name. Files are waited for at the stop document only. As in a pipeline,
    rows are given up after `deadline`, and their events are invalid.

    Parameters
    ----------
    after : sequence of Modality
        Modalities whose outputs may feed inputs; they are computed, too, and seen by nobody else.
    deadline : float
        Seconds without any progress of a detector's file after which its missing rows are given up.
    """
    # The RunEngine must not wait for a detector's file while it scans.
    alone = partial(Worker, batch_size=1, deadline=deadline, wait_at_stop=True)
    worker = alone(modality, _warn, *map(_guarded, subscribers), after=[one.name for one in after])
    before = [alone(one, _guarded(worker.feed)) for one in after]

    def analyse(name: str, document: Document) -> None:
        if name == "start":
            _attempt(worker, name, document)
        left = [reason for one in before if (reason := _attempt(one, name, document))]
        if left and name == "stop":
            worker.go_without(document["run_start"], " ".join(left))
        if name != "start":
            _attempt(worker, name, document)

    return analyse


def _warn(name: str, document: Document) -> None:
    """Log what a derived run warns of."""
    if name in ("start", "stop"):
        for said in document.get("process", document).get("warnings", ()):
            log.warning("derived run %s: %s", document.get("run_start", document["uid"]), said)


def _attempt(worker: Worker, name: str, document: Document) -> str:
    """Give a worker a document; return why it leaves the run, "" if it does not."""
    try:
        worker(name, document)
    except BindingError as reason:
        log.warning("%s", reason)
        return f"{reason}."
    except Exception as error:
        log.exception("%s leaves the run", worker.modality.name)
        return f"{worker.modality.name} leaves the run: {error}."
    return ""


def _guarded(subscriber: Subscriber) -> Subscriber:
    """Return a subscriber whose exceptions are logged, and end neither the run nor the plan."""

    def guarded(name: str, document: Document) -> None:
        try:
            subscriber(name, document)
        except Exception:
            log.exception("%r failed on a derived %s document", subscriber, name)

    return guarded
