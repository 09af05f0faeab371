"""Whether a demo's derived runs are right: complete, in time, equal to the reference and true."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from p06bs import DocumentLog, config, process
from p06bs.model.documents import Document, NamedDocument
from p06bs.offline import Like
from p06bs.services._limits import MEASURES, measure
from p06bs.services._recorder import Recorder
from p06bs.services._truth import Likeness, Truth
from p06bs.writers import nexus
from p06bs.writers.validate import validate

SHARE = 0.9
"""Least share of the rows that must come before the raw run's stop document does."""
GRACE = 0.8
"""Seconds that a row may take. Of a short scan only those rows must come before its end that
were there so long before."""


def judge(
    raw: str,
    recorder: Recorder,
    truth: Truth,
    configuration: config.Configuration,
    out: Path,
    checks: dict[str, str],
) -> dict[str, Any]:
    """Compare derived runs with the phantom and the reference; write a NeXus file of each run.

    Parameters
    ----------
    raw
        Uid of the raw run.
    recorder
        What the demo's follower got, while the scan ran and afterwards.
    truth
        What the maps should show.
    configuration, out
        The services that ran, and the directory for the files.
    checks
        Takes what was checked -> what is wrong with it, "" if nothing.

    Returns
    -------
    dict
        The summary of the demo.
    """
    points = truth.nx * truth.ny
    derived = recorder.derived(raw)
    stop = recorder.runs[raw].arrivals[-1]
    wanted = min(SHARE * points, recorder.points(raw, stop, GRACE))
    summary: dict[str, Any] = {
        "raw_uid": raw,
        "derived_uids": derived,
        "points": points,
        "events": {},
        "correlation": {},
        "truth": {},
        "share_before_stop": {},
        "files": {},
    }
    sections = {section.make().name: section for section in configuration.pipelines}
    missing = sorted(set(sections) - set(derived))
    checks["every pipeline made a derived run"] = f"missing: {missing}" if missing else ""
    logs = DocumentLog(configuration.bus.log)
    recorded = list(logs.read(raw))
    files = out / "nexus"
    likeness: dict[str, Likeness] = {}
    summary["files"]["raw"] = _file(recorded, files, checks)
    for name, uid in derived.items():
        documents = list(logs.read(uid))
        if documents[-1][0] != "stop":
            checks[f"{name} stopped"] = "it has no stop document"
            continue
        pages = [d for n, d in documents if n == "event_page"]
        events = sum(len(p["seq_num"]) for p in pages)
        invalid = sum(_last(documents)["num_invalid"].values())
        early = recorder.events(uid, stop)
        summary["events"][name] = events
        summary["share_before_stop"][name] = early / points
        good = events == points and invalid == 0
        checks[f"{name} has every point, valid"] = (
            "" if good else f"{events} events, {invalid} invalid"
        )
        checks[f"{name} came while the scan ran"] = (
            ""
            if early >= wanted
            else f"{early} of {points} rows before the raw run's stop document"
        )
        fed_by = Like.of(documents).upstream
        upstream = [document for one in fed_by for document in logs.read(one)]
        reference = process(sections[name].make(), logs.read(raw), upstream=upstream)
        checks[f"{name} equals the reference"] = _difference(documents, reference)
        path = summary["files"][name] = _file(documents, files, checks)
        if events == points and name in MEASURES:
            found = measure(name, documents, truth.path)
            summary["truth"][name] = {what: number.plain() for what, number in found.items()}
            off = [f"{what}: {number}" for what, number in found.items() if not number.good]
            checks[f"{name} is true to the phantom"] = "; ".join(off)
        likeness.update(truth.likeness(name, Path(path)))
        checks[f"{name} is in the server"] = _served(configuration, uid, pages)
    summary["correlation"] = {line: found.measured for line, found in likeness.items()}
    low = [
        f"correlation of {line} is {found.measured:.4f}, {found.expected:.4f} is expected"
        for line, found in likeness.items()
        if not found.good
    ]
    checks["maps show the phantom"] = "; ".join(low)
    return summary


def _last(documents: Sequence[NamedDocument]) -> Document:
    return documents[-1][1]


def _file(documents: Sequence[NamedDocument], directory: Path, checks: dict[str, str]) -> str:
    (path,) = nexus.export(documents, directory)["all"]
    errors = validate(path)
    checks[f"{path.name} is valid NeXus"] = "; ".join(errors)
    return str(path)


def _difference(documents: Sequence[NamedDocument], reference: Sequence[NamedDocument]) -> str:
    """Return where online and offline results differ, within rtol 1e-9."""
    online, offline = _columns(documents), _columns(reference)
    if set(online) != set(offline):
        return f"other columns: {sorted(set(online) ^ set(offline))}"
    for name, column in online.items():
        other = offline[name]
        if column.shape != other.shape:
            return f"{name} has {len(column)} rows, the reference {len(other)}"
        if column.dtype.kind == "f":
            scale = float(np.nanmax(np.abs(other), initial=0.0))
            same = np.isclose(column, other, rtol=1e-9, atol=1e-12 * scale, equal_nan=True)
        else:
            same = column == other
        rows = np.flatnonzero(~same.reshape(len(same), -1).all(axis=1))
        if len(rows):
            one, another = (np.array2string(c[rows[0]], threshold=6) for c in (column, other))
            return (
                f"{name} differs in {len(rows)} rows, in row {rows[0]} it is {one}, not {another}"
            )
    return ""


def _columns(documents: Sequence[NamedDocument]) -> dict[str, npt.NDArray[Any]]:
    pages = [d for n, d in documents if n == "event_page"]
    columns = {
        k: np.concatenate([np.asarray(p["data"][k]) for p in pages]) for k in pages[0]["data"]
    }
    columns["uid"] = np.concatenate([np.asarray(p["uid"]) for p in pages])
    return columns


def _served(configuration: config.Configuration, uid: str, pages: Sequence[Document]) -> str:
    """Return what is wrong with what the server shows of a derived run."""
    assert configuration.server is not None
    key = configuration.server.api_key_file.read_text().strip()
    base = f"http://{configuration.server.host}:{configuration.server.port}/api/v1"
    with httpx.Client(headers={"Authorization": f"Apikey {key}"}, timeout=30) as client:
        url = f"{base}/array/full/live/{uid}/primary/raw_seq_num"
        until = time.monotonic() + 10
        rows = sum(len(p["seq_num"]) for p in pages)
        got = -1
        while time.monotonic() < until:
            answer = client.get(url, params={"format": "application/json"})
            got = (
                len(answer.json()) if answer.status_code == httpx.codes.OK else -answer.status_code
            )
            if got == rows:
                return ""
            time.sleep(0.1)
    return f"{got} rows of {rows}"
