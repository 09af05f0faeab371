"""Documents of event-model's earlier layouts, as the pages that took their place."""

from collections.abc import Mapping
from typing import Any

import event_model


def pages_of(name: str, document: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """Return a ``bulk_events`` or ``bulk_datum`` document as pages; another one as it is.

    Events of one descriptor become one page, in their order.

    Raises
    ------
    ValueError
        If it holds nothing.
    """
    if name == "bulk_events":
        pages = [("event_page", page) for page in event_model.bulk_events_to_event_pages(document)]
        if not pages:
            raise ValueError("bulk_events without events")
        return pages
    if name == "bulk_datum":
        return [("datum_page", event_model.bulk_datum_to_datum_page(document))]
    return [(name, document)]
