"""What descriptors leave open of inputs: the first events say dtype and lengths of axes."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from p06bs.model.binding import Binding
from p06bs.model.documents import Document, LoggedArray
from p06bs.model.matching import squeezed
from p06bs.model.modality import BoundInput

Numbers = npt.NDArray[Any] | LoggedArray


class FirstValues:
    """Remember the first value of each input of which a descriptor leaves something open.

    Parameters
    ----------
    binding : Binding
        As the descriptors say.
    """

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._first: dict[str, Numbers] = {}

    @property
    def missing(self) -> list[str]:
        """``stream/data key`` of the inputs whose first value has not come."""
        bound = self._binding.bound.items()
        return [f"{b.stream}/{b.data_key}" for n, b in bound if _open(b) and n not in self._first]

    def look_at(self, stream: str, document: Document) -> None:
        """Take an event, or an event page, of a stream."""
        for wanted, bound in self._binding.bound.items():
            data = document.get("data")
            values = data.get(bound.data_key) if isinstance(data, Mapping) else None
            if bound.stream != stream or wanted in self._first or not _open(bound):
                continue
            rows = [values] if isinstance(document["uid"], str) else values
            value = None if rows is None or not len(rows) else _numbers(rows[0])
            if value is not None and _is_like(value, bound.source_shape):
                self._first[wanted] = value

    def close(self) -> Binding:
        """Return the binding with what the values have said."""
        bound = {
            name: _closed(one, self._first[name]) if name in self._first else one
            for name, one in self._binding.bound.items()
        }
        return replace(self._binding, bound=bound)


def _open(bound: BoundInput) -> bool:
    """Return whether the descriptor does not say an input's dtype or the length of an axis."""
    open_ = not bound.dtype or 0 in bound.source_shape
    return open_ and not bound.external and not bound.run and bound.value is None


def _closed(bound: BoundInput, value: Numbers) -> BoundInput:
    """Return what feeds an input, with dtype and shape of its first value where they are open."""
    shape = bound.source_shape if 0 not in bound.source_shape else value.shape
    inner = squeezed(shape, len(bound.shape))
    return replace(
        bound,
        dtype=bound.dtype or value.dtype.str,
        source_shape=shape,
        shape=(1,) * (len(bound.shape) - len(inner)) + inner,
    )


def _is_like(value: Numbers, shape: tuple[int, ...]) -> bool:
    """Return whether a value can be of a described shape, in which 0 is an open length."""
    return value.ndim == len(shape) if 0 in shape else value.size == math.prod(shape)


def _numbers(value: Any) -> Numbers | None:
    """Return a value as an array; None if it is no number and no regular array of numbers."""
    try:
        array = value if isinstance(value, LoggedArray) else np.asarray(value)
    except ValueError:  # ragged
        return None
    return array if array.dtype.kind in "biufc" else None
