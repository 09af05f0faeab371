"""Fluorescence as the framework runs it, and spectra with known areas."""

from typing import Any, cast

import numpy as np

from p06bs.callbacks.xrf import Fluorescence
from p06bs.model.compute import Result, Setup, compute, join
from p06bs.model.folding import Folding
from p06bs.model.modality import INVALID, PART, BoundInput, Columns, Modality
from p06bs.model.scanning import Scanning

CHANNELS = 1200
UNITS = {"spectrum": "counts", "live_time": "s", "real_time": "s"}


def bind(columns: Columns, units: dict[str, str]) -> dict[str, BoundInput]:
    return {
        name: BoundInput(
            "primary", name, False, c.shape[1:], c.shape[1:], c.dtype.str, units.get(name)
        )
        for name, c in columns.items()
    }


def run(modality: Modality, units: dict[str, str] | None = None, **columns: Any) -> Columns:
    """Bind, prepare and process as the framework does, and check what was declared."""
    for column in columns.values():
        column.flags.writeable = False
    bound = bind(columns, UNITS | (units or {}))
    declared = modality.outputs(modality.settings, bound)
    inputs = {name: columns.get(name) for name in modality.declared}
    made = dict(modality.process(modality.prepare(modality.settings, bound), **inputs))
    made.pop(PART, None)
    assert set(made) - {INVALID} == set(declared)
    for name, output in declared.items():
        assert made[name].dtype == output.dtype
        assert made[name].shape == (len(columns["spectrum"]), *output.shape)
    return made


def through(
    modality: Modality,
    sizes: list[int] | None = None,
    units: dict[str, str] | None = None,
    **given: Any,
) -> tuple[Result, Columns]:
    """Return rows and results of the whole run, of batches of these sizes (one by default)."""
    bound = bind(given, UNITS | (units or {}))
    settings, binding = modality.settings, cast(Any, None)  # nothing asks for where data lie
    declared = dict(modality.outputs(settings, bound))
    setup = Setup(modality, settings, binding, modality.prepare(settings, bound), declared)
    scanning, folding = Scanning(), Folding(modality.results(settings, bound))
    count = len(given["spectrum"])
    parts, at = [], 0
    for size in sizes or [count]:
        cut = {name: column[at : at + size] for name, column in given.items()}
        done = compute(setup, cut, [""] * size)
        parts.append(scanning.scan(setup, np.arange(at + 1, at + size + 1), done))
        folding.fold(setup, done.parts, size)
        at += size
    assert at == count
    snapshot = folding.snapshot(setup, final=True)
    assert not folding.problem, folding.problem
    return join(parts), {} if snapshot is None else snapshot.values


def model_of(modality: Fluorescence, channels: int = CHANNELS) -> Any:
    """Return what the first detector element's spectra are composed of."""
    shape = (1, channels)
    bound = {
        "spectrum": BoundInput("primary", "mca", False, shape, shape, "<f8", "counts"),
        "incident_flux": BoundInput("primary", "i0", False, (), (), "<f8", "counts"),
    }
    return modality.prepare(modality.settings, bound).groups[0].fit.model


def composed(model: Any, areas: dict[str, Any], flat: float = 0.0) -> np.ndarray:
    """Return expected counts, (events, channels), of peak groups' areas on a flat continuum."""
    given = [
        np.atleast_1d(np.asarray(areas.get(peak.replace(" ", "_"), 0.0))) for peak in model.peaks
    ]
    made = np.full((max(map(len, given)), CHANNELS), flat)
    for shape, area in zip(model.shapes.T, given, strict=True):
        made[:, model.start : model.stop] += area[:, None] * shape
    return made
