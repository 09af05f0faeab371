"""Clients that expect another shape than an array has.

The shape of a map that is fitted to its positions changes while they extend, and a
client may still have the earlier one. Tiled 0.2.20 answers 500, which clients try
again and again, if it finds out after reading: it is the client that has to fetch
the structure anew.
"""

from typing import Any

from fastapi import FastAPI, HTTPException, Query
from tiled.server import dependencies


class Expected(tuple[int, ...]):
    """A shape that is compared once: with another one the request ends."""

    def __ne__(self, other: object) -> bool:
        """Return False.

        Raises
        ------
        HTTPException
            422 if the shapes differ.
        """
        if tuple.__ne__(self, other):
            raise HTTPException(
                422,
                f"The array's shape has changed: {tuple(self)} is expected, it is {other}. "
                "Fetch its structure anew.",
            )
        return False

    __hash__ = tuple.__hash__


def _expected_shape(
    expected_shape: str | None = Query(None, pattern="^[0-9]{1,18}(,[0-9]{1,18})*$|^scalar$"),
) -> Expected | None:
    if expected_shape is None:
        return None
    if expected_shape == "scalar":
        return Expected()
    return Expected(map(int, expected_shape.split(",")))


def install(app: FastAPI) -> None:
    """Let the application answer 422 to clients that expect another shape."""
    overrides: dict[Any, Any] = app.dependency_overrides
    overrides[dependencies.expected_shape] = _expected_shape
