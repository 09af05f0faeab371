"""What of a raw run did not become rows, or not as it should."""

from collections.abc import Iterator
from typing import Any

from p06bs.model.counting import described, uneven
from p06bs.model.run import RawRun


def losses(run: RawRun) -> dict[str, Any]:
    """Return it as fields of a stop document: counts that differ, rows without partner, orphans,
    inputs whose device was configured anew meanwhile, and warnings in words.

    Only what is not as it should be has a field, so an empty dict is the rule.
    """
    found: dict[str, Any] = {}
    if run.limit is not None:
        return found  # what lies behind the limit is no loss
    if counts := _uneven(run):
        found["source_counts"] = counts
    if run.rows is not None and run.rows.unpaired:
        found["unpaired_rows"] = run.rows.unpaired
    if run.orphans:
        found["orphan_documents"] = run.orphans
    if run.reconfigured:
        found["reconfigured_inputs"] = sorted(run.reconfigured)
    if said := list(_remarks(run)):
        found["warnings"] = said
    return found


def warnings(run: RawRun) -> tuple[str, ...]:
    """Return what is not as it should be so far, and does not keep the modality from working."""
    bound = () if run.binding is None else run.binding.warnings
    return (*bound, *_remarks(run))


def _uneven(run: RawRun) -> dict[str, int]:
    """Return the numbers of rows if they differ at the end."""
    if run.rows is None or run.stop is None or run.limit is not None:
        return {}
    return uneven(run.rows.counts, run.start, run.stop)


def _remarks(run: RawRun) -> Iterator[str]:
    """Yield what became not as it should be since the inputs were bound."""
    if counts := _uneven(run):
        yield described(counts)
    if run.reconfigured:
        anew = ", ".join(sorted(run.reconfigured))
        yield f"{anew} was configured anew in mid-run; it goes on with the first configuration"
    if run.orphans:
        yield f"{run.orphans} documents name a descriptor or resource that never came"
