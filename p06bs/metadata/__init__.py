"""What start and stop documents say of a run: what it is found by, and what it wishes.

How the control system gathers all of it is in `p06bs.metadata.recorder`.
"""

from p06bs.metadata.indexed import (
    BY_KEY,
    FOLDER,
    INDEXED,
    LISTS,
    Indexed,
    folder_of,
    found_at,
    value_at,
)
from p06bs.metadata.wishes import ANALYSIS, Analysis

__all__ = [
    "ANALYSIS",
    "BY_KEY",
    "FOLDER",
    "INDEXED",
    "LISTS",
    "Analysis",
    "Indexed",
    "folder_of",
    "found_at",
    "value_at",
]
