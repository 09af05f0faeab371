"""PyMca: fit configurations, elements' lines, and the module globals that need a lock."""

import importlib
import importlib.util
import logging
import re
import threading
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

Configuration = dict[str, Any]
Background = Literal["none", "snip", "constant", "linear", "parabolic", "polynomial", "spline"]


class Response(NamedTuple):
    """How a detector element answers: keV of channel 0, keV/channel, and noise (FWHM, keV)."""

    offset: float
    gain: float
    noise: float


CONTINUUM = {"constant": 1, "linear": 2, "parabolic": 3, "polynomial": 4}
"""PyMca's numbers of the continua that are linear in their parameters."""

STRONGEST = {
    "K": ("K", "KL3"),
    "Ka": ("K", "KL3"),
    "Kb": ("K", "KM3"),
    "L": ("L3", "L3M5"),
    "L1": ("L1", "L1M3"),
    "L2": ("L2", "L2M4"),
    "L3": ("L3", "L3M5"),
    "M": ("M5", "M5N7"),
}
"""Family of lines -> the shell that must be ionised, and the strongest line."""

PYMCA = threading.Lock()
"""PyMca keeps the excitation energy and the materials in module globals."""


def import_pymca() -> None:
    """Import what fits need of PyMca, which takes its time; nothing if it is missing."""
    if importlib.util.find_spec("PyMca5") is not None:
        for module in ("xrf.ClassMcaTheory", "xrf.Elements"):
            importlib.import_module(f"PyMca5.PyMcaPhysics.{module}")


def require_pymca() -> None:
    """Make sure that PyMca is there.

    Raises
    ------
    ImportError
        If it is not installed, with the command that installs it.
    """
    logging.getLogger("PyMca5").setLevel(logging.WARNING)  # it tells of each fit's limits
    if importlib.util.find_spec("PyMca5") is None:
        raise ImportError(
            'X-ray fluorescence needs PyMca5, which is not installed: pip install "p06bs[xrf]"'
        )


def read_text(config: str) -> str:
    """Return the text of a configuration given as the path of a .cfg file or as its text.

    Raises
    ------
    ValueError
        If there is no such file, or the text is no PyMca fit configuration.
    """
    text = config
    if "\n" not in config:
        path = Path(config).expanduser()
        if not path.is_file():
            raise ValueError(f"there is no PyMca configuration file {config!r}")
        text = path.read_text(encoding="utf-8")
    missing = [s for s in ("fit", "peaks", "detector") if not re.search(rf"(?m)^\[{s}\]", text)]
    if missing:
        raise ValueError(
            f"this is no PyMca fit configuration: section {', '.join(missing)} is missing"
        )
    return text


def parse(text: str) -> Configuration:
    """Return the configuration that a PyMca .cfg text holds."""
    require_pymca()
    from PyMca5.PyMcaIO import ConfigDict

    configuration = ConfigDict.ConfigDict()
    configuration.readfp(StringIO(text))
    return dict(configuration)


def set_background(configuration: Configuration, background: Background) -> None:
    """Say how the continuum under the peaks is described, whatever it was before."""
    fit = configuration["fit"]
    fit["stripflag"] = int(background == "snip")
    fit["stripalgorithm"] = 1
    fit["continuum"] = CONTINUUM.get(background, 0)


def families(
    element: str,
    energy: float,
    low: float,
    high: float,
    family: str | None = None,
    *,
    margin: float = 0.0,
) -> list[str]:
    """Return which families of lines of an element are excited and in a range (all in keV).

    Asked for are K, L and M, those but `margin` from the range's ends, or the `family` alone.

    Raises
    ------
    ValueError
        If there is none.
    """
    require_pymca()
    from PyMca5.PyMcaPhysics.xrf import Elements

    found = []
    inset = 0.0 if family else margin
    with PYMCA:
        known = Elements.Element[element]
        if known["buildparameters"]["energy"] != energy:
            Elements.updateDict(energy=energy)  # of all elements, which takes its time
        for name in (family,) if family else ("K", "L", "M"):
            shell, line = STRONGEST[name]
            excited = 0 < known["binding"][shell] < energy and line in known
            if excited and low + inset <= known[line]["energy"] <= high - inset:
                found.append(name)
    if not found:
        raise ValueError(
            f"elements: {element} has no {family or 'K, L or M'} line between {low:g} and "
            f"{high:g} keV that photons of {energy:g} keV excite"
        )
    return found


def theory_of(config: Configuration) -> Any:
    """Return what PyMca makes of a configuration; its lock must be held.

    Raises
    ------
    ValueError
        If PyMca cannot use it.
    """
    from PyMca5.PyMcaPhysics.xrf import ClassMcaTheory

    theory = ClassMcaTheory.McaTheory()
    try:
        theory.setConfiguration(config)
    except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"PyMca cannot use this configuration: {type(error).__name__} {error}"
        ) from error
    return theory


def response_of(configuration: Configuration) -> Response:
    """Return what a configuration says of the detector."""
    detector = configuration["detector"]
    return Response(float(detector["zero"]), float(detector["gain"]), float(detector["noise"]))
