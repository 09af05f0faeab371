"""Which of a run's data keys fits an input: as is said explicitly, else by role, shape and unit."""

from collections.abc import Iterator

import numpy as np

from p06bs.model.candidates import Candidate
from p06bs.model.constants import BASELINE, CONFIGURATION
from p06bs.model.inputs import BoundInput, Input
from p06bs.model.units import SAME, Conversion, canonical, conversion

SHOWN = 4
"""Data keys that are named of those which do not fit: what is said is part of start documents."""


class BindingError(LookupError):
    """A run does not have what a modality needs; says what was looked for and what is there."""


def upstream_of(explicit: str) -> str:
    """Return which pipeline an explicit binding names, ``pipeline/stream/data key``; "" if none.

    A name of two parts is a stream's and a data key's of the raw run, whatever they are called.
    """
    parts = explicit.split("/")
    return parts[0] if len(parts) == 3 else ""


def is_read_before(explicit: str) -> bool:
    """Return whether an explicit binding names what is read before the scan, or configured."""
    return explicit.rpartition("/")[0] in (BASELINE, CONFIGURATION)


def find_match(
    name: str,
    wanted: Input,
    found: list[Candidate],
    constant: list[Candidate],
    explicit: str | None,
) -> Candidate:
    """Return what feeds an input.

    Raises
    ------
    BindingError
        If nothing does, or it cannot be told what.
    """
    if explicit is not None:
        return _named(name, wanted, found, constant, explicit)
    raw = [c for c in found if c.upstream is None]
    role = [c for c in raw if c.role == wanted.role]
    if not role:
        # No device speaks of roles: names of axes say as much when they are unique.
        role = [c for c in raw if c.role is None and c.dims and c.dims == wanted.dims]
    fits = [c for c in role if _fits(c, wanted)]
    derived = [c for c in found if c.upstream is not None]
    before = [c for c in constant if wanted.constant and c.stream == BASELINE]
    configured = [c for c in constant if wanted.constant and c.stream == CONFIGURATION]
    for others in (derived, before, configured):
        if not fits:
            also = [c for c in others if c.role == wanted.role]
            role += also
            fits = [c for c in also if _fits(c, wanted)]
    if not fits:
        unit = wanted.unit or " or ".join(wanted.units) or "any"
        what = f"role {wanted.role!r}, dims {list(wanted.dims)}, unit {unit}"
        more = f" and {len(role) - SHOWN} more" if len(role) > SHOWN else ""
        near = f"; not fitting: {'; '.join(map(str, role[:SHOWN]))}{more}" if role else ""
        raise BindingError(f"input {name!r} looked for {what} and found none{near}")
    for exact in (
        lambda c: c.dims == wanted.dims and c.unit == canonical(wanted.unit),
        lambda c: c.dims == wanted.dims,
        lambda c: c.unit == canonical(wanted.unit),
        lambda c: len(squeezed(c.shape, len(wanted.dims))) == len(wanted.dims),
    ):
        if len(fits) > 1:
            fits = [c for c in fits if exact(c)] or fits
    if len({(c.path, c.upstream and c.upstream.uid) for c in fits}) > 1:
        names = ", ".join(c.path for c in fits)
        raise BindingError(
            f"input {name!r} fits several data keys ({names}); "
            f"say which with inputs={{{name!r}: ...}}"
        )
    return fits[0]


def _named(
    name: str,
    wanted: Input,
    found: list[Candidate],
    constant: list[Candidate],
    explicit: str,
) -> Candidate:
    """Return what an explicit binding names."""
    stream, _, key = explicit.rpartition("/")
    if upstream_of(explicit):
        named = [c for c in found if c.upstream is not None and c.path == explicit]
    else:
        named = [
            c
            for c in found
            if c.upstream is None and c.data_key == key and stream in ("", c.stream)
        ]
    if not stream and len(named) > 1:
        named = [c for c in named if c.stream == "primary"] or named
    if not named and (stream or wanted.constant):
        named = [c for c in constant if c.data_key == key and stream in ("", c.stream)][:1]
    if not named:
        why = ", or was no number before the scan" if is_read_before(explicit) else ""
        raise BindingError(f"input {name!r} is bound to {explicit!r}, which is not there{why}")
    if len(named) > 1:
        paths = ", ".join(c.path for c in named)
        raise BindingError(f"input {name!r} is bound to {explicit!r}; say which of {paths}")
    return named[0]


def elsewhere(wanted: Input, found: list[Candidate], usable: list[Candidate], home: str) -> str:
    """Return where else there is one, not aligned with what feeds others; "" if nowhere."""
    others = {c.home for c in found if c.role == wanted.role} - {c.home for c in usable}
    if not others:
        return ""
    return (
        f" (there is one in stream {', '.join(sorted(others))}, but the start document does not "
        f"list it with {home!r} under aligned_streams)"
    )


def _fits(c: Candidate, wanted: Input) -> bool:
    shape = squeezed(c.shape, len(wanted.dims))
    return len(shape) <= len(wanted.dims) and _conversion(c, wanted) is not None


def _conversion(c: Candidate, wanted: Input) -> Conversion | None:
    """Return how a source's numbers become an input's; None if its unit does not allow it."""
    if not wanted.units:
        return conversion(c.unit, wanted.unit)
    return SAME if any(conversion(c.unit, unit) for unit in wanted.units) else None


def has_role(wanted: Input, usable: list[Candidate], constant: list[Candidate]) -> bool:
    """Return whether the run has what an input asks for by its role, whatever it is like."""
    return any(c.role == wanted.role for c in (*usable, *(constant if wanted.constant else ())))


def doubts(name: str, c: Candidate, wanted: Input) -> Iterator[str]:
    """Yield what may be wrong about the unit of what feeds an input."""
    taken = next(iter(wanted.units), wanted.unit)
    if c.unit is None and taken and (wanted.units or canonical(taken) != "count"):
        yield f"{name}: {c.path} says no unit; it is taken for {taken}"
    if _conversion(c, wanted) is None:
        what = wanted.unit or " or ".join(wanted.units)
        yield f"{name}: {c.path} is in {c.unit}, not {what}; its numbers are taken as they are"


def squeezed(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Drop leading axes of length one beyond `ndim` (ophyd-async puts one there)."""
    while len(shape) > ndim and shape[0] == 1:
        shape = shape[1:]
    return shape


def bound_by(c: Candidate, wanted: Input) -> BoundInput:
    """Return an input that is fed by what was found.

    Raises
    ------
    BindingError
        If that has too many axes.
    """
    shape = squeezed(c.shape, len(wanted.dims))
    if len(shape) > len(wanted.dims):
        raise BindingError(f"{c} has {len(shape)} axes, but the input has only {list(wanted.dims)}")
    # Whoever says explicitly which data key it is knows better than its description.
    by = _conversion(c, wanted) or SAME
    value, dtype = c.value, c.dtype
    if value is not None and by != SAME:
        value, dtype = (np.asarray(value) * by.factor + by.offset).tolist(), "<f8"
    return BoundInput(
        stream=c.stream,
        data_key=c.data_key,
        external=c.external,
        shape=(1,) * (len(wanted.dims) - len(shape)) + shape,
        source_shape=c.shape,
        dtype=dtype,
        unit=wanted.unit or c.unit or next(iter(wanted.units), None),
        scale=by.factor,
        offset=by.offset,
        configuration=dict(c.configuration),
        beam=dict(c.beam),
        run="" if c.upstream is None else c.upstream.uid,
        pipeline="" if c.upstream is None else c.upstream.name,
        value=value,
    )
