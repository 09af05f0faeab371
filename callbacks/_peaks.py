"""The setup of `Fluorescence`: its fits, and what becomes of their areas."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from p06bs.callbacks._fits import Group, describe_fit, groups_of, peaks_of
from p06bs.callbacks._fluorescence import FluorescenceSettings, column
from p06bs.callbacks._incident_flux import is_average, per_flux
from p06bs.callbacks._settings import require
from p06bs.callbacks._spectra import require_alike
from p06bs.callbacks._standard import sensitivities
from p06bs.callbacks._totals import Totals
from p06bs.model.modality import Bound

Correction = Literal["none", "times", "rates"]


@dataclass(frozen=True)
class Peaks:
    """The setup of `Fluorescence`.

    `i0_per_second` is whether the incident flux is a rate, `key` names what the gains that
    are followed and the sums of a run belong to, `gain_counts` how many counts gains are averaged
    over (0: fixed), `follow_zero` whether zero points are followed, too.
    """

    groups: tuple[Group, ...]
    totals: Totals
    correction: Correction
    i0_per_second: bool
    saturation: float | None
    whole: bool
    gain_counts: float
    follow_zero: bool
    key: str


def totals_of(settings: FluorescenceSettings, bound: Bound) -> Totals:
    """Return how results are made of areas.

    Raises
    ------
    ImportError, ValueError
        As `prepare`.
    """
    peaks = peaks_of(groups_of(settings, bound))
    unit = "counts"
    for setting in ("normalise", "standard"):
        if getattr(settings, setting):
            require(bound, "incident_flux", setting)
    if settings.normalise:
        unit = per_flux(bound["incident_flux"])
    elements = bound["spectrum"].shape[0]
    return Totals(
        columns=tuple(column(peak) for peak in peaks),
        elements=np.array(settings.sensitivity or (1.0,) * elements),
        unit=unit,
        normalise=settings.normalise,
        limits=settings.detection_limits,
        density=_density(settings, peaks),
    )


@lru_cache(maxsize=8)
def _density(settings: FluorescenceSettings, peaks: tuple[str, ...]) -> dict[str, float]:
    """Return by column the area per incident flux of 1 ng/mm²; none without a standard."""
    if settings.standard is None:
        return {}
    return sensitivities(settings.standard, describe_fit(settings)[0], peaks)


def correction_of(settings: FluorescenceSettings, bound: Bound) -> Correction:
    """Return what dead time is corrected by.

    Raises
    ------
    ValueError
        If it is to be corrected and the inputs are missing, or are not one for each detector
        element; or counts come with a rate.
    """
    if settings.dead_time is False:
        return "none"
    if {"live_time", "real_time"} <= bound.keys():
        require_alike(bound, "live_time", "real_time")
        return "times"
    if {"input_counts", "output_counts"} <= bound.keys():
        require_alike(bound, "input_counts", "output_counts")
        given = bound["input_counts"], bound["output_counts"]
        if len({is_average(one) for one in given}) > 1:
            raise ValueError(
                "input_counts and output_counts must both be counts or both be rates, "
                f"not {given[0].unit or 'counts'} and {given[1].unit or 'counts'}"
            )
        return "rates"
    if settings.dead_time is True:
        require(bound, "live_time", "dead_time")
        require(bound, "real_time", "dead_time")
    return "none"
