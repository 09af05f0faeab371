"""What becomes of a derived run that was computed from recorded ones: files, and a summary."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
    """Return unit, shape, sum, mean, min and max of outputs: of hinted numbers, and of arrays.

    What is not finite is left out, as are events that are not valid.
    """
    keys: dict[str, Mapping[str, Any]] = {}
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}
    for name, document in derived:
        if name == "descriptor":
            hinted = {f for hint in document["hints"].values() for f in hint["fields"]}
            keys.update(
                {k: d for k, d in document["data_keys"].items() if k in hinted or d["shape"]}
            )
        elif name == "event_page" and "valid" in document["data"]:  # others are snapshots
            valid = np.asarray(document["data"]["valid"], bool)
            for field in keys.keys() & document["data"].keys():
                values = np.asarray(document["data"][field])[valid]
                columns.setdefault(field, []).append(values[np.isfinite(values)])
    return {
        field: {
            "unit": key.get("units"),
            "shape": list(key["shape"]),
            **{k: getattr(values, k)().item() for k in ("sum", "mean", "min", "max")},
        }
        for field, key in keys.items()
        if field in columns and (values := np.concatenate(columns[field])).size
    }
