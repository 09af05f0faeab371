"""What can be shown of runs that are in a directory of logs, finished or not."""

import logging
from dataclasses import dataclass
from pathlib import Path

from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.model.documents import is_derived
from p06bs.model.scan import of_scan, title_of
from p06bs.pipeline.foreseen import derived_starts, find_raw, start_of
from p06bs.recorded import LogDirectory
from p06bs.server.sink.places import Place
from p06bs.server.sink.sink import DocumentError, Sink
from p06bs.services._pictures import Pictures, Showable

logger = logging.getLogger(__name__)

BUDGET = 1 << 30
"""Bytes of memory for runs; what is beyond is read from the logs."""
SLACK = 3600.0
"""Clocks of hosts may differ by so many seconds."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A scan, or one run of it, and what can be shown.

    Attributes
    ----------
    run : str
        Uid of the run that was asked for.
    title : str
    showables : dict
        By name: ``SOURCE.NAME``, the most important first.
    runs : dict
        Uid of the run that each is of.
    """

    run: str
    title: str
    showables: dict[str, Showable]
    runs: dict[str, str]


def pictures_of(directory: Path, which: str) -> Shown:
    """Return what can be shown of a run, the most important first.

    Parameters
    ----------
    which : str
        Uid, or its beginning; of a raw run all that was derived from it counts, too. -1 is the
        newest raw run, -2 the one before.

    Raises
    ------
    ValueError
        If there is no such run, or more than one.
    OSError, LogError
        If its log cannot be read.
    """
    with DocumentLog(directory) as log:
        uid = find_raw(log, which) if which[:1] == "-" else LogDirectory(directory).find(which)
        start = start_of(log, uid)
        runs = {uid}
        raw = start
        if is_derived(start):
            root = str(start["original_run_uid"])
            if log.path(root).exists():
                runs.add(root)
                raw = start_of(log, root)
        else:
            derived = derived_starts(log, since=start["time"] - SLACK)
            runs |= {one["uid"] for one in derived if one["original_run_uid"] == uid}
        sink = Sink(BUDGET)
        _fill(sink, log, runs)
    starts = [sink.documents(one)[0]["start"] for one in sink.runs()]
    if is_derived(start):
        starts = [one for one in starts if one["uid"] == uid]
    found = list(of_scan(starts, Pictures(sink).of))
    found.sort(key=lambda one: one[2].rank)
    named = {f"{source}.{one.name}": (of, one) for of, source, one in found}
    showables = {name: one for name, (_, one) in named.items()}
    return Shown(uid, title_of(raw), showables, {name: of for name, (of, _) in named.items()})


def _fill(sink: Sink, log: DocumentLog, runs: set[str]) -> None:
    with Follower(None, log, runs=runs.__contains__, arrays=False) as follower:
        while not follower.caught_up.is_set():
            for entry in follower.entries(timeout=0.0):
                place = Place(log.path(entry.run), entry.offset, entry.nbytes)
                try:
                    sink(entry.name, entry.document, place)
                except DocumentError as error:
                    logger.warning("run %s: %s", entry.run, error)
