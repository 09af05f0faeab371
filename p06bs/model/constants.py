"""What a run says once, and not with every event: readings before the scan, and configuration.

Bluesky reads the devices of the stream ``baseline`` before the scan and after it. Only the first
reading counts here: while the scan runs nobody knows the second, and afterwards results are to be
the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from p06bs.model.candidates import ASIDE, Candidate, candidates
from p06bs.model.documents import Document, LoggedArray

BASELINE = "baseline"
CONFIGURATION = "configuration"
"""What explicit bindings call the configuration of all devices, as if it were a stream."""

LARGEST = 16
"""Numbers that a constant may have: it is part of start documents."""


def constants(
    start: Document, descriptors: Iterable[Document], before: Mapping[str, Any]
) -> Iterator[Candidate]:
    """Yield what holds for the whole run: readings before the scan, then configuration.

    What is no number, not finite or large is left out. Where several descriptors tell the
    configuration of a device, that of the first one in the scan counts.

    Parameters
    ----------
    before : mapping
        The first reading of the stream ``baseline``, by data key.
    """
    in_scan = sorted(descriptors, key=lambda d: bool(ASIDE.fullmatch(d.get("name", "primary"))))
    for found in candidates(start, in_scan):
        if found.stream == BASELINE and not found.external and found.data_key in before:
            yield from _with_value(found, before[found.data_key])
    seen: set[str] = set()
    for descriptor in in_scan:
        for device, said in (descriptor.get("configuration") or {}).items():
            keys = {k: d for k, d in (said.get("data_keys") or {}).items() if k not in seen}
            seen |= keys.keys()
            described = {
                "name": CONFIGURATION,
                "data_keys": keys,
                "object_keys": {device: list(keys)},
                "configuration": {device: said},
            }
            for found in candidates(start, [described], alone=True):
                yield from _with_value(found, said["data"].get(found.data_key))


def _with_value(found: Candidate, value: Any) -> Iterator[Candidate]:
    if value is None or isinstance(value, LoggedArray):
        return
    try:
        array = np.asarray(value)
    except ValueError:  # ragged
        return
    if array.dtype.kind in "biuf" and array.size <= LARGEST and np.isfinite(array).all():
        value, dtype = array.tolist(), array.dtype.str
        yield replace(found, shape=array.shape, dtype=dtype, value=value)


def read_before(
    documents: Iterable[tuple[str, Document, Any]], descriptors: Mapping[str, Document]
) -> Mapping[str, Any]:
    """Return what was read before the scan, by data key.

    Parameters
    ----------
    documents : iterable of (name, document, place)
        Events and stream datums of a run from its first one on.
    descriptors : mapping
        Those that have come, by uid.
    """
    for name, document, _ in documents:
        descriptor = descriptors.get(document["descriptor"])
        stream = "" if descriptor is None else descriptor.get("name", "primary")
        if stream == BASELINE and name == "event":
            return dict(document["data"])
        if stream == BASELINE and name == "event_page" and len(document["seq_num"]):
            return {key: column[0] for key, column in document["data"].items() if len(column)}
        if stream and not ASIDE.fullmatch(stream):
            break  # the scan has begun
    return {}
