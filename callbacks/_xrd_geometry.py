"""The geometry of a powder measurement: what a .poni file of pyFAI says, and the file itself."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from p06bs.callbacks._settings import Finite
from p06bs.callbacks._xrd_pixels import absolute, digest, require_same
from p06bs.model.modality import ModalitySettings
from p06bs.model.units import unit_scale

Metres = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]

HC = 1.2398419843320026e-9
"""m·keV: wavelength times photon energy (exact, SI 2019)."""

ALIASES = {"dist": "distance", "pixelsize1": "pixel1", "pixelsize2": "pixel2"}
DROPPED = {"poni_version", "version"}
"""Said by the other fields."""

FILE = re.compile(r".*(\.(h5|nxs|hdf5|spline|edf|npy|cbf|tiff?)|[/\\].*)$", re.IGNORECASE)
"""A name that looks like that of a file."""


class Geometry(ModalitySettings):
    """Where the detector is, in pyFAI's terms: SI units and radians, 1 is y and 2 is x.

    Made of these fields, or of the path or the text of a .poni file (versions 1 to 3).
    """

    distance: Metres = Field(description="m, from the sample to the detector's plane")
    poni1: Finite = Field(description="m, point of normal incidence, along y")
    poni2: Finite = Field(description="m, point of normal incidence, along x")
    rot1: Finite = Field(0.0, description="rad")
    rot2: Finite = Field(0.0, description="rad")
    rot3: Finite = Field(0.0, description="rad")
    wavelength: float | None = Field(None, gt=1e-13, lt=1e-8, description="m (1 Å is 1e-10 m)")
    detector: str | None = Field(None, description="pyFAI's name of the detector, 'Pilatus 1M'")
    detector_config: dict[str, Any] | None = Field(
        None, description="what pyFAI's detector is made with, such as orientation, max_shape"
    )
    pixel1: float | None = Field(None, gt=0, lt=0.1, description="m, along y")
    pixel2: float | None = Field(None, gt=0, lt=0.1, description="m, along x")
    splinefile: str | None = Field(None, description="path, distortion of the detector")
    parallax: bool = Field(False, description="correct for the depth of the sensor")
    sha256: dict[str, str] = Field(
        {}, description="path -> digest of the files by which the detector is described"
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Take the path or the text of a .poni file, or what pyFAI's own objects say."""
        if isinstance(given, cls):
            return given
        for name in ("get_config", "as_dict"):
            if hasattr(given, name):
                given = getattr(given, name)()
        if isinstance(given, str | Path):
            given = _parse(_text(str(given)))
        if not isinstance(given, Mapping):
            return given
        if isinstance(given.get("poni"), Mapping):  # the .json of pyFAI's integration tools
            given = given["poni"]
        found = {ALIASES.get(k.lower(), k.lower()): v for k, v in given.items()}
        fields = {k: v for k, v in found.items() if k not in DROPPED and not _empty(v)}
        if isinstance(fields.get("detector_config"), str):
            fields["detector_config"] = _config(fields["detector_config"])
        if "sha256" not in fields:  # made by hand, and not read from documents
            places = [fields]
            if isinstance(fields.get("detector_config"), Mapping):
                places.append(dict(fields["detector_config"]))
                fields["detector_config"] = places[-1]
            files = {}
            for place in places:
                for key, value in place.items():
                    if isinstance(value, str) and FILE.match(value):
                        place[key] = absolute(value)
                        files[place[key]] = digest(place[key])
            fields["sha256"] = files
        return fields

    @model_validator(mode="after")
    def _pixels(self) -> "Geometry":
        described = (self.detector, self.detector_config, self.splinefile, self.pixel1)
        if all(what is None for what in described):
            raise ValueError("say how large pixels are: detector, or pixel1 and pixel2 (m)")
        return self

    def at_energy(self, energy: float | None, beam: Mapping[str, Any]) -> "Geometry":
        """Return the geometry with its wavelength, if that can be known.

        Parameters
        ----------
        energy : float or None
            Of photons, keV; what counts if it is given. None: the wavelength that is there.
        beam : mapping
            What the run says of its beam: its ``energy`` is used if nothing else is known.
        """
        if energy is None and self.wavelength is None:
            energy = _photon_energy(beam.get("energy"))
        return self if energy is None else self.model_copy(update={"wavelength": HC / energy})

    def as_poni(self) -> dict[str, Any]:
        """Return the dictionary that pyFAI's `PoniFile` reads.

        Raises
        ------
        ValueError
            If a file by which the detector is described is not what it was.
        """
        for path, expected in self.sha256.items():
            require_same(path, expected)
        names = ("distance", "poni1", "poni2", "rot1", "rot2", "rot3", "wavelength")
        made = {name: getattr(self, name) for name in names}
        pixels = {"pixel1": self.pixel1, "pixel2": self.pixel2 or self.pixel1}
        if self.detector_config is None and not self.parallax:
            if self.detector is not None:
                made["detector"] = self.detector
            sizes = {f"pixelsize{k[-1]}": v for k, v in pixels.items() if v is not None}
            spline = {} if self.splinefile is None else {"splinefile": self.splinefile}
            return {**made, **sizes, **spline, "poni_version": 1}
        config = {k: v for k, v in pixels.items() if v is not None} | (self.detector_config or {})
        made |= {"detector": self.detector or "Detector", "detector_config": config}
        if self.parallax:
            return {**made, "poni_version": 3, "parallax": True}
        return {**made, "poni_version": 2.1 if "orientation" in config else 2}


def _photon_energy(said: Any) -> float | None:
    """Return an energy in keV: of a number, or of a value with its units."""
    units = None
    if isinstance(said, Mapping):
        said, units = said.get("value"), said.get("units")
    scale = unit_scale(units if isinstance(units, str) else None, "keV")
    known = isinstance(said, int | float) and scale is not None and 0 < said < float("inf")
    return said * scale if known else None


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in ("", "none"))


def _text(poni: str) -> str:
    """Return the text of a .poni file that is given by its path or its text."""
    if "\n" in poni:
        return poni
    path = Path(poni).expanduser()
    if not path.is_file():
        raise ValueError(f"there is no .poni file {poni!r}")
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {poni!r}: {error}") from None


def _parse(text: str) -> dict[str, Any]:
    """Return what a .poni file says; of several calibrations the last one counts."""
    if text.lstrip().startswith("{"):
        return _config(text)
    lines = (line.split(":", 1) for line in text.splitlines() if not line.startswith("#"))
    found = {words[0].strip().lower(): words[1].strip() for words in lines if len(words) == 2}
    if not found.keys() & {"distance", "dist"}:
        raise ValueError("this is no .poni file: it has no line 'Distance: ...'")
    return {k: v for k, v in found.items() if k in _KEYS}


_KEYS = {*Geometry.model_fields, *ALIASES}


def _config(text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"not a JSON object: {text[:60]}")
    return config
