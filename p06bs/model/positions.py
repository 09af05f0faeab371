"""Where the pixels of a run's maps are, and which columns say so.

A start document that declares a raster says it; measured positions, if they fit
to it, say it better. Without a raster two measured axes make maps, too.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from p06bs.model.candidates import ASIDE, candidates
from p06bs.model.derived import PREVIEW
from p06bs.model.documents import Document, goes_with_scan, is_derived
from p06bs.model.plan_axes import axis_units, is_plane, plan_axes
from p06bs.model.raster import Extents, Grid, grid_of
from p06bs.model.run_streams import Run, families
from p06bs.model.units import unit_scale

LARGEST = 1 << 24
"""Pixels of a map, at most, unless somebody says less; a larger raster has no maps."""

MOVED = ("position_y", "position_x")
"""Roles of the slow and the fast axis where a plan does not say what it moves."""


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of a map."""

    name: str
    unit: str | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """Which columns hold the measured positions.

    Attributes
    ----------
    streams : tuple of str
        The streams that they are in, one after the other.
    y, x : str
        Names of the columns.
    of : str
        Of which run the streams are: "" the run's own, ``raw`` the raw run's, ``corrected``.
    joined : bool
        Whether rows are found by equal numbers; False where they lie in the values' rows.
    scale : (float, float)
        Factors from the units of y and x to those of the grid.
    units : (str or None, str or None)
        Units of y and x.
    """

    streams: tuple[str, ...]
    y: str
    x: str
    of: Literal["", "raw", "corrected"] = ""
    joined: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    units: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Where:
    """Where the pixels of a map are, and how values find theirs.

    Attributes
    ----------
    kind : str
        ``raster``: by number on the grid that the start document declares.
        ``measured``: by position on that grid. ``scattered``: by position on a grid that
        is fitted to the positions.
    axes : (Axis, Axis)
        The slow and the fast one.
    grid : Grid, optional
        None for ``scattered``.
    measured : Measurement, optional
        None for ``raster``.
    """

    kind: Literal["raster", "measured", "scattered"]
    axes: tuple[Axis, Axis]
    grid: Grid | None = None
    measured: Measurement | None = None


def may_have_maps(start: Document, streams: Collection[str], largest: int = LARGEST) -> bool | None:
    """Return whether a run has maps as far as its start document says; None: it does not say.

    Parameters
    ----------
    start : mapping
    streams : collection of str
        Names of the streams.
    largest : int
        Pixels that a map may have.
    """
    if all(ASIDE.fullmatch(name) for name in streams):
        return False
    grid = _declared(start)[0]
    if grid is not None:
        return _is_within(grid, largest)
    if not is_plane(start):
        return False
    return True if all(plan_axes(start)) else None


def where(
    run: Run,
    raw: Run | None,
    streams: tuple[str, ...],
    largest: int = LARGEST,
    corrected: Run | None = None,
) -> Where | None:
    """Return where the values of streams, a tuple of `families`, belong; None if nobody says."""
    start = run.start
    grid, inorder = _declared(start)
    if grid is not None and not _is_within(grid, largest):
        return None
    measured = _measurement(run, raw, streams, corrected)
    if grid is not None:
        axes = _axes(run, raw, grid, measured)
        fitting = _fitting(start, grid, measured, axes)
        if fitting is not None:
            return Where("measured", axes, grid, fitting)
        if inorder:
            return Where("raster", axes, grid)
    if measured is None or (grid is None and not is_plane(start)):
        return None
    names = zip((measured.y, measured.x), measured.units, strict=True)
    slow, fast = (Axis(name, unit) for name, unit in names)
    return Where("scattered", (slow, fast), None, measured)


def _declared(start: Document) -> tuple[Grid | None, bool]:
    """Return the grid that a start document declares, and whether the run goes over it in order."""
    grid = grid_of(start)
    if grid is None and "spiral_square" in str(start.get("plan_name", "")):
        # bluesky names the motors of this one in no order, but dimensions, slow axis first.
        axes = plan_axes(start)
        motors = axes if all(axes) else None
        return grid_of({**start, "plan_name": "", "motors": motors}), False
    return grid, True


def _is_within(grid: Grid, largest: int) -> bool:
    return grid.shape[0] * grid.shape[1] <= largest


