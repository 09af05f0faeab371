"""The settings of `Fluorescence`, and the fits that they describe."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, field_validator, model_validator

from p06bs.callbacks._elements import configuration, split_group
from p06bs.callbacks._linear_fit import Fit
from p06bs.callbacks._pymca import Background, Calibration, fits, parse, read_text, set_background
from p06bs.model.modality import Bound, BoundInput, ModalitySettings

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
KeVPerChannel = tuple[float, Positive]
Elements = slice | npt.NDArray[np.intp]

DEFAULT_CALIBRATION: Calibration = (0.0, 0.01)


class FluorescenceSettings(ModalitySettings):
    """What is fitted, how counts are corrected, and which detector elements are used.

    Either `config`, or `elements` with `incident_energy`.
    """

    config: str | None = Field(
        None, description="PyMca .cfg: path or text; kept as text, so that documents hold it"
    )
    elements: tuple[str, ...] = Field(
        (), description="elements ('Fe') or families of their lines ('Cu-K', 'Pb-L3')"
    )
    incident_energy: float | None = Field(None, gt=0.1, le=200, description="keV")
    calibration: tuple[KeVPerChannel, ...] | None = Field(
        None,
        min_length=1,
        description="(offset keV, gain keV/channel), or one such pair per detector element; "
        "None: the configuration's, or (0, 0.01)",
    )
    energy_range: tuple[float, float] | None = Field(
        None, description="keV, fitted; None: the configuration's, or 1 to 1.05 incident_energy"
    )
    background: Background | None = Field(
        None, description="continuum under the peaks; None: the configuration's, or linear"
    )
    polynomial_order: int = Field(5, ge=1, le=10, description="of background='polynomial'")
    noise: Positive = Field(0.1, description="keV, electronic noise (FWHM); with elements")
    fano: Positive = Field(0.114, description="Fano factor; with elements")
    crystal: Literal["Si", "Ge"] = Field("Si", description="detector material; with elements")
    crystal_thickness: Positive = Field(450.0, description="µm; with elements")
    window_thickness: NotNegative = Field(8.0, description="µm of beryllium; with elements")
    escape: bool = Field(True, description="escape peaks; with elements")
    scatter: bool = Field(True, description="elastic and Compton peaks; with elements")
    scattering_angle: float = Field(90.0, gt=0, le=180, description="degrees; with elements")
    weight: Literal[0, 1] = Field(
        0, description="0: all channels alike; 1: 1/(1 + √reference)² (frozen)"
    )
    reference: tuple[NotNegative, ...] | None = Field(
        None, description="counts per channel of a typical spectrum, for weight=1"
    )
    dead_time: bool | Literal["auto"] = Field(
        "auto", description="correct by real/live time or input/output counts; auto: if there"
    )
    normalise: bool = Field(False, description="divide by the incident flux")
    masked: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="detector elements that are left out, from 0"
    )
    sensitivity: tuple[Positive, ...] | None = Field(
        None, description="relative sensitivity of each detector element; None: all alike"
    )
    saturation: Positive | None = Field(
        None, description="counts per channel; None: the largest value of whole-number spectra"
    )

    @field_validator("config")
    @classmethod
    def _text(cls, config: str | None) -> str | None:
        return None if config is None else read_text(config)

    @field_validator("calibration", mode="before")
    @classmethod
    def _pairs(cls, given: Any) -> Any:
        """Take one pair of numbers as the calibration of all detector elements."""
        one = isinstance(given, list | tuple) and all(isinstance(x, int | float) for x in given)
        return (given,) if one else given

    @field_validator("elements")
    @classmethod
    def _groups(cls, elements: tuple[str, ...]) -> tuple[str, ...]:
        for group in elements:
            split_group(group)
        return elements

    @field_validator("energy_range")
    @classmethod
    def _ordered(cls, limits: tuple[float, float] | None) -> tuple[float, float] | None:
        if limits is not None and not limits[0] < limits[1]:
            raise ValueError("the lower energy must be below the upper one")
        return limits

    @model_validator(mode="after")
    def _complete(self) -> "FluorescenceSettings":
        if (self.config is None) == (not self.elements):
            raise ValueError("give either config or elements")
        if self.elements and self.incident_energy is None:
            raise ValueError("elements need incident_energy (keV)")
        if self.config is not None and self.incident_energy is not None:
            raise ValueError("incident_energy belongs to elements; a config has its own")
        if (self.weight == 1) != (self.reference is not None):
            raise ValueError("weight=1 and reference need each other")
        return self


def fits_of(settings: FluorescenceSettings, bound: Bound) -> tuple[Fit | None, ...]:
    """Return the fit of each detector element, None for masked ones.

    Raises
    ------
    ImportError, ValueError
        As `p06bs.callbacks._pymca.fits`; ValueError also where settings have another
        number of detector elements than the spectra.
    """
    elements, channels = bound["spectrum"].shape
    return _fits(settings, elements, channels)


@lru_cache(maxsize=8)
def _fits(settings: FluorescenceSettings, elements: int, channels: int) -> tuple[Fit | None, ...]:
    calibrations = _calibrations(settings, elements)
    if settings.sensitivity is not None and len(settings.sensitivity) != elements:
        raise ValueError(
            f"sensitivity: has {len(settings.sensitivity)} values, "
            f"the spectra have {elements} detector elements"
        )
    used = [i for i in range(elements) if i not in settings.masked]
    unknown = [i for i in settings.masked if i >= elements]
    if unknown or not used:
        raise ValueError(
            f"masked: {settings.masked} leaves no detector element or names one that is not "
            f"there; the spectra have 0 to {elements - 1}"
        )
    limits = settings.energy_range
    if settings.config is not None:
        described = parse(settings.config)
        if settings.background is not None:
            set_background(described, settings.background)
            described["fit"]["linpolorder"] = settings.polynomial_order
    else:
        assert settings.incident_energy is not None
        limits = limits or (1.0, 1.05 * settings.incident_energy)
        described = configuration(
            settings.elements,
            energy=settings.incident_energy,
            energy_range=limits,
            background=settings.background or "linear",
            polynomial_order=settings.polynomial_order,
            noise=settings.noise,
            fano=settings.fano,
            crystal=settings.crystal,
            crystal_thickness=settings.crystal_thickness,
            window_thickness=settings.window_thickness,
            escape=settings.escape,
            scatter=settings.scatter,
            scattering_angle=settings.scattering_angle,
        )
    made = fits(
        described,
        channels,
        [calibrations[i] for i in used],
        energy_range=limits,
        reference=None if settings.reference is None else np.array(settings.reference),
    )
    if len({fit.peaks for fit in made}) > 1:
        every, some = (
            {p for fit in made for p in fit.peaks},
            set.intersection(*(set(fit.peaks) for fit in made)),
        )
        raise ValueError(
            f"{', '.join(sorted(every - some))} lies in the fitted range of some detector "
            "elements only; give an energy_range that all of them have"
        )
    by_element = dict(zip(used, made, strict=True))
    return tuple(by_element.get(i) for i in range(elements))


def _calibrations(settings: FluorescenceSettings, elements: int) -> list[Calibration | None]:
    if settings.calibration is None:
        return [None if settings.config else DEFAULT_CALIBRATION] * elements
    given = settings.calibration
    if len(given) not in (1, elements):
        raise ValueError(f"calibration: there are {len(given)}, but {elements} detector elements")
    return [*given * (elements // len(given))]


def groups_of(fits: tuple[Fit | None, ...]) -> Iterator[tuple[Fit, Elements]]:
    """Yield each fit with the detector elements that share it."""
    for fit in {id(f): f for f in fits if f is not None}.values():
        elements = np.array([i for i, f in enumerate(fits) if f is fit], np.intp)
        first, last = int(elements[0]), int(elements[-1])
        together = last - first + 1 == len(elements)  # a slice saves a copy of the spectra
        yield fit, slice(first, last + 1) if together else elements


def peaks_of(fits: tuple[Fit | None, ...]) -> tuple[str, ...]:
    """Return the peak groups, as PyMca names them."""
    return next(fit.peaks for fit in fits if fit is not None)


def i0_is_rate(i0: BoundInput) -> bool:
    """Return whether an incident flux is per second, as its unit says, and not per event."""
    unit = (i0.unit or "").replace(" ", "").lower()
    return unit.endswith(("/s", "/sec", "/second", "s^-1", "s**-1", "hz", "cps"))
