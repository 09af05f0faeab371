"""What a start document says of the axes along which its plan goes."""

from collections.abc import Callable, Mapping

from p06bs.model.documents import Document
from p06bs.model.raster import Grid


def plan_axes(start: Document) -> tuple[str | None, str | None]:
    """Return the data keys of the slow and the fast axis as the plan says them.

    Plans with a ``shape`` name the slow axis first; those without, bluesky's spirals,
    name x first. Of plans along one line only lists of points may cover an area.
    """
    dimensions = _dimensions(start)
    fields = fields_of(start)
    motors = start.get("motors")
    shaped = isinstance(start.get("shape"), list | tuple) and len(start["shape"]) == 2
    if dimensions is None and shaped and isinstance(motors, list | tuple) and len(motors) == 2:
        return str(motors[0]), str(motors[1])
    if dimensions is not None and len(dimensions) == 2 and len(fields) >= 2:
        first, second = str(dimensions[0][0]), str(dimensions[1][0])
        return (first, second) if shaped else (second, first)
    if len(fields) == 2 and "list" in str(start.get("plan_name", "")):
        return fields[1], fields[0]
    return None, None


def _dimensions(start: Document) -> list[list[str]] | None:
    """Return the fields of each dimension in ``hints``; None where it does not say any."""
    said = (start.get("hints") or {}).get("dimensions")
    if not isinstance(said, list | tuple):
        return None
    return [list(pair[0]) for pair in said if len(pair) == 2 and len(pair[0])]


def fields_of(start: Document) -> list[str]:
    """Return the data keys of all dimensions in ``hints``."""
    return [str(name) for fields in _dimensions(start) or () for name in fields]


def line_of(start: Document) -> list[str]:
    """Return the data keys of the only dimension in ``hints``; none where there are several."""
    dimensions = _dimensions(start) or []
    return [str(name) for name in dimensions[0]] if len(dimensions) == 1 else []


def is_plane(start: Document) -> bool:
    """Return whether a run may go over an area, as far as its hints say."""
    dimensions = _dimensions(start)
    return dimensions is None or len(dimensions) == 2 or len(fields_of(start)) == 2


def axis_units(
    start: Document, grid: Grid, unit_of: Callable[[str], str | None]
) -> list[str | None]:
    """Return the units of a grid's axes: the motors' own, else ``start["scan"]["units"]``.

    Parameters
    ----------
    start : mapping
    grid : Grid
        What the start document declares.
    unit_of : callable
        Returns the unit of a motor's data key.
    """
    scan = start.get("scan")
    said = scan.get("units") if isinstance(scan, Mapping) else None
    both: list[str | None] = [said, said] if isinstance(said, str) else [None, None]
    if isinstance(said, list | tuple) and len(said) == 2:
        both = [str(unit) for unit in said]
    return [unit_of(grid.motors[i]) or both[i] if grid.motors else both[i] for i in range(2)]
