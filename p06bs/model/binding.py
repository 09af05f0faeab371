"""Find which data keys of a run feed which inputs of a modality.

An explicit binding wins over roles. Among the data keys of a role, dims, shape
and unit decide. Inputs from different streams
are joined by equal seq_num only if the start document lists the streams under
``aligned_streams`` (frames of a flyer and I0 inside events are two streams).
What the raw run does not have may come from derived runs of it, by the roles of their outputs.
What no event has may be a constant of the run, where the input allows it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from p06bs.model.candidates import ASIDE, Candidate, aligned_streams, candidates, made
from p06bs.model.constants import BASELINE, CONFIGURATION, constants
from p06bs.model.documents import Document
from p06bs.model.modality import BoundInput, Input, Modality
from p06bs.model.source import Source
from p06bs.model.units import canonical, unit_scale
from p06bs.model.upstream import Upstream


class BindingError(LookupError):
    """A run does not have what a modality needs; says what was looked for and what is there."""


@dataclass(frozen=True)
class Binding:
    """What feeds a modality's inputs; the first required input names the primary source.

    `fed_by` has the derived runs that feed inputs, by uid: of the events of which source of the
    raw run their rows are.
    """

    bound: Mapping[str, BoundInput]
    primary: str
    fed_by: Mapping[str, Source] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources of the raw run that make the rows, the primary one first, each once."""
        bound = [self.bound[self.primary], *self.bound.values()]
        ordered = [b for b in bound if b.value is None]
        return tuple(dict.fromkeys(self.fed_by[b.run] if b.run else source_of(b) for b in ordered))

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams of the raw run that take part, the primary one first."""
        first, *others = (source.stream for source in self.sources)
        return (first, *sorted(set(others) - {first}))

    @property
    def row_bytes(self) -> int:
        """Bytes of one event's inputs, as far as the descriptors say."""
        return sum(
            math.prod(b.shape) * (np.dtype(b.dtype).itemsize if b.dtype else 8)
            for b in self.bound.values()
        )

    def record(self) -> dict[str, dict[str, Any]]:
        """Return the binding as it is recorded in a derived start document."""
        return {
            name: {
                "stream": b.stream,
                "data_key": b.data_key,
                **({"run": b.run, "pipeline": b.pipeline} if b.run else {}),
                **({"value": b.value, "unit": b.unit} if b.value is not None else {}),
            }
            for name, b in self.bound.items()
        }


def source_of(bound: BoundInput) -> Source:
    """Return the source of the raw run that an input's values lie in."""
    return Source(bound.stream, bound.data_key if bound.external else None)


def upstream_of(explicit: str) -> str:
    """Return which pipeline an explicit binding names, ``pipeline/stream/data key``; "" if none.

    A name of two parts is a stream's and a data key's of the raw run, whatever they are called.
    """
    parts = explicit.split("/")
    return parts[0] if len(parts) == 3 else ""


def bind(
    modality: Modality,
    start: Document,
    descriptors: Iterable[Document],
    upstream: Sequence[Upstream] = (),
    before: Mapping[str, Any] = MappingProxyType({}),
) -> Binding:
    """Return what feeds each input of `modality` in a run.

    Parameters
    ----------
    upstream : sequence of Upstream
        Derived runs of the raw run that may feed inputs, too.
    before : mapping
        What was read before the scan (stream ``baseline``), by data key.

    Raises
    ------
    BindingError
        If a required input finds nothing, or finds several equally good data
        keys, or the inputs lie in streams that the run does not call aligned.
    """
    known = list(descriptors)
    raw = list(candidates(start, known))
    asked = {explicit.rpartition("/")[0] for explicit in modality.inputs.values()}
    found = [c for c in raw if c.stream in asked or not ASIDE.fullmatch(c.stream)]
    found += [c for one in upstream for c in made(one, raw)]
    constant = list(constants(start, known, before))
    bound: dict[str, BoundInput] = {}
    problems: list[str] = []
    aligned = aligned_streams(start)
    primary: str | None = None
    home: str | None = None
    fed_by: dict[str, Source] = {}
    external = {(c.stream, c.data_key): c.external for c in raw}
    # Those come last that may be constants because others say which events there are.
    order = {name: _is_read_before(modality.inputs.get(name, "")) for name in modality.declared}
    required_first = sorted(
        modality.declared.items(), key=lambda item: (item[1].optional, order[item[0]])
    )
    for name, wanted in required_first:
        explicit = modality.inputs.get(name)
        if explicit == "":
            if not wanted.optional:
                problems.append(f"input {name!r} is needed, and inputs says that nothing feeds it")
            continue
        usable = [
            c
            for c in found
            if home is None or c.home == home or (home in aligned and c.home in aligned)
        ]
        try:
            match = _match(name, wanted, usable, constant, explicit)
            bound[name] = _bound(match, wanted, explicit=explicit is not None)
        except BindingError as problem:
            if not wanted.optional or explicit is not None:
                elsewhere = "" if home is None else _elsewhere(name, wanted, found, usable, home)
                problems.append(f"{problem}{elsewhere}")
            continue
        if match.value is not None:
            continue
        primary = primary or name
        home = home or match.home
        if match.upstream is not None:
            fed_by[match.upstream.uid] = match.upstream.source(external)
    if not problems and primary is None:
        problems.append("it declares no required input that the run could feed")
    if problems or primary is None:
        roles = {wanted.role for wanted in modality.declared.values() if wanted.constant}
        has = "; ".join(map(str, (*found, *(c for c in constant if c.role in roles)))) or "nothing"
        raise BindingError(
            f"{modality.name} cannot work on this run: {'; '.join(problems)}. The run has: {has}"
        )
    ordered = {name: bound[name] for name in modality.declared if name in bound}
    return Binding(ordered, primary, fed_by)


