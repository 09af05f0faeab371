"""X-ray fluorescence: areas of fitted peak groups, areal mass densities, detection limits."""

import hashlib
from functools import partial
from typing import Any

import numpy as np

from p06bs.callbacks import _whole_run
from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._faults import invalidate
from p06bs.callbacks._fits import groups_of
from p06bs.callbacks._fluorescence import FluorescenceSettings
from p06bs.callbacks._following import follow
from p06bs.callbacks._incident_flux import INCIDENT_FLUX, is_average
from p06bs.callbacks._measure import judge_all, measure
from p06bs.callbacks._peaks import Peaks, correction_of, totals_of
from p06bs.callbacks._pymca import import_pymca
from p06bs.callbacks._settings import require
from p06bs.callbacks._spectra import (
    ElementFault,
    Faults,
    dead_time_factor,
    describe,
    example_spectra,
    judge_times,
    require_alike,
    whole_counts,
)
from p06bs.callbacks._totals import Areas
from p06bs.callbacks.region_sums import RegionSums
from p06bs.model.modality import PART, Bound, Columns, Input, Modality, Output

__all__ = ["Fluorescence", "RegionSums"]

OUT_OF_REACH = (
    "the gain of each usable detector element is beyond gain_range or zero_range; "
    "calibrate anew, or make these larger"
)
"""Why an event is invalid in which `scan` finds no element to use."""


