"""The settings of `PowderDiffraction`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from p06bs.callbacks._settings import Finite, check_columns
from p06bs.callbacks._xrd_geometry import Geometry
from p06bs.callbacks._xrd_pixels import Mask, Picture, file_of
from p06bs.model.modality import ModalitySettings

Span = tuple[Finite, Finite]
Unit = Literal["q_nm^-1", "q_A^-1", "2th_deg"]

MOST_CELLS = 4_000_000
"""Of a cake: 64 MB a frame with its sigma."""

OWN = frozenset(
    {"intensity", "sigma", "cake", "cake_sigma", "total", "n_invalid", "n_saturated", "part"}
)
"""Columns that there are without rings."""

SHOWN_AS = {
    "q_nm^-1": ("q", "1/nm"),
    "q_A^-1": ("q", "1/angstrom"),
    "2th_deg": ("two_theta", "deg"),
}
"""Unit of the radial axis -> its name and unit in documents."""


class Ring(ModalitySettings):
    """A ring whose counts are summed, and what lies under it."""

    low: Finite
    high: Finite
    background: tuple[Span, ...] = Field(
        (), description="ranges beside the ring, whose mean per pixel is subtracted"
    )

    @model_validator(mode="before")
    @classmethod
    def _pair(cls, given: Any) -> Any:
        """Take (low, high) as a ring without background."""
        if isinstance(given, list | tuple) and len(given) == 2:
            return {"low": given[0], "high": given[1]}
        return given

    @field_validator("background", mode="before")
    @classmethod
    def _ranges(cls, given: Any) -> Any:
        """Take one range as the only one."""
        one = isinstance(given, list | tuple) and all(isinstance(x, int | float) for x in given)
        return (given,) if one and given else given

    @model_validator(mode="after")
    def _ordered(self) -> "Ring":
        for low, high in ((self.low, self.high), *self.background):
            if not low < high:
                raise ValueError(f"{low:g} is not below {high:g}")
        return self


class PowderSettings(ModalitySettings):
    """Geometry, axes, corrections, and which pixels count."""

    poni: Geometry = Field(
        description="path or text of a .poni file, or its fields; kept as fields, so that "
        "documents hold it"
    )
    energy: float | None = Field(
        None,
        gt=0.1,
        le=1000,
        description="keV; None: by the wavelength of poni, else as the run says of its beam",
    )
    unit: Unit = Field("q_nm^-1", description="of the radial axis, of ranges and of rings")
    bins: int = Field(1000, ge=1, le=65536, description="of the radial axis")
    range: Span | None = Field(None, description="radial, in `unit`; None: all used pixels")
    azimuthal_bins: int = Field(0, ge=0, le=3600, description="of the cake; 0: no cake")
    azimuth_range: Span = Field(
        (-180.0, 180.0), description="degrees, pyFAI's chi: 0 is +x, 90 is +y; of all outputs"
    )
    rings: dict[str, Ring] = Field(
        {}, description="name -> (low, high) in `unit`, or {low, high, background}"
    )
    splitting: Literal["no", "bbox", "full"] = Field(
        "no", description="how a pixel's counts are shared out to the bins that it covers"
    )
    solid_angle: bool = Field(True, description="correct for the solid angle of each pixel")
    polarization_factor: float | None = Field(
        None, ge=-1, le=1, description="1: horizontal, 0: none or circular; None: no correction"
    )
    mask: Mask | str | None = Field(
        None,
        description="path or array, not zero is masked (its content is kept); or the name of a "
        "pyFAI detector; beside the mask of poni's detector",
    )
    flat: Picture | None = Field(None, description="path; relative response of each pixel")
    dark: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Picture | None = Field(
        None, description="counts without beam, of all pixels or as path; subtracted"
    )
    minimum: Finite | None = Field(
        None, description="fewest counts of a valid pixel; None: 0 for whole numbers"
    )
    saturation: float | None = Field(
        None,
        gt=0,
        description="counts from which a pixel is saturated; None: the dtype's largest (two "
        "largest if unsigned)",
    )
    dummy: tuple[Finite, ...] | None = Field(
        None,
        max_length=16,
        description="further invalid values; None: in floats -1, -2 and the two largest of 32 bit",
    )
    max_invalid: float = Field(
        0.5, gt=0, le=1, description="share of invalid pixels from which an event is invalid"
    )
    normalise: bool = Field(False, description="divide by the incident flux")
    error_model: Literal["poisson"] = Field("poisson", description="variance: the counts")

    @field_validator("range")
    @classmethod
    def _ordered(cls, limits: Span | None) -> Span | None:
        if limits is not None and not limits[0] < limits[1]:
            raise ValueError("the lower limit must be below the upper one")
        return limits

    @field_validator("azimuth_range")
    @classmethod
    def _within_a_turn(cls, limits: Span) -> Span:
        low, high = limits
        if not (-180 <= low < high <= 180 or 0 <= low < high <= 360):
            raise ValueError("give (low, high) within -180 to 180 or within 0 to 360 degrees")
        return limits

    @field_validator("rings")
    @classmethod
    def _columns(cls, rings: dict[str, Ring]) -> dict[str, Ring]:
        check_columns(rings, OWN | {f"{name}_sigma" for name in rings})
        return rings

    @field_validator("mask", mode="before")
    @classmethod
    def _content(cls, given: Any) -> Any:
        """Read a mask that is given by its path or as an array; let other names pass."""
        named = isinstance(given, str) and not file_of(given).is_file()
        if named and (Path(given).suffix or "/" in given):
            raise ValueError(f"there is no file {given!r}")
        if given is None or named:
            return given
        return Mask.model_validate(given)

    @field_validator("flat", "dark", mode="before")
    @classmethod
    def _file(cls, given: Any) -> Any:
        return Picture.model_validate(given) if isinstance(given, str | Path) else given

    @model_validator(mode="after")
    def _cake_fits(self) -> "PowderSettings":
        if self.bins * self.azimuthal_bins > MOST_CELLS:
            raise ValueError(
                f"bins times azimuthal_bins is {self.bins * self.azimuthal_bins}, "
                f"at most {MOST_CELLS} are possible"
            )
        return self
