"""Process a recorded run: what feeds it, its derived run, and what becomes of that."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from p06bs.bus.reader import LogError
from p06bs.model.binding import BindingError
from p06bs.model.modality import Modality
from p06bs.offline.results import statistics, store, write
from p06bs.offline.upstream import Configured, DerivedRuns, unfed
from p06bs.pipeline.inline import History, process
from p06bs.recorded import Runs


def process_run(
    modality: Modality,
    runs: Runs,
    uid: str,
    *,
    history: History = (),
    out: Path | None = None,
    keep: bool = False,
    batch_size: int = 256,
    reprocessing: int = 0,
    rows: int | None = None,
    after: Sequence[str] = (),
    perhaps: Sequence[str] = (),
    configured: Configured = MappingProxyType({}),
    pipeline: str = "",
) -> dict[str, Any]:
    """Process one recorded run and return a summary.

    What the run itself does not have comes from its recorded derived runs: those that `after`
    names and explicit inputs do, and `perhaps`, as `DerivedRuns.named` has it. If nobody names
    one and a required input lacks, from all that make what has the role of an input.

    With `out`, the derived run's document log and NeXus file are left there.
    With `keep`, it is kept where the raw run is, and what was computed to feed it, too.

    Parameters
    ----------
    configured : mapping
        Pipelines by their names, which are computed where they have made no derived run.
    pipeline : str
        Name of the pipeline that this is, if that is not the modality's.

    Raises
    ------
    BindingError
        If the run does not have what the modality needs.
    FileExistsError
        If `out` holds this derived run already.
    LogError
        If the run's log holds no run.
    RunError
        If the derived run is stored already, or cannot be, or one that is to feed it is not there.
    """
    known = DerivedRuns(runs, uid, configured)
    make = partial(
        process,
        modality,
        history=history,
        batch_size=batch_size,
        reprocessing=reprocessing,
        rows=rows,
        pipeline=pipeline,
    )
    feeding = known.named(modality, after, perhaps)
    try:
        derived = make(documents=runs.documents(uid), upstream=feeding.documents)
    except BindingError:
        if feeding.made or not (feeding := known.making(modality)).made:
            raise
        derived = make(documents=runs.documents(uid), upstream=feeding.documents)
    if not derived:
        raise LogError(f"what is recorded of run {uid} does not begin with a start document")
    files = [] if out is None else write(derived, out, runs, uid)
    for other in feeding.computed if keep else ():
        store(other, runs)
    start, stop = derived[0][1], derived[-1][1]
    return {
        "raw": uid,
        "derived": start["uid"],
        "modality": modality.name,
        "settings_digest": start["process"]["settings_digest"],
        "inputs": {name: _told(bound) for name, bound in start["process"]["inputs"].items()},
        "remarks": [
            *feeding.remarks,
            *start["process"].get("warnings", ()),
            *unfed(modality, start, known),
            *stop.get("warnings", ()),
        ],
        "exit_status": stop["exit_status"],
        "events": sum(stop["num_events"][stream] for stream in stop["num_invalid"]),
        "invalid": sum(stop["num_invalid"].values()),
        "columns": statistics(derived),
        "files": [str(f) for f in files],
        "stored": store(derived, runs) if keep else None,
    }


def _told(bound: Mapping[str, Any]) -> str:
    """Return what feeds an input, in words."""
    path = "/".join(bound[part] for part in ("pipeline", "stream", "data_key") if part in bound)
    if "value" not in bound:
        return path
    return f"{path} = {bound['value']} {bound['unit'] or ''}".rstrip()
