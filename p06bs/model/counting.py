"""How many rows the sources of a run have, where they or what was expected differ."""

from collections.abc import Mapping

from p06bs.model.candidates import aligned_streams
from p06bs.model.documents import Document

EXPECTED = "num_points"
"""What the start document calls how many rows there will be."""


def uneven(rows: Mapping[str, int], start: Document, stop: Document | None) -> dict[str, int]:
    """Return the numbers of rows if they differ; {} if they do not.

    Streams that are aligned with those of the sources count, too, and `EXPECTED`, if the run
    ended well.

    Parameters
    ----------
    rows : mapping of str to int
        Source -> highest seq_num; the first one is the primary source.
    stop : Document or None
        The raw run's.
    """
    counts = dict(rows)
    stop = stop or {}
    aligned = aligned_streams(start)
    streams = [source.partition("/")[0] for source in counts]
    if set(streams) & set(aligned):
        ended = stop.get("num_events") or {}
        counts |= {name: ended[name] for name in aligned if name in ended and name not in streams}
    expected = start.get(EXPECTED)
    regular = streams[:1] == ["primary"] or streams[0] in aligned
    if regular and stop.get("exit_status") == "success" and type(expected) is int:
        counts[EXPECTED] = expected
    return counts if len(set(counts.values())) > 1 else {}


def described(counts: Mapping[str, int]) -> str:
    """Return in words what `uneven` has found."""
    expected = counts.get(EXPECTED, max(counts.values()))
    differ: dict[str, None] = {}  # what several sources of a stream have in common is said once
    for source, n in counts.items():
        stream, missing = source.partition("/")[0], expected - n
        if missing:
            said = f"lacks {missing}" if missing > 0 else f"has {-missing} more"
            differ[f"{stream} {said}"] = None
    return (
        f"{expected} rows were expected: {', '.join(differ)}; rows are paired by the number of "
        "their trigger, so that all behind one that a device missed, or added, are shifted"
    )
