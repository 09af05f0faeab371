"""What a pipeline would make of a recorded run: computed from the run's log, without a service."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.metadata import Analysis
from p06bs.model.binding import BindingError
from p06bs.model.derived import DerivedRun
from p06bs.model.documents import Document, goes_with_scan, is_derived, pipeline_of, worked_on
from p06bs.model.revisions import Revision
from p06bs.model.run import RawRun
from p06bs.pipeline.decisions import Decision, State, chosen, fed, told
from p06bs.pipeline.declared import Pipeline
from p06bs.settings.history import SettingsHistory
from p06bs.settings.journal import journal_of

log = logging.getLogger(__name__)

AT_ONCE = 1 << 20
"""Bytes of a log that are read in one go."""


def find_raw(documents: DocumentLog, which: str) -> str:
    """Return the uid of a raw run that has a log: by its beginning, or -1 for the newest, ...

    Of a derived run it is the run that it was made from.

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    uids = documents.runs()
    if not which.startswith("-"):
        start = start_of(documents, chosen(which, uids))
        return worked_on(start) if is_derived(start) else str(start["uid"])
    newest = _newest(documents, uids, int(which[1:]) if which[1:].isdecimal() else 1)
    return chosen(which, reversed(list(newest)))


def _newest(documents: DocumentLog, uids: list[str], most: int) -> Iterator[str]:
    """Yield the raw runs whose logs were written last, the newest first."""
    for uid in reversed(uids):
        if most == 0:
            return
        try:
            raw = not is_derived(start_of(documents, uid))
        except (LogError, OSError) as error:
            log.warning("run %s cannot be read: %s", uid, error)
            continue
        if raw:
            most -= 1
            yield uid


def start_of(documents: DocumentLog, uid: str) -> Document:
    """Return the start document of a run that has a log.

    Raises
    ------
    LogError, OSError
        If it cannot be read, or is empty so far.
    """
    first = next(documents.entries(uid), None)
    if first is None:
        raise LogError(f"the log of run {uid} is empty so far")
    return first.document


def foresee_all(
    pipelines: Sequence[Pipeline], documents: DocumentLog, settings: Path, which: str
) -> tuple[Document, list[Decision]]:
    """Return the start document of a raw run, and what hosted pipelines would make of it.

    Raises
    ------
    ValueError
        If there is no such run, or more than one.
    LogError, OSError
        If its log cannot be read.
    """
    uid = find_raw(documents, which)
    found = [foresee(each, documents, uid, settings, hosted=True) for each in pipelines]
    return start_of(documents, uid), found


def foresee(
    pipeline: Pipeline, documents: DocumentLog, uid: str, settings: Path, *, hosted: bool
) -> Decision:
    """Return what a pipeline would make of a raw run.

    Parameters
    ----------
    settings : Path
        Directory of the settings in force, which need not exist.
    hosted : bool
        Whether a service hosts the pipeline, which does not remember the run.

    Raises
    ------
    LogError, OSError
        If the log cannot be read.
    """
    modality, name = pipeline.modality, pipeline.name

    def decided(state: State, why: str, **more: object) -> Decision:
        return Decision(name, modality.name, state, why, computed=True, **more)  # type: ignore[arg-type]

    reader = documents.reader(uid, arrays=False)
    entries = reader.read(AT_ONCE)
    if not entries:
        raise LogError(f"the log of run {uid} is empty so far")
    start = entries[0].document
    if reason := Analysis.of(start).refusal(name, modality.name):
        return decided(State.LEFT, reason)
    raw = RawRun(modality, start, after=pipeline.after)
    _feed(raw, documents)
    try:
        while entries and raw.rows is None and not raw.unbegun:
            for entry in entries:
                raw.add(entry.name, entry.document)
            entries = reader.read(AT_ONCE)
    except BindingError as error:
        return decided(State.LEFT, str(error))
    if raw.binding is None:
        return decided(State.WAITS, f"for {raw.awaited}")
    history = kept(settings, pipeline)
    initial = history.begun_with(uid) or history.in_force
    derived = history.derived_of(uid) or _uid(pipeline, start, raw, initial)
    about = {
        "derived": derived,
        "inputs": fed(raw.binding),
        "settings": told(initial),
        "warnings": raw.binding.warnings,
    }
    if not documents.path(derived).exists():
        if hosted:
            why = (
                "a service hosts it and knows nothing of this run: it is from long before that "
                f"began; p06bs process {uid} computes it"
            )
        else:
            why = "no service that is up hosts it; one that did would take the run"
        return decided(State.WAITS, why, **{**about, "derived": None})
    last = documents.ends(derived)[1]
    if last is None or last.name != "stop":
        why = "its derived run is unfinished, and no service that is up goes on with it"
        return decided(State.WAITS, why, **about)
    stop = last.document
    events = sum(stop["num_events"][stream] for stream in stop["num_invalid"])
    said = f"it failed: {stop['reason']}" if stop["exit_status"] == "fail" else ""
    invalid = sum(stop["num_invalid"].values())
    about["warnings"] = (*raw.binding.warnings, *stop.get("warnings", ()))
    return decided(State.DONE, said, events=events, invalid=invalid, **about)


def _feed(raw: RawRun, documents: DocumentLog) -> None:
    """Let a run know the derived runs that are to feed it, and what they make."""
    for start in derived_runs(documents, raw.uid) if raw.after else ():
        if pipeline_of(start) in raw.lacks and goes_with_scan(start):
            uid = start["uid"]
            for name, document in documents.read(uid):
                raw.feed(uid, name, document)
                if raw.upstream[uid].described:
                    break


def derived_runs(documents: DocumentLog, raw: str) -> Iterator[Document]:
    """Yield the start documents of the derived runs of a raw run that have a log."""
    for start in derived_starts(documents):
        if worked_on(start) == raw:
            yield start


def derived_starts(documents: DocumentLog, since: float = 0.0) -> Iterator[Document]:
    """Yield the start documents of the derived runs whose logs were written since a Unix time."""
    for uid in documents.runs(since=since):
        try:
            start = start_of(documents, uid)
        except (LogError, OSError) as error:
            log.warning("run %s cannot be read: %s", uid, error)
            continue
        if is_derived(start):
            yield start


def _uid(pipeline: Pipeline, start: Document, raw: RawRun, initial: Revision) -> str:
    assert raw.binding is not None
    return DerivedRun(pipeline.modality, start, raw.binding, initial, time.time).uid


def kept(directory: Path, pipeline: Pipeline) -> SettingsHistory:
    """Return the settings of a pipeline as they are kept, only reading."""
    history = SettingsHistory(pipeline.modality)
    path = journal_of(directory, pipeline.name)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            history.take(json.loads(line))
        except (KeyError, TypeError, ValueError) as error:  # the last one may be half written
            log.info("%s: an entry is left out: %r", path, error)
    return history
