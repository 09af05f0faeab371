"""Find which data keys of a run feed which inputs of a modality.

An explicit binding wins over roles. Among the data keys of a role, dims, shape
and unit decide. Inputs from different streams
are joined by equal seq_num only if the start document lists the streams under
``aligned_streams`` (frames of a flyer and I0 inside events are two streams).
What the raw run does not have may come from derived runs of it, by the roles of their outputs.
What no event has may be a constant of the run, where the input allows it.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from p06bs.model.candidates import ASIDE, Candidate, aligned_streams, candidates, made
from p06bs.model.constants import constants
from p06bs.model.documents import Document
from p06bs.model.matching import (
    BindingError,
    bound_by,
    doubts,
    elsewhere,
    find_match,
    has_role,
    is_read_before,
)
from p06bs.model.modality import BoundInput, Modality
from p06bs.model.source import Source
from p06bs.model.upstream import Upstream

__all__ = ["Binding", "BindingError", "bind", "source_of"]


@dataclass(frozen=True)
class Binding:
    """What feeds a modality's inputs; the first required input names the primary source.

    `fed_by` has the derived runs that feed inputs, by uid: of the events of which source of the
    raw run their rows are. `warnings` say what may not be as somebody thinks: optional inputs whose
    role the run has, and which nothing feeds; units that were taken for others.
    """

    bound: Mapping[str, BoundInput]
    primary: str
    fed_by: Mapping[str, Source] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

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
        If a required input, or all of a group, finds nothing, or finds several equally good data
        keys, or the inputs lie in streams that the run does not call aligned.
    """
    known = list(descriptors)
    raw = list(candidates(start, known))
    asked = {explicit.rpartition("/")[0] for explicit in modality.inputs.values()}
    found = [c for c in raw if c.stream in asked or not ASIDE.fullmatch(c.stream)]
    found += [c for one in upstream for c in made(one, raw)]
    constant = list(constants(start, known, before))
    bound: dict[str, BoundInput] = {}
    problems: list[str] = []  # for which the run is refused
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    warnings: list[str] = []
    aligned = aligned_streams(start)
    primary: str | None = None
    home: str | None = None
    fed_by: dict[str, Source] = {}
    external = {(c.stream, c.data_key): c.external for c in raw}
    # Those come last that may be constants because others say which events there are.
    order = {name: is_read_before(modality.inputs.get(name, "")) for name in modality.declared}
    required_first = sorted(
        modality.declared.items(), key=lambda item: (item[1].optional, order[item[0]])
    )
    for name, wanted in required_first:
        explicit = modality.inputs.get(name)
        if explicit == "":
            if not wanted.optional:
                problems.append(f"input {name!r} is needed, and inputs says that nothing feeds it")
            continue
        beside = {home, *(aligned if home in aligned else ())}
        usable = [c for c in found if home is None or c.home in beside]
        try:
            chosen = find_match(name, wanted, usable, constant, explicit)
            bound[name] = bound_by(chosen, wanted)
        except BindingError as error:
            also = "" if home is None else elsewhere(wanted, found, usable, home)
            if not wanted.optional or explicit is not None:
                problems.append(f"{error}{also}")
            elif wanted.group:
                lacking[wanted.group].append(f"{error}{also}: nothing feeds it")
            elif also or has_role(wanted, usable, constant):
                warnings.append(f"{error}{also}: nothing feeds it")
            continue
        warnings += doubts(name, chosen, wanted)
        if chosen.value is not None:
            continue
        primary = primary or name
        home = home or chosen.home
        if chosen.upstream is not None:
            fed_by[chosen.upstream.uid] = chosen.upstream.source(external)
    fed = {modality.declared[name].group for name in bound}
    for group, said in lacking.items():
        (warnings if group in fed else problems).extend(said)
    if problems or primary is None:
        raise _refusal(modality, problems, [*found, *constant])
    ordered = {name: bound[name] for name in modality.declared if name in bound}
    return Binding(ordered, primary, fed_by, tuple(warnings))


def _refusal(modality: Modality, problems: list[str], there: list[Candidate]) -> BindingError:
    """Return what was looked for and not found, and what there is."""
    roles = {wanted.role for wanted in modality.declared.values() if wanted.constant}
    said = "; ".join(problems) or "it declares no required input that the run could feed"
    has = "; ".join(str(c) for c in there if c.value is None or c.role in roles) or "nothing"
    return BindingError(f"{modality.name} cannot work on this run: {said}. The run has: {has}")
