"""X-ray fluorescence: sums over regions of interest, and areas of fitted peak groups."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from p06bs.callbacks._fluorescence import (
    Elements,
    FluorescenceSettings,
    fits_of,
    groups_of,
    i0_is_rate,
    peaks_of,
)
from p06bs.callbacks._linear_fit import Fit, Floats, sum_elements
from p06bs.callbacks._pymca import import_pymca
from p06bs.callbacks._spectra import (
    Array,
    Fault,
    ceiling,
    channels_between,
    describe,
    example_spectra,
    invalidate,
    judge,
    judge_times,
    require,
    whole_counts,
)
from p06bs.model.modality import RESERVED, Bound, Columns, Input, Modality, ModalitySettings, Output

BLOCK = 2**19
"""Values that are converted to floats at a time, so that memory stays small."""


@dataclass(frozen=True)
class Sums:
    """The setup of `RegionSums`: channels (start, stop) per region."""

    regions: Mapping[str, tuple[int, int]]
    whole: bool
    per_live_time: bool
    saturation: float | None


class RegionSums(Modality):
    """Sum the counts of each fluorescence line's region of interest over all detector elements.

    Counts that are negative or not finite inside a region, and live times that are
    not positive where they are asked for, make an event invalid.
    """

    name = "region_sums"

    class Settings(ModalitySettings):
        """Regions and their unit."""

        regions: dict[str, tuple[float, float]] = Field(
            min_length=1,
            description="line -> (low, high): keV with calibration, inclusive channels without",
        )
        calibration: tuple[float, Annotated[float, Field(gt=0)]] | None = Field(
            None, description="(offset keV, gain keV/channel): the energy of a channel's centre"
        )
        per_live_time: bool = Field(
            False, description="counts/s: counts divided by live time, per detector element"
        )
        saturation: float | None = Field(
            None, gt=0, description="counts per channel from which a spectrum is not trusted"
        )

        @field_validator("regions")
        @classmethod
        def _proper(cls, regions: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
            for name, (low, high) in regions.items():
                if not name or name != name.strip() or name in RESERVED or set(name) & set("./"):
                    raise ValueError(f"{name!r} is no name for a column of a derived run")
                if not low <= high:
                    raise ValueError(f"region {name!r} is empty: {low:g} is above {high:g}")
            return regions

        @model_validator(mode="after")
        def _whole_channels(self) -> "RegionSums.Settings":
            for name, limits in self.regions.items():
                if self.calibration is None and not all(x.is_integer() for x in limits):
                    raise ValueError(
                        f"region {name!r} {limits} is no range of channel numbers; "
                        "energies (keV) need calibration=(offset_keV, gain_keV)"
                    )
            return self

    spectrum = Input(role="fluorescence", dims=("detector_element", "channel"), unit="counts")
    live_time = Input(role="live_time", dims=("detector_element",), unit="s", optional=True)

    @classmethod
    def example(cls) -> tuple[Modality, Columns]:
        """Return an instance and columns to try it with."""
        return cls(regions={"Fe_K": (6.2, 6.6)}, calibration=(0.0, 0.01)), example_spectra()

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return one column per region: whole counts, or counts/s per live time."""
        if settings.per_live_time:
            return {line: Output(unit="counts/s") for line in settings.regions}
        dtype = "int64" if whole_counts(bound) else "float64"
        return {line: Output(unit="counts", dtype=dtype) for line in settings.regions}

    def prepare(self, settings: Any, bound: Bound) -> Sums:
        """Return the channels of each region.

        Raises
        ------
        ValueError
            If a region holds no channel or goes beyond the spectrum, or the live
            time is missing.
        """
        if settings.per_live_time:
            require(bound, "live_time", "per_live_time")
        channels = bound["spectrum"].shape[-1]
        return Sums(
            regions={
                name: channels_between(name, region, settings.calibration, channels)
                for name, region in settings.regions.items()
            },
            whole=whole_counts(bound) and not settings.per_live_time,
            per_live_time=settings.per_live_time,
            saturation=settings.saturation,
        )

    def process(self, setup: Sums, *, spectrum: Array, live_time: Array | None = None) -> Columns:
        """Return the sums, shape (events,), and a reason per bad event."""
        dtype = np.float64 if spectrum.dtype.kind == "f" and not setup.whole else np.int64
        faults = np.zeros(spectrum.shape[:2], np.uint8)
        made: dict[str, Array] = {}
        with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is flagged
            for name, (start, stop) in setup.regions.items():
                region = spectrum[:, :, start:stop]
                here = judge(region, saturation=setup.saturation, whole=setup.whole)
                np.maximum(faults, here, out=faults)
                sums = region.sum(axis=2, dtype=dtype)
                if setup.per_live_time:
                    sums = sums / live_time
                made[name] = sums.sum(axis=1)
        if setup.per_live_time and live_time is not None:
            judge_times(faults, live_time)
        if not setup.whole:
            made = {name: column.astype(np.float64, copy=False) for name, column in made.items()}
        bad = np.flatnonzero(faults.any(axis=1))
        return invalidate(made, {int(k): describe(faults[k]) for k in bad})


@dataclass(frozen=True)
class Peaks:
    """The setup of `Fluorescence`: fits, each with the detector elements that share it."""

    groups: tuple[tuple[Fit, Elements], ...]
    columns: tuple[str, ...]
    sensitivity: Floats
    saturation: float | None
    dead_time: bool
    rates: bool
    normalise: bool
    i0_per_second: bool


