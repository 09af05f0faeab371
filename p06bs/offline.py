"""Recorded runs: process them again, replay them, describe them."""

import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError
from p06bs.model.binding import BindingError
from p06bs.model.candidates import candidates
from p06bs.model.documents import Document, NamedDocument, is_derived, pipeline_of, worked_on
from p06bs.model.modality import Modality
from p06bs.model.positions import corrects
from p06bs.model.revisions import settings_history
from p06bs.pipeline.declared import fed_by
from p06bs.pipeline.inline import History, process
from p06bs.recorded import RunError, Runs

NAMING = ("uid", "run_start", "descriptor", "stream_resource", "resource")
"""Fields by which a document names itself or another document of its run."""


@dataclass(frozen=True)
class Like:
    """How a recorded derived run was made, so that it can be made again."""

    raw: str
    modality: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    history: list[tuple[str, dict[str, Any]]]
    reprocessing: int
    rows: int | None
    upstream: list[str]

    @classmethod
    def of(cls, derived: Iterable[NamedDocument]) -> "Like":
        """Read it from a derived run's documents.

        Raises
        ------
        ValueError
            If the run is no derived run.
        """
        documents = list(derived)
        settings, history = settings_history(documents)
        start = documents[0][1]
        process = start["process"]
        return cls(
            raw=worked_on(start),
            modality=process["modality"],
            settings=settings,
            inputs={name: _path(bound) for name, bound in process["inputs"].items()},
            history=history,
            reprocessing=process["reprocessing"],
            rows=process.get("rows"),
            upstream=list(
                dict.fromkeys(i["run"] for i in process["inputs"].values() if "run" in i)
            ),
        )


def _path(bound: Mapping[str, str]) -> str:
    """Return what an explicit input calls what fed one."""
    return "/".join(bound[part] for part in ("pipeline", "stream", "data_key") if part in bound)


def fed_from(
    modality: Modality, runs: Runs, uid: str, after: Sequence[str] = ()
) -> list[NamedDocument]:
    """Return the documents of the recorded derived runs of a raw run that may feed a modality.

    Parameters
    ----------
    after : sequence of str
        Names of pipelines, or (beginnings of) uids of derived runs: those that may. If nothing
        is said, and no explicit input says it, all that make what has the role of an input.

    Raises
    ------
    RunError
        If one is not there, or a pipeline has made several.
    """
    starts = {run: next(iter(runs.documents(run)))[1] for run in runs.derived(uid)}
    found: dict[str, list[str]] = {}  # name of a pipeline -> derived runs by it
    for name in fed_by(after, modality.inputs):
        if name not in found:  # else it was named by its uid before
            made = [run for run, start in starts.items() if _is_whole(start, name)]
            made = made or [run for run in starts if run.startswith(name)]
            found.setdefault(pipeline_of(starts[made[0]]) if made else name, []).extend(made)
    roles = {wanted.role for wanted in modality.declared.values()}
    for run, start in starts.items() if not found else ():
        if _is_whole(start, pipeline_of(start)) and _roles(runs.documents(run)) & roles:
            found.setdefault(pipeline_of(start), []).append(run)
    for name, made in found.items():
        if not made:
            raise RunError(
                f"no derived run of {uid} by {name} is recorded where the raw run is; "
                f"p06bs process {uid} --modality {name} --store makes one"
            )
        if len(made) > 1:
            raise RunError(
                f"{name} has made {len(made)} derived runs of {uid}: {', '.join(made)}; say which"
            )
    return [document for made in found.values() for document in runs.documents(made[0])]


def _is_whole(start: Document, pipeline: str) -> bool:
    return pipeline_of(start) == pipeline and start["process"]["reprocessing"] == 0


def _roles(documents: Iterable[NamedDocument]) -> set[str]:
    """Return the roles of what a derived run makes, as its first descriptor says."""
    start: Document = {}
    for name, document in documents:
        if name == "start":
            start = document
        elif name == "descriptor":
            return {found.role for found in candidates(start, [document]) if found.role}
    return set()


