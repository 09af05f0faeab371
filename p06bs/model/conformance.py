"""The author's conformance test: does a modality keep what the framework relies on?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from p06bs.model.binding import Binding
from p06bs.model.compute import Array, Result, Setup, compute, join, make_ready
from p06bs.model.documents import settings_digest
from p06bs.model.folding import Folding
from p06bs.model.modality import BoundInput, Modality, Output, SettingsError
from p06bs.model.scanning import Scanning

AXIS = 64
EVENTS = 48


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, and what is wrong with it ("" if nothing)."""

    checked: str
    problem: str = ""


def made_up_columns(modality: Modality, seed: int = 1) -> dict[str, Array]:
    """Return columns for each input of a modality: positive numbers, counts for spectra."""
    random = np.random.default_rng(seed)
    columns: dict[str, Array] = {}
    for name, wanted in modality.declared.items():
        shape = tuple(
            1024 if d == "channel" else 4 if "element" in d else AXIS for d in wanted.dims
        )
        if wanted.unit in ("count", "counts"):
            columns[name] = random.poisson(50, (EVENTS, *shape)).astype(np.uint32)
        else:
            columns[name] = random.uniform(0.1, 1.0, (EVENTS, *shape))
    return columns


def bind_columns(modality: Modality, columns: Mapping[str, Array]) -> Binding:
    """Return a binding as if a run had these columns."""
    bound = {
        name: BoundInput(
            stream="primary",
            data_key=name,
            external=False,
            shape=column.shape[1:],
            source_shape=column.shape[1:],
            dtype=column.dtype.str,
            unit=modality.declared[name].unit,
        )
        for name, column in columns.items()
    }
    return Binding(bound, next(iter(bound)))


def check(modality: Modality, columns: Mapping[str, Array]) -> Iterator[Finding]:
    """Check a modality on columns; yield a finding for each property.

    Parameters
    ----------
    modality : Modality
        With valid settings.
    columns : mapping of str to ndarray
        One per input, shape ``(events, *input shape)``.
    """
    binding = bind_columns(modality, columns)
    count = len(next(iter(columns.values())))
    yield Finding("settings survive JSON", _settings_problem(modality))
    setup = _ready(modality, binding)
    if isinstance(setup, str):
        yield Finding("prepare and outputs", setup)
        return
    yield Finding("prepare and outputs")
    before = {name: column.copy() for name, column in columns.items()}
    whole = _run(setup, columns, [count])
    failed = sorted({r for r in whole.reasons if r})
    all_failed = all(whole.reasons)
    refused = next((r for r in failed if "read-only" in r), "")  # numpy's word for it
    yield Finding("outputs are as declared", failed[0] if all_failed and not refused else "")
    touched = [n for n, c in columns.items() if not np.array_equal(c, before[n], equal_nan=True)]
    changed = f"changed: {', '.join(touched)}" if touched else ""
    yield Finding("inputs stay untouched", changed or refused)
    yield Finding("same results twice", _difference(setup, whole, _run(setup, columns, [count])))
    for size in (1, 7):
        cuts = [min(size, count - i) for i in range(0, count, size)]
        part = _run(setup, columns, cuts)
        problem = _difference(setup, whole, part) or _other_results(setup, whole, part)
        yield Finding(f"same results in batches of {size}", problem)
    optional = [n for n, i in modality.declared.items() if i.optional and n in columns]
    for name in optional:
        rest = {n: c for n, c in columns.items() if n != name}
        without = _ready(modality, bind_columns(modality, rest))
        if isinstance(without, str):
            # Settings may need what is optional; they say so by its name.
            named = without.startswith("ValueError: ") and repr(name) in without
            yield Finding(f"works without {name}", "" if named else without)
            continue
        part = _run(without, rest, [count])
        problem = part.reasons[0] if all(part.reasons) and not all_failed else ""
        yield Finding(f"works without {name}", problem)


def _settings_problem(modality: Modality) -> str:
    plain = modality.settings.model_dump(mode="json")
    try:
        again = type(modality)(inputs=modality.inputs, **plain)
    except SettingsError as error:
        return str(error)
    same = settings_digest(again.settings) == settings_digest(modality.settings)
    return "" if same else "their digest changed on the way"


def _ready(modality: Modality, binding: Binding) -> Setup | str:
    """Return the setup, or what is wrong."""
    try:
        return make_ready(modality, modality.settings, binding)
    except Exception as error:  # the author's code; what it raises is the finding
        return f"{type(error).__name__}: {error}"


def _run(setup: Setup, columns: Mapping[str, Array], cuts: list[int]) -> Result:
    parts: list[Result] = []
    scanning = None if setup.modality.scan is None else Scanning()
    at = 0
    for length in cuts:
        cut: dict[str, Array | None] = {
            n: c[at : at + length].copy() if len(cuts) > 1 else c[:] for n, c in columns.items()
        }
        part = compute(setup, cut, [""] * length)
        if scanning is not None:
            part = scanning.scan(setup, np.arange(at + 1, at + length + 1), part)
        parts.append(part)
        at += length
    return join(parts)


def _other_results(setup: Setup, one: Result, other: Result) -> str:
    """Return where the results of a whole run differ that two ways of cutting it give."""
    if setup.modality.fold is None:
        return ""
    outputs = setup.modality.results(setup.settings, setup.binding.bound)
    shown = []
    for result in (one, other):
        folding = Folding(outputs)
        folding.fold(setup, result.parts, len(result))
        snapshot = folding.snapshot(setup, final=True)
        if folding.problem:
            return folding.problem
        shown.append({} if snapshot is None else snapshot.values)
    first, second = shown
    if first.keys() != second.keys():
        return "one way of cutting gives results, the other does not"
    for name, value in first.items():
        problem = _apart(name, outputs[name], value, second[name])
        if problem:
            return problem
    return ""


def _difference(setup: Setup, one: Result, other: Result) -> str:
    """Return where two results differ by more than the declared tolerances."""
    if one.reasons != other.reasons:
        return "other events are invalid, or for other reasons"
    for name, output in setup.outputs.items():
        a, b = one.columns.get(name), other.columns.get(name)
        if a is None or b is None:
            continue
        problem = _apart(name, output, a, b)
        if problem:
            return problem
    return ""


def _apart(name: str, output: Output, one: Array, other: Array) -> str:
    """Return by how much values differ beyond the declared tolerances."""
    if one.dtype.kind in "fc":
        close = np.isclose(one, other, rtol=output.rtol, atol=output.atol, equal_nan=True)
    else:
        close = np.asarray(one == other)
    if close.all():
        return ""
    return f"{name} differs in {int((~close).sum())} of {close.size} values{_worst(one, other)}"


def _worst(one: Array, other: Array) -> str:
    """Return by how much numbers differ at most, as text."""
    if one.dtype.kind not in "biuf":
        return ""
    apart = np.abs(one.astype(float) - other.astype(float))
    finite = apart[np.isfinite(apart)]
    return f", by up to {finite.max():.3g}" if finite.size else ""
