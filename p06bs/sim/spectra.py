"""The measured spectra that PyMca ships, what is in them, and where to look for it.

Two spectra, both counts per channel of one silicon detector element:

``XRFSpectrum``
    Multi-element thin standard excited at 17.5 keV, 4096 channels, about 5 eV a
    channel: fluorescence lines in channels 400..3000, scatter in 3000..3650.
``Steel``
    SRM 1155 steel excited at 16 keV, 2048 channels, about 12 eV a channel: Cr, Mn,
    Fe and Ni in channels 430..660, nearly nothing above 1400.

They were taken with different gains, and here they are added *channel by channel*
as measured, neither shifted nor resampled; only the shorter one is padded with
empty channels, and what lies below `DISCRIMINATOR` is dropped, as a lower-level
discriminator does (nine tenths of the counts of XRFSpectrum.mca are its zero
peak). The lines of `LINES` are then separated by the channels alone: the other
spectrum contributes less than 2 % there. Regions are inclusive *channel* numbers,
not energies: the mixture as a whole has no energy calibration.

A PyMca configuration made for one spectrum works on the mixture where that spectrum
prevails. Steel's does as it is. XRFSpectrum's knows no lines for the peaks of steel
far below; its fit must begin above them (`FIT_RANGES`) or strip the background
(SNIP), or else the background tries to follow them and spoils all areas.
"""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

Spectrum = npt.NDArray[np.float64]

SPECTRA: Mapping[str, str] = {"XRFSpectrum": "XRFSpectrum.mca", "Steel": "Steel.spe"}
"""Name of a spectrum -> file in PyMca's data directory."""

CHANNELS = 4096
DISCRIMINATOR = 200
"""First channel with counts; what the detector calls noise lies below."""

LINES: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "XRFSpectrum": {
        "Co_K": (1447, 1505),
        "Cu_K": (1665, 1735),
        "Zn_K": (1780, 1850),
        "Se_K": (2275, 2385),
        "Sr_K": (2850, 2970),
    },
    "Steel": {"Cr_K": (438, 472), "Fe_K": (518, 558), "Ni_K": (612, 646)},
}
"""Spectrum -> emission lines (the Kα peak of each) -> first and last channel, inclusive."""

BANDS: Mapping[str, tuple[int, int]] = {"XRFSpectrum": (1447, 3650), "Steel": (430, 650)}
"""Spectrum -> the channels where it prevails, lines and scatter together, inclusive."""

FIT_RANGES: Mapping[str, tuple[float, float]] = {
    "XRFSpectrum": (6.75, 16.0),
    "Steel": (2.4, 17.0),
}
"""Spectrum -> the energies, keV by its own calibration, in which its configuration fits."""


def regions() -> dict[str, tuple[float, float]]:
    """Return all lines with their channels, as the regions that `RegionSums` takes."""
    return {line: (lo, hi) for lines in LINES.values() for line, (lo, hi) in lines.items()}


def spectrum_of(line: str) -> str:
    """Return the name of the spectrum, and so of the phantom's map, that a line belongs to.

    Raises
    ------
    KeyError
        If `LINES` does not have the line.
    """
    for spectrum, lines in LINES.items():
        if line in lines:
            return spectrum
    raise KeyError(f"no line {line!r}; there are {', '.join(regions())}")


@cache
def measured(name: str) -> Spectrum:
    """Return a measured spectrum, shape ``(CHANNELS,)``, scaled to a sum of one, read-only.

    Raises
    ------
    KeyError
        If there is no such spectrum.
    RuntimeError
        If PyMca5 is not installed.
    """
    path = data_directory() / SPECTRA[name]
    text = path.read_text(encoding="latin-1")
    numbers = _spe(text) if path.suffix == ".spe" else _columns(text)
    spectrum = np.zeros(CHANNELS)
    spectrum[: numbers.size] = numbers
    spectrum[:DISCRIMINATOR] = 0.0
    spectrum /= spectrum.sum()
    spectrum.flags.writeable = False
    return spectrum


@cache
def pymca_configuration(name: str) -> str:
    """Return the text of PyMca's own fit configuration for a spectrum.

    Steel's is a file beside the spectrum; that of XRFSpectrum stands as a string
    in PyMca's tests and is read from there without running them.
    """
    if name == "Steel":
        return (data_directory() / "Steel.cfg").read_text(encoding="latin-1")
    if name != "XRFSpectrum":
        raise KeyError(f"no configuration for {name!r}; there are {', '.join(SPECTRA)}")
    import PyMca5

    tests = Path(inspect.getfile(PyMca5)).parent / "tests" / "XrfTest.py"
    for node in ast.parse(tests.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id="cfg")], value=ast.Constant(value=str(text))):
                return text
    raise RuntimeError(f"{tests} no longer holds the configuration of XRFSpectrum.mca (cfg)")


@cache
def data_directory() -> Path:
    """Return the directory with PyMca's data.

    Raises
    ------
    RuntimeError
        If PyMca5 is not installed.
    """
    try:
        from PyMca5 import PyMcaDataDir
    except ImportError as problem:
        raise RuntimeError(
            'the simulated beamline needs the spectra that PyMca5 ships: pip install "p06bs[sim]"'
        ) from problem
    return Path(PyMcaDataDir.PYMCA_DATA_DIR)


def _columns(text: str) -> Spectrum:
    """Read counts, one channel after the other, past comment lines."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return np.array(" ".join(lines).split(), dtype=float)


def _spe(text: str) -> Spectrum:
    """Read the section ``$DATA:`` of an Ortec .spe file: first and last channel, then counts."""
    words = text.partition("$DATA:")[2].partition("$")[0].split()
    first, last = int(words[0]), int(words[1])
    counts = np.array(words[2:], dtype=float)
    if counts.size != last - first + 1:
        raise ValueError(f"$DATA announces channels {first}..{last} but holds {counts.size} counts")
    return np.concatenate([np.zeros(first), counts])