class Fluorescence(Modality):
    """Fit the peak groups of X-ray fluorescence spectra: areas and their standard deviations.

    A detector element that cannot be used in an event (masked, saturated, counts
    negative or not finite, no live time) is left out, and the total is scaled by
    the sensitivity that remains. An event is invalid if no element is left, or if
    it is to be normalised and the incident flux is not positive.
    """

    name = "xrf"
    Settings = FluorescenceSettings

    spectrum = Input(role="fluorescence", dims=("detector_element", "channel"), unit="counts")
    live_time = Input(role="live_time", dims=("detector_element",), unit="s", optional=True)
    real_time = Input(role="real_time", dims=("detector_element",), unit="s", optional=True)
    input_counts = Input(role="input_counts", dims=("detector_element",), optional=True)
    output_counts = Input(role="output_counts", dims=("detector_element",), optional=True)
    incident_flux = Input(role="incident_flux", optional=True)

    @classmethod
    def warm_up(cls) -> None:
        """Import PyMca."""
        import_pymca()

    @classmethod
    def example(cls) -> tuple[Modality, Columns]:
        """Return an instance and columns to try it with."""
        columns = {**example_spectra(), "real_time": np.ones((12, 4))}
        return cls(elements=("Fe", "Cu"), incident_energy=10.0), columns

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return area and sigma of each peak group, and the number of elements used."""
        unit, atol = "counts", 1e-6
        if settings.normalise and "incident_flux" in bound:
            i0 = bound["incident_flux"]
            unit = f"counts/({i0.unit or 'counts'}{'*s' if i0_is_rate(i0) else ''})"
            atol = 1e-12
        made: dict[str, Output] = {}
        for peak in peaks_of(fits_of(settings, bound)):
            column = peak.replace(" ", "_")
            made[column] = Output(unit=unit, atol=atol, hinted=not peak.startswith("Scatter"))
            made[f"{column}_sigma"] = Output(unit=unit, atol=atol, hinted=False)
        made["elements_used"] = Output(dtype="int64", hinted=False)
        return made

    def prepare(self, settings: Any, bound: Bound) -> Peaks:
        """Return the matrices of the fit; takes a tenth of a second once PyMca is imported.

        Raises
        ------
        ImportError
            If PyMca is not installed.
        ValueError
            If the configuration does not allow a linear fit or does not match the
            spectra, or an input that a setting needs is missing.
        """
        fits = fits_of(settings, bound)
        if settings.normalise:
            require(bound, "incident_flux", "normalise")
            if i0_is_rate(bound["incident_flux"]):
                require(bound, "real_time", "normalise with an incident flux per second")
        times = {"live_time", "real_time"} <= bound.keys()
        rates = not times and {"input_counts", "output_counts"} <= bound.keys()
        if settings.dead_time is True and not (times or rates):
            require(bound, "live_time", "dead_time")
            require(bound, "real_time", "dead_time")
        return Peaks(
            groups=tuple(groups_of(fits)),
            columns=tuple(peak.replace(" ", "_") for peak in peaks_of(fits)),
            sensitivity=np.array(settings.sensitivity or (1.0,) * len(fits)),
            saturation=settings.saturation,
            dead_time=bool(settings.dead_time) and (times or rates),
            rates=rates,
            normalise=settings.normalise,
            i0_per_second=settings.normalise and i0_is_rate(bound["incident_flux"]),
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
        with the squares of the factors.
        """
        shape = spectrum.shape[:2]
        faults = np.full(shape, Fault.MASKED, np.uint8)
        factor = np.ones(shape)
        # No counts need no correction; no live time is no measurement.
        longer, shorter = (input_counts, output_counts) if setup.rates else (real_time, live_time)
        with np.errstate(all="ignore"):  # what it would warn of is flagged
            if longer is not None and shorter is not None and setup.dead_time:
                factor *= np.where(
                    (longer == 0) & (shorter == 0) & setup.rates, 1, longer / shorter
                )
            if real_time is not None and setup.i0_per_second:
                factor /= real_time
        areas = np.zeros((shape[0], len(setup.columns)))
        variance = np.zeros_like(areas)
        for fit, elements in setup.groups:
            number, channels = factor[:1, elements].size, fit.stop - fit.start
            step = max(1, BLOCK // (number * channels)) if number else 1
            for at in (slice(k, k + step) for k in range(0, shape[0], step)):
                cut = spectrum[at, elements, fit.start : fit.stop]
                found = judge(cut, saturation=ceiling(cut, setup.saturation))
                judge_times(found, factor[at, elements])
                faults[at, elements] = found
                counts = cut.astype(np.float64)
                counts[found != Fault.NONE] = 0
                area, var = fit.areas(counts.reshape(-1, channels))
                weight = np.where(found == Fault.NONE, factor[at, elements], 0)
                areas[at] += sum_elements(area, weight)
                variance[at] += sum_elements(var, weight**2)
        usable = faults == Fault.NONE
        bad = np.flatnonzero(~usable.any(axis=1))
        reasons = {int(k): f"no usable {describe(faults[k])}" for k in bad}
        with np.errstate(all="ignore"):  # what has no usable element is invalid
            scale = setup.sensitivity.sum() / (usable @ setup.sensitivity)
            if setup.normalise and incident_flux is not None:
                for k in np.flatnonzero(~((incident_flux > 0) & (incident_flux < np.inf))):
                    reasons.setdefault(int(k), f"incident flux is {float(incident_flux[k]):g}")
                scale = scale / incident_flux
            areas *= scale[:, None]
            sigma = np.sqrt(variance) * scale[:, None]
        made = dict(zip(setup.columns, areas.T, strict=True))
        made |= {f"{c}_sigma": s for c, s in zip(setup.columns, sigma.T, strict=True)}
        made["elements_used"] = usable.sum(axis=1, dtype=np.int64)
        return invalidate(made, reasons)