def process_run(
    modality: Modality,
    runs: Runs,
    uid: str,
    *,
    history: History = (),
    out: Path | None = None,
    store: bool = False,
    batch_size: int = 256,
    reprocessing: int = 0,
    rows: int | None = None,
    after: Sequence[str] = (),
) -> dict[str, Any]:
    """Process one recorded run and return a summary.

    What the run itself does not have comes from its recorded derived runs; see `fed_from`.

    With `out`, the derived run's document log and NeXus file are left there.
    With `store`, the derived run is kept where the raw run is.

    Raises
    ------
    BindingError
        If the run does not have what the modality needs.
    FileExistsError
        If `out` holds this derived run already.
    LogError
        If the run's log holds no run.
    RunError
        If the derived run is stored already, or cannot be.
    """
    make = partial(
        process,
        modality,
        history=history,
        batch_size=batch_size,
        reprocessing=reprocessing,
        rows=rows,
    )
    try:
        # Those that are not needed are not read, unless somebody says so.
        known = fed_from(modality, runs, uid, after) if fed_by(after, modality.inputs) else []
        derived = make(documents=runs.documents(uid), upstream=known)
    except BindingError:
        if known or not (known := fed_from(modality, runs, uid)):
            raise
        derived = make(documents=runs.documents(uid), upstream=known)
    if not derived:
        raise LogError(f"what is recorded of run {uid} does not begin with a start document")
    files = [] if out is None else _write(derived, out, _beside(runs, uid))
    stored = None
    if store:
        with tempfile.TemporaryDirectory(
            prefix=".derived-", dir=getattr(runs, "directory", None)
        ) as directory:
            stored = runs.store(_write_log(derived, Path(directory)))
    start = derived[0][1]
    stop = derived[-1][1]
    return {
        "raw": uid,
        "derived": start["uid"],
        "modality": modality.name,
        "settings_digest": start["process"]["settings_digest"],
        "exit_status": stop["exit_status"],
        "events": sum(stop["num_events"][stream] for stream in stop["num_invalid"]),
        "invalid": sum(stop["num_invalid"].values()),
        "columns": _statistics(derived),
        "files": [str(f) for f in files],
        "stored": stored,
    }


def _beside(runs: Runs, uid: str) -> Iterator[NamedDocument]:
    """Yield the documents that say where the rows of a derived run lie: of its raw run, and of
    those that correct positions.
    """
    yield from runs.documents(uid)
    for other in runs.derived(uid):
        documents = runs.documents(other)
        start = next(documents, None)
        if start is not None and corrects(start[1]):
            yield start
            yield from documents


def _write(
    derived: Sequence[NamedDocument], out: Path, beside: Iterable[NamedDocument]
) -> list[Path]:
    from p06bs.writers import nexus

    return [_write_log(derived, out), *nexus.export(derived, out, beside=beside)["all"]]


def _write_log(derived: Sequence[NamedDocument], directory: Path) -> Path:
    with DocumentLog(directory) as log:
        path = log.path(derived[0][1]["uid"])
        if path.exists():
            raise FileExistsError(f"{path} is there already; remove it or choose another --out")
        for name, document in derived:
            log.append(name, document)
    return path


def _statistics(derived: Sequence[NamedDocument]) -> dict[str, dict[str, Any]]:
    """Return sum, mean, min and max of each scalar output over the valid events."""
    units: dict[str, str | None] = {}
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, document in derived:
        if name == "descriptor":
            (fields,) = (h["fields"] for h in document["hints"].values())
            units.update({f: document["data_keys"][f].get("units") for f in fields})
        elif name == "event_page":
            valid = np.asarray(document["data"]["valid"], bool)
            for field in units:
                if field in document["data"] and valid.any():
                    columns.setdefault(field, []).append(np.asarray(document["data"][field])[valid])
    found = {}
    for field, parts in columns.items():
        values = np.concatenate(parts)
        found[field] = {
            "unit": units[field],
            **{k: getattr(values, k)().item() for k in ("sum", "mean", "min", "max")},
        }
    return found


def replayed(
    documents: Sequence[NamedDocument], *, keep_uid: bool = False, speed: float = 0.0
) -> Iterator[NamedDocument]:
    """Yield a run's documents again, under new uids unless told otherwise.

    Parameters
    ----------
    speed : float
        Times real time, by the documents' own times; 0 is without waiting.
    """
    fresh: dict[str, str] = {}

    def renamed(value: Any, key: str = "") -> Any:
        if keep_uid:
            return value
        if isinstance(value, str) and key in NAMING:
            return fresh.setdefault(value, str(uuid.uuid4()))
        if isinstance(value, list) and key == "uid":
            return [renamed(v, key) for v in value]
        return value

    began = time.monotonic()
    first: float | None = None
    for name, document in documents:
        at = document.get("time")
        moment = float(np.max(at)) if at is not None and np.size(at) else None
        if speed > 0 and moment is not None:
            first = moment if first is None else first
            time.sleep(max(0.0, began + (moment - first) / speed - time.monotonic()))
        yield name, {key: renamed(value, key) for key, value in document.items()}


def describe(directory: Path, uid: str) -> dict[str, Any]:
    """Return what is known of a run's log: plan or modality, documents, events, status."""
    start: Document = {}
    status, number, events = "running or unfinished", 0, 0
    for name, document in DocumentLog(directory).read(uid):
        number += 1
        if name == "start":
            start = document
        elif name == "event":
            events += 1
        elif name == "event_page":
            events += len(document["seq_num"])
        elif name == "stop":
            status = document["exit_status"]
    return {
        "uid": uid,
        "scan_id": start.get("scan_id"),
        "what": start["process"]["name"] if is_derived(start) else start.get("plan_name", ""),
        "original_run_uid": start.get("original_run_uid"),
        "documents": number,
        "events": events,
        "status": status,
    }


def import_problem(module: str) -> str:
    """Return why a fresh process cannot import a module; "" if it can."""
    code = f"import importlib; importlib.import_module({module!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""
