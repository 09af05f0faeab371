"""Object references of modalities, ``module:Class``, as entry points have them.

A modality travels by its reference, never pickled, and is imported where it is needed.
"""

import importlib
from typing import Any

from p06bs.model.modality import Modality


def reference_to(modality: Modality) -> str:
    """Return ``module:Class``, by which a modality is found again."""
    return f"{type(modality).__module__}:{type(modality).__qualname__}"


def load(reference: str) -> type[Modality]:
    """Import a modality by ``module:Class``.

    Raises
    ------
    ImportError
        If it cannot be imported here; says what to do.
    TypeError
        If it is no modality.
    """
    module, _, name = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing runs the author's code, which may raise anything
        raise ImportError(
            f"cannot import modality {reference!r}: {type(error).__name__}: {error}. A modality "
            "must be in an installed module, or on PYTHONPATH (not in a notebook or in __main__)"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Modality)):
        raise TypeError(f"{reference} is no Modality")
    return found