def _axes(run: Run, raw: Run | None, grid: Grid, measured: Measurement | None) -> tuple[Axis, Axis]:
    """Return the axes of a declared grid: named by its motors, in the unit of its extents."""
    if grid.extents is None:
        slow, fast = grid.motors or ("y", "x")
        return Axis(slow, "pixel"), Axis(fast, "pixel")
    names = grid.motors or ((measured.y, measured.x) if measured else ("y", "x"))

    def unit_of(motor: str) -> str | None:
        # The raw run first: an output of a derived one may have the name of a motor.
        runs = (raw, run) if raw is not None else (run,)
        keys = (s.descriptor["data_keys"].get(motor) for one in runs for s in one.streams.values())
        return next((str(key["units"]) for key in keys if key and key.get("units")), None)

    units = axis_units(run.start, grid, unit_of)
    if measured is not None:
        units = [unit or own for unit, own in zip(units, measured.units, strict=True)]
    return Axis(names[0], units[0]), Axis(names[1], units[1])


def _fitting(
    start: Document, grid: Grid, measured: Measurement | None, axes: tuple[Axis, Axis]
) -> Measurement | None:
    """Return the measurement in the units of the grid; None if it does not fit to the grid.

    Extents of relative plans are relative to where the axes were, which no document says.
    """
    plan = str(start.get("plan_name", ""))
    if measured is None or grid.extents is None or plan.startswith("rel"):
        return None
    if not _is_extended(grid.shape, grid.extents):
        return None
    scales = [unit_scale(have, axis.unit) for have, axis in zip(measured.units, axes, strict=True)]
    if scales[0] is None or scales[1] is None:
        return None
    return replace(measured, scale=(scales[0], scales[1]))


def _is_extended(shape: tuple[int, int], extents: Extents) -> bool:
    return all(
        n == 1 or 0 < abs(last - first) < float("inf")
        for n, (first, last) in zip(shape, extents, strict=True)
    )


def _measurement(
    run: Run, raw: Run | None, streams: tuple[str, ...], corrected: Run | None
) -> Measurement | None:
    """Return corrected positions, else those of the same rows, of other streams, of the raw run."""
    own = sorted(families(run), key=lambda family: family != streams)
    moved = _moved(raw or run)
    for other in (corrected, run, raw):
        if other is None:
            continue
        for family in own if other is run else families(other):
            found = _in_family(other, family, moved)
            if found is None:
                continue
            if other is run:
                return replace(found, joined=family != streams)
            return replace(found, joined=True, of="raw" if other is raw else "corrected")
    return None


def corrects(start: Document) -> str:
    """Return the uid of the raw run whose positions a derived run corrects; "" if it does not.

    Previews do not, and not what has the first rows only, which were computed again.
    """
    if not is_derived(start) or start["process"]["name"] != "positions":
        return ""
    process = start["process"]
    part = process.get("reprocessing") == PREVIEW or process.get("rows") is not None
    return "" if part else str(start["original_run_uid"])


def is_valid_correction(start: Document, stop: Document | None) -> bool:
    """Return whether what a derived run corrects is used, by its stop document, if it has ended.

    Of several the newest counts. One that failed is none: rows would wait for its positions for
    ever. What is computed again is none until it is all there.
    """
    if stop is None:
        return goes_with_scan(start)
    return stop.get("exit_status") != "fail"


def _moved(run: Run) -> tuple[str, str]:
    """Return the roles of the slow and the fast axis that a raw run goes along, as far as known."""
    axes = plan_axes(run.start)
    streamed = [{**one.descriptor, "name": name} for name, one in run.streams.items()]
    roles = {c.data_key: c.role for c in candidates(run.start, streamed)}
    slow, fast = (roles.get(axis) if axis else None for axis in axes)
    if slow is None and fast is None:
        return MOVED
    return slow or "", fast or ""


def _in_family(run: Run, streams: tuple[str, ...], moved: tuple[str, str]) -> Measurement | None:
    """Return the positions that all of the streams have: by the roles, else by the plan's axes."""
    streamed = [run.streams[name] for name in streams]
    descriptor = {**streamed[0].descriptor, "name": streams[0]}
    roles = {c.role: c.data_key for c in candidates(run.start, [descriptor]) if c.role}
    for pair in ((roles.get(moved[0]), roles.get(moved[1])), plan_axes(run.start)):
        y, x = (streamed[0].column(key) for key in pair)
        if y and x and all(y in one.numbers and x in one.numbers for one in streamed):
            units = (streamed[0].unit(y), streamed[0].unit(x))
            return Measurement(streams, y, x, units=units)
    return None
