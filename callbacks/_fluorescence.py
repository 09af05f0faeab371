"""The settings of `Fluorescence`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from p06bs.callbacks._elements import split_group
from p06bs.callbacks._pymca import Background, read_text
from p06bs.callbacks._settings import NotNegative, Positive
from p06bs.model.modality import ModalitySettings

KeVPerChannel = tuple[float, Positive]
Degrees = Annotated[float, Field(gt=0, le=90)]


def column(group: str) -> str:
    """Return the name of the column that a peak group has: ``Fe_K`` for ``Fe K`` and ``Fe-K``."""
    return group.replace(" ", "_").replace("-", "_")


class Standard(ModalitySettings):
    """A thin film with known masses per area, measured with the same geometry and I0 monitor.

    Areas are those that this modality gives, dead-time corrected and of all detector
    elements: the last snapshot of the standard's own run, or the sum of its rows.
    """

    areal_density: dict[str, Positive] = Field(min_length=1, description="element ('Fe') -> ng/mm²")
    areas: dict[str, Positive] = Field(
        min_length=1, description="peak group of such an element ('Fe_K') -> counts"
    )
    incident_flux: Positive = Field(
        description="what the I0 monitor counted meanwhile (rate · real time if it gives a rate)"
    )
    angles: tuple[Degrees, Degrees] | None = Field(
        None, description="degrees of beam and detector to its surface; None: the sample's"
    )

    def __hash__(self) -> int:
        """Return a hash in spite of the dicts, because fits are cached by their settings."""
        return hash(self.model_dump_json())

    @field_validator("areas")
    @classmethod
    def _columns(cls, areas: dict[str, float]) -> dict[str, float]:
        return {column(group): area for group, area in areas.items()}

    @model_validator(mode="after")
    def _same_elements(self) -> "Standard":
        measured = {group.split("_")[0] for group in self.areas}
        if measured != set(self.areal_density):
            odd = ", ".join(sorted(measured ^ set(self.areal_density)))
            raise ValueError(f"{odd} needs both an areal_density and the area of a peak group")
        return self


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
        None, description="continuum under the peaks; None: the configuration's, or spline"
    )
    polynomial_order: int = Field(5, ge=1, le=10, description="of background='polynomial'")
    spline_spacing: Positive = Field(1.0, description="keV between knots of background='spline'")
    noise: float = Field(0.1, gt=0, le=2, description="keV, electronic noise (FWHM); with elements")
    noises: tuple[Positive, ...] | None = Field(
        None,
        min_length=1,
        description="keV (FWHM) of each detector element; None: noise, or the configuration's",
    )
    fano: Positive = Field(0.114, description="Fano factor; with elements")
    crystal: Literal["Si", "Ge"] = Field("Si", description="detector material; with elements")
    crystal_thickness: Positive = Field(450.0, description="µm; with elements")
    window_thickness: NotNegative = Field(8.0, description="µm of beryllium; with elements")
    air_path: NotNegative = Field(
        0.0, description="mm of air between sample and detector; with elements"
    )
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
    detection_limits: bool = Field(True, description="a column with each peak group's, per event")
    standard: Standard | None = Field(
        None, description="thin film that turns areas into ng/mm²; needs the incident flux"
    )
    angles: tuple[Degrees, Degrees] = Field(
        (45.0, 45.0), description="degrees of beam and detector to the sample; with elements"
    )
    track_gain: tuple[str, ...] = Field(
        (), description="peak groups whose place tells each detector element's gain; none: fixed"
    )
    gain_range: float = Field(0.015, gt=0, le=0.05, description="largest relative drift followed")
    zero_range: float = Field(
        0.0,
        ge=0,
        le=0.1,
        description="keV, largest drift of the zero point followed; 0: fixed. Needs two peak "
        "groups in track_gain, far from each other",
    )
    gain_counts: float = Field(
        2000.0, ge=100, allow_inf_nan=False, description="counts of track_gain that are averaged"
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

    @field_validator("track_gain")
    @classmethod
    def _columns(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(column(group) for group in groups)

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
        if self.zero_range and len(set(self.track_gain)) < 2:
            raise ValueError("zero_range needs two peak groups in track_gain")
        return self