def _is_read_before(explicit: str) -> bool:
    return explicit.rpartition("/")[0] in (BASELINE, CONFIGURATION)


def _match(
    name: str,
    wanted: Input,
    found: list[Candidate],
    constant: list[Candidate],
    explicit: str | None,
) -> Candidate:
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
        what = f"role {wanted.role!r}, dims {list(wanted.dims)}, unit {wanted.unit or 'any'}"
        near = f"; not fitting: {'; '.join(map(str, role))}" if role else ""
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
        why = ", or was no number before the scan" if _is_read_before(explicit) else ""
        raise BindingError(f"input {name!r} is bound to {explicit!r}, which is not there{why}")
    if len(named) > 1:
        paths = ", ".join(c.path for c in named)
        raise BindingError(f"input {name!r} is bound to {explicit!r}; say which of {paths}")
    return named[0]


def _elsewhere(
    name: str, wanted: Input, found: list[Candidate], usable: list[Candidate], home: str
) -> str:
    others = {c.home for c in found if c.role == wanted.role} - {c.home for c in usable}
    if not others:
        return ""
    return (
        f" (there is one in stream {', '.join(sorted(others))}, but the start document does not "
        f"list it with {home!r} under aligned_streams)"
    )


def _fits(c: Candidate, wanted: Input) -> bool:
    shape = squeezed(c.shape, len(wanted.dims))
    return len(shape) <= len(wanted.dims) and unit_scale(c.unit, wanted.unit) is not None


def squeezed(shape: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Drop leading axes of length one beyond `ndim` (ophyd-async puts one there)."""
    while len(shape) > ndim and shape[0] == 1:
        shape = shape[1:]
    return shape


def _bound(c: Candidate, wanted: Input, *, explicit: bool = False) -> BoundInput:
    shape = squeezed(c.shape, len(wanted.dims))
    if len(shape) > len(wanted.dims):
        raise BindingError(f"{c} has {len(shape)} axes, but the input has only {list(wanted.dims)}")
    scale = unit_scale(c.unit, wanted.unit)
    if scale is None and explicit:
        scale = 1.0  # whoever says which data key it is knows better than its description
    if scale is None:
        raise BindingError(f"{c} cannot be converted to {wanted.unit}")
    value, dtype = c.value, c.dtype
    if value is not None and scale != 1.0:
        value, dtype = (np.asarray(value) * scale).tolist(), "<f8"
    return BoundInput(
        stream=c.stream,
        data_key=c.data_key,
        external=c.external,
        shape=(1,) * (len(wanted.dims) - len(shape)) + shape,
        source_shape=c.shape,
        dtype=dtype,
        unit=wanted.unit or c.unit,
        scale=scale,
        configuration=dict(c.configuration),
        beam=dict(c.beam),
        run="" if c.upstream is None else c.upstream.uid,
        pipeline="" if c.upstream is None else c.upstream.name,
        value=value,
    )