class Fluorescence(Modality):
    """Fit the peak groups of X-ray fluorescence spectra: areas and their standard deviations.

    A detector element that cannot be used in an event (masked, saturated, counts
    negative or not finite, no live time) is left out, and the total is scaled by
    the sensitivity that remains. An event is invalid if no element is left, or if
    results are divided by the incident flux and that is not positive.
    """

    name = "xrf"
    version = "4"
    Settings = FluorescenceSettings

    spectrum = Input(role="fluorescence", dims=("detector_element", "channel"), unit="counts")
    live_time = Input(role="live_time", dims=("detector_element",), unit="s", optional=True)
    real_time = Input(role="real_time", dims=("detector_element",), unit="s", optional=True)
    input_counts = Input(role="input_counts", dims=("detector_element",), optional=True)
    output_counts = Input(role="output_counts", dims=("detector_element",), optional=True)
    incident_flux = INCIDENT_FLUX

    @classmethod
    def warm_up(cls) -> None:
        """Import PyMca."""
        import_pymca()

    @classmethod
    def example(cls) -> tuple[Modality, Columns]:
        """Return an instance and columns to try it with."""
        columns = {**example_spectra(), "real_time": np.ones((12, 4))}
        modality = cls(elements=("Fe", "Cu"), incident_energy=10.0, track_gain=("Fe_K",))
        return modality, columns

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return area, sigma and detection limit of each peak group, densities, elements used."""
        made = totals_of(settings, bound).outputs()
        made["elements_used"] = Output(dtype="int64", hinted=False)
        per_element = partial(
            Output,
            shape=bound["spectrum"].shape[:1],
            dims=("detector_element",),
            hinted=False,
        )
        if settings.track_gain:
            made["gain_drift"] = per_element(
                unit="1",
                atol=1e-9,
                description="relative change of the gain; NaN where it is out of reach",
            )
        if settings.zero_range:
            made["zero_drift"] = per_element(
                unit="keV",
                atol=1e-8,
                description="change of the zero point; NaN where it is out of reach",
            )
        return made

    def results(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return sum spectra, and what is fitted to them."""
        totals = totals_of(settings, bound)
        return _whole_run.outputs(totals, bound["spectrum"], whole=whole_counts(bound))

    def prepare(self, settings: Any, bound: Bound) -> Peaks:
        """Return the matrices of the fit; takes a tenth of a second once PyMca is imported.

        With `track_gain`, a tenth of a second for each gain at which the fit is solved, some ten
        for each calibration.

        Raises
        ------
        ImportError
            If PyMca is not installed.
        ValueError
            If the configuration does not allow a linear fit or does not match the
            spectra, or an input that a setting needs is missing.
        """
        totals = totals_of(settings, bound)
        per_second = totals.need_flux and is_average(bound["incident_flux"])
        if per_second:
            require(bound, "real_time", "an incident flux per second")
            require_alike(bound, "real_time")
        later = {"standard", "normalise", "detection_limits", "gain_counts", "saturation"}
        fits = settings.model_dump_json(exclude=later)
        return Peaks(
            groups=groups_of(settings, bound),
            totals=totals,
            correction=correction_of(settings, bound),
            i0_per_second=per_second,
            saturation=settings.saturation,
            whole=whole_counts(bound),
            gain_counts=settings.gain_counts if settings.track_gain else 0.0,
            follow_zero=bool(settings.zero_range),
            key=hashlib.sha256(fits.encode()).hexdigest(),
        )

    def process(
        self,
        setup: Peaks,
        *,
        spectrum: Array,
        live_time: Array | None = None,
        real_time: Array | None = None,
        input_counts: Array | None = None,
        output_counts: Array | None = None,
        incident_flux: Array | None = None,
    ) -> Columns:
        """Return areas and standard deviations, shape (events,), and a reason per bad event.

        total = S · Σ area_i · real_i/live_i over the usable elements i, where S is the
        sensitivity of all elements over that of the usable ones; variances add up
        with the squares of the factors. With `track_gain` it is `scan` that adds up.
        """
        faults = judge_all(setup.groups, spectrum, setup.saturation)
        factor: Floats = np.ones(faults.shape)
        if setup.correction != "none":
            rates = setup.correction == "rates"
            real, live = (input_counts, output_counts) if rates else (real_time, live_time)
            assert real is not None
            assert live is not None
            factor = dead_time_factor(faults, real, live, rates=rates)
        if not setup.totals.need_flux:
            incident_flux = None
        flux = _flux(setup, faults, incident_flux, real_time)
        usable = faults == ElementFault.NONE
        reasons = _reasons(faults, incident_flux)
        counted = usable.copy()
        counted[list(reasons)] = False
        weights = setup.totals.weights(usable, factor)
        found = measure(setup.groups, spectrum, usable, np.where(counted, weights, 0))
        counts = found.counts.astype(np.int64) if setup.whole else found.counts
        part = _whole_run.contribution(setup.key, counts, found.corrected, flux, counted)
        if setup.gain_counts:
            made: dict[str, Array] = {
                "blank": found.fitted.blank,
                "solutions": found.solutions,
                "usable": usable,
                "factor": factor,
                "flux": np.zeros(factor.shape) if flux is None else flux,
            }
        else:
            made = setup.totals(found.fitted, weights, flux)
            made["elements_used"] = usable.sum(axis=1, dtype=np.int64)
        columns: dict[str, Any] = {**invalidate(made, reasons), PART: part}
        return columns

    def scan(self, setup: Peaks, state: Any, columns: Columns) -> tuple[Any, Columns]:
        """Follow the gains of detector elements, in acquisition order, and return the columns.

        An event is invalid if no detector element has a gain within reach; what it tells of gains
        counts for the events after it.
        """
        if not setup.gain_counts:
            return state, columns
        fresh = state is None or state["key"] != setup.key
        followed = follow(
            [(group.elements, group.gain) for group in setup.groups if group.gain is not None],
            None if fresh else np.asarray(state["sums"]),
            columns["solutions"],
            columns["usable"],
            setup.gain_counts,
        )
        usable = columns["usable"] & np.isfinite(followed.gain)
        # Under a shifted peak the variance at the nominal gain is too small.
        own = np.zeros((usable.shape[1], len(setup.totals.columns)))
        for group in setup.groups:
            own[group.elements] = group.fit.own
        variance = columns["blank"] + own * np.maximum(followed.areas, 0)
        fitted = Areas(followed.areas, variance, columns["blank"])
        flux = columns["flux"] if setup.totals.need_flux else None
        made = setup.totals(fitted, setup.totals.weights(usable, columns["factor"]), flux)
        made["elements_used"] = usable.sum(axis=1, dtype=np.int64)
        made["gain_drift"] = followed.gain
        if setup.follow_zero:
            made["zero_drift"] = followed.zero
        lost = np.flatnonzero(~usable.any(axis=1)).tolist()
        after = {"key": setup.key, "sums": followed.sums}
        return after, invalidate(made, dict.fromkeys(lost, OUT_OF_REACH))

    def fold(self, setup: Peaks, state: Any, part: Any) -> Any:
        """Return the sum spectra so far, of the newest settings."""
        return _whole_run.fold(state, part)

    def snapshot(self, setup: Peaks, state: Any) -> Columns:
        """Return the sum spectra and what is fitted to them."""
        return _whole_run.results(setup.groups, setup.totals, state)


def _flux(
    setup: Peaks, faults: Faults, incident_flux: Array | None, real_time: Array | None
) -> Floats | None:
    """Return what each detector element's areas are divided by, and mark faults of real times."""
    if incident_flux is None:
        return None
    flux = np.repeat(incident_flux[:, None].astype(np.float64), faults.shape[1], axis=1)
    if setup.i0_per_second and real_time is not None:
        judge_times(faults, real_time, ElementFault.REAL)
        flux = flux * real_time
    return flux


def _reasons(faults: Faults, incident_flux: Array | None) -> dict[int, str]:
    """Return why events are invalid: no detector element is left, or they cannot be normalised."""
    unusable = np.flatnonzero(faults.all(axis=1))
    reasons = {k: f"no usable {describe(faults[k])}" for k in unusable.tolist()}
    if incident_flux is not None:
        for k in np.flatnonzero(~((incident_flux > 0) & (incident_flux < np.inf))).tolist():
            reasons.setdefault(k, f"incident flux is {float(incident_flux[k]):g}")
    return reasons
