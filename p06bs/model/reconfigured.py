"""Inputs whose device was configured anew while a run went on."""

import numpy as np

from p06bs.model.binding import Binding
from p06bs.model.candidates import Candidate, candidates
from p06bs.model.constants import constants
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput
from p06bs.model.units import Conversion, conversion


def changed(binding: Binding, start: Document, descriptor: Document) -> set[str]:
    """Return the inputs of which a further descriptor says another unit or configuration."""
    told = (*candidates(start, [descriptor]), *constants(start, [descriptor], {}))
    again = {(c.stream, c.data_key): c for c in told}
    return {
        name
        for name, bound in binding.bound.items()
        if not bound.run
        and (said := again.get((bound.stream, bound.data_key))) is not None
        and not _is_alike(said, bound)
    }


def _is_alike(said: Candidate, bound: BoundInput) -> bool:
    """Return whether a descriptor says of an input what the one says that it was bound by."""
    if bound.value is not None:
        return said.value is None or np.array_equal(
            np.asarray(said.value) * bound.scale + bound.offset, bound.value
        )
    now, before = said.configuration, bound.configuration
    return (
        now.keys() == before.keys()
        and all(np.array_equal(now[key], before[key]) for key in now)
        and conversion(said.unit, bound.unit) in (Conversion(bound.scale, bound.offset), None)
    )
