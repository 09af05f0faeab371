"""The runs of one scan, the raw one and those that were made from it, and what they are called."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

from p06bs.model.documents import Document, is_derived

RAW = "raw"

Found = TypeVar("Found")


def of_scan(
    starts: Sequence[Document], of: Callable[[str], Collection[Found]]
) -> Iterator[tuple[str, str, Found]]:
    """Yield run, source and what `of` finds of a run, for each run of one scan.

    The source is the name of the modality, or that a run is raw. Of several runs of a modality
    the one that goes on with the scan has it, and others a number.
    """
    sources: Counter[str] = Counter()
    for start in sorted(starts, key=lambda start: (is_derived(start), _further(start))):
        found = of(start["uid"])
        if not found:
            continue
        source = str(start["process"]["name"]) if is_derived(start) else RAW
        sources[source] += 1
        if sources[source] > 1:
            source = f"{source}~{sources[source]}"
        for one in found:
            yield start["uid"], source, one


def title_of(raw: Document) -> str:
    """Return what a scan is called."""
    number = raw.get("scan_id")
    return f"run {raw['uid'][:8]}" if number is None else f"scan {number}"


def _further(start: Document) -> tuple[bool, bool, float]:
    """Return whether a derived run is a preview, or was made again of earlier events; and when."""
    process = start["process"] if is_derived(start) else {}
    return bool(process.get("preview")), bool(process.get("reprocessing")), start["time"]
