"""What becomes of a derived run that was computed from recorded ones: files, and a summary."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p06bs.bus.log import DocumentLog
from p06bs.model.documents import NamedDocument
from p06bs.model.positions import corrects
from p06bs.recorded import Runs


def write(derived: Sequence[NamedDocument], out: Path, runs: Runs, raw: str) -> list[Path]:
    """Leave a derived run's document log and NeXus file in a directory; return them.

    Its maps lie where the raw run and recorded corrections of positions say.

    Raises
    ------
    FileExistsError
        If it holds this derived run already.
    """
    from p06bs.writers import nexus

    log = _write_log(derived, out)
    return [log, *nexus.export(derived, out, beside=_placing(runs, raw))["all"]]


def _placing(runs: Runs, raw: str) -> Iterator[NamedDocument]:
    """Yield the documents of a raw run, and of the derived runs that correct its positions."""
    yield from runs.documents(raw)
    for other in runs.derived(raw):
        documents = runs.documents(other)
        first = next(documents, None)
        if first is not None and corrects(first[1]):
            yield first
            yield from documents


def store(derived: Sequence[NamedDocument], runs: Runs) -> str:
    """Keep a derived run where the raw run is; return where.

    Raises
    ------
    RunError
        If it is stored already, or cannot be.
    """
    with tempfile.TemporaryDirectory(
        prefix=".derived-", dir=getattr(runs, "directory", None)
    ) as directory:
        return runs.store(_write_log(derived, Path(directory)))


def _write_log(derived: Sequence[NamedDocument], directory: Path) -> Path:
    with DocumentLog(directory) as log:
        path = log.path(derived[0][1]["uid"])
        if path.exists():
            raise FileExistsError(f"{path} is there already; remove it or choose another --out")
        for name, document in derived:
            log.append(name, document)
    return path


def statistics(derived: Sequence[NamedDocument]) -> dict[str, dict[str, Any]]:
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
