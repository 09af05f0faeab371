"""X-ray fluorescence: sums of counts over regions of interest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from p06bs.callbacks._arrays import Array
from p06bs.callbacks._faults import invalidate
from p06bs.callbacks._settings import check_columns, require
from p06bs.callbacks._spectra import (
    ElementFault,
    ceiling,
    channels_between,
    describe,
    example_spectra,
    judge,
    judge_times,
    require_alike,
    whole_counts,
)
from p06bs.model.modality import Bound, Columns, Input, Modality, ModalitySettings, Output


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
            None,
            gt=0,
            description="counts per channel from which a spectrum is not trusted; None: the "
            "largest of the dtype",
        )

        @field_validator("regions")
        @classmethod
        def _proper(cls, regions: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
            check_columns(regions)
            for name, (low, high) in regions.items():
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
            time is missing, or has neither one value nor one for each detector element.
        """
        if settings.per_live_time:
            require(bound, "live_time", "per_live_time")
            require_alike(bound, "live_time")
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
        saturation = ceiling(spectrum, setup.saturation)
        with np.errstate(invalid="ignore", divide="ignore"):  # what is not finite is flagged
            for name, (start, stop) in setup.regions.items():
                region = spectrum[:, :, start:stop]
                here = judge(region, saturation=saturation, whole=setup.whole)
                np.maximum(faults, here, out=faults)
                sums = region.sum(axis=2, dtype=dtype)
                if setup.per_live_time:
                    sums = sums / live_time
                made[name] = sums.sum(axis=1)
        if setup.per_live_time and live_time is not None:
            judge_times(faults, live_time, ElementFault.LIVE)
        if not setup.whole:
            made = {name: column.astype(np.float64, copy=False) for name, column in made.items()}
        bad = np.flatnonzero(faults.any(axis=1))
        return invalidate(made, {int(k): describe(faults[k]) for k in bad})
