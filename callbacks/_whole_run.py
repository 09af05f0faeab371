"""The sum spectrum of a whole run, and its fit."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from p06bs.callbacks._arrays import Array, Booleans, Floats
from p06bs.callbacks._fits import Group
from p06bs.callbacks._totals import Areas, Totals
from p06bs.model.modality import BoundInput, Output

Part = Mapping[str, Any]
"""What a batch contributes: `counts` and `corrected`, both (elements, channels), and `flux`.

`key` tells what may be added up from what was made with other settings.
"""


def outputs(totals: Totals, spectrum: BoundInput, *, whole: bool) -> dict[str, Output]:
    """Return the results of the whole run."""
    elements, channels = spectrum.shape
    peaks = len(totals.columns)
    return {
        "sum_spectrum": Output(
            unit="counts",
            dtype="int64" if whole else "float64",
            shape=(elements, channels),
            dims=("detector_element", "channel"),
            description="counts as measured, of what is usable",
        ),
        "total_spectrum": Output(
            unit="counts",
            shape=(channels,),
            dims=("channel",),
            atol=1e-6,
            description="of all detector elements, dead time corrected, over `energy`",
        ),
        "fitted_spectrum": Output(
            unit="counts",
            shape=(channels,),
            dims=("channel",),
            atol=1e-6,
            description="what the fit takes `total_spectrum` for; 0 beyond the fitted range",
        ),
        "chi_square": Output(
            shape=(elements,),
            dims=("detector_element",),
            rtol=1e-6,
            hinted=False,
            description="of the fit of each corrected sum, per degree of freedom",
        ),
        "energy": Output(unit="keV", shape=(channels,), dims=("channel",), hinted=False),
        "element_areas": Output(
            unit="counts",
            shape=(elements, peaks),
            dims=("detector_element", "peak"),
            atol=1e-6,
            hinted=False,
            description=f"dead time corrected; peak: {', '.join(totals.columns)}",
        ),
        **totals.outputs(),
    }


def contribution(
    key: str, counts: Array, corrected: Floats, flux: Floats | None, counted: Booleans
) -> Part:
    """Return what a batch contributes; `flux` and what is `counted` are (events, elements)."""
    sums = {"counts": counts, "corrected": corrected}
    if flux is None:
        return {"key": f"{key}, without flux", **sums, "flux": 0.0}
    with np.errstate(all="ignore"):  # events without usable elements do not count
        seen = np.where(counted, flux, 0).sum(axis=1) / counted.sum(axis=1)
    return {
        "key": f"{key}, with flux",
        **sums,
        "flux": float(seen[counted.any(axis=1)].sum()),
    }


def fold(state: Part | None, part: Part) -> Part:
    """Add up what batches contributed; begin anew when settings change, which sums do not mix."""
    if state is None or state["key"] != part["key"]:
        return part
    added = {name: state[name] + part[name] for name in ("counts", "corrected", "flux")}
    return {**added, "key": part["key"]}


def results(groups: tuple[Group, ...], totals: Totals, state: Part) -> dict[str, Array]:
    """Return the results of what batches contributed.

    The noise of corrected counts is that of the measured ones times the correction, of which
    the mean of each detector element is taken.
    """
    counts, corrected = state["counts"], state["corrected"]
    shape = (1, len(counts), len(totals.columns))
    fitted = Areas.zeros(*shape)
    described = np.zeros(corrected.shape)
    chi_square = np.full(len(counts), np.nan)
    for group in groups:
        model = group.fit.model
        spectra = corrected[group.elements, model.start : model.stop]
        measured = counts[group.elements, model.start : model.stop].sum(axis=1)
        with np.errstate(all="ignore"):  # no counts have no correction
            mean = np.where(measured > 0, spectra.sum(axis=1) / measured, 1)[:, None]
        areas, variance = group.fit.areas(spectra)
        seen = group.fit.described(spectra)
        described[group.elements, model.start : model.stop] = seen
        deviations = (spectra - seen) ** 2 / (mean * np.maximum(spectra, mean))
        freedom = max(1, len(model.columns) - model.columns.shape[1])
        chi_square[group.elements] = deviations.sum(axis=1) / freedom
        if group.gain is not None:
            solutions = group.gain.solutions(spectra)
            drift = group.gain.drift(solutions[..., len(model.peaks) :])
            areas = group.gain.areas(solutions, *drift)
        fitted.areas[0, group.elements] = areas
        fitted.variance[0, group.elements] = variance * mean
        fitted.blank[0, group.elements] = group.fit.blank(areas, variance) * mean
    # An element whose gain is out of reach is left out, here without a correction.
    usable = np.array(np.isfinite(fitted.areas).all(axis=2))
    fitted.areas[~usable] = 0
    made = totals(fitted, usable.astype(float), np.full(shape[:2], state["flux"]))
    energy, total = _on_one_axis(groups, corrected)
    return {
        "sum_spectrum": counts,
        "total_spectrum": total,
        "fitted_spectrum": _on_one_axis(groups, described)[1],
        "chi_square": chi_square,
        "energy": energy,
        "element_areas": np.where(usable[0, :, None], fitted.areas[0], np.nan),
        **{name: values[0] for name, values in made.items()},
    }


def _on_one_axis(groups: tuple[Group, ...], spectra: Floats) -> tuple[Floats, Floats]:
    """Return the energies of the first group's channels, keV, and the sum of all spectra there.

    Channels of other calibrations are cut and put together, so that no count is lost but
    beyond the ends.
    """
    first = groups[0].fit.model
    edges = np.arange(spectra.shape[1] + 1) - 0.5
    energies = first.offset + first.gain * edges
    total = np.zeros(spectra.shape[1])
    for group in groups:
        model = group.fit.model
        summed = spectra[group.elements].sum(axis=0)
        below = np.concatenate([[0.0], np.cumsum(summed)])
        total += np.diff(np.interp((energies - model.offset) / model.gain, edges, below))
    return (energies[1:] + energies[:-1]) / 2, total
