"""Read PyMca fit configurations into the matrices of a linear fit.

PyMca (V. A. Solé et al., Spectrochim. Acta B 62 (2007) 63) describes how a
spectrum looks: lines and their ratios, attenuation, detector response, escape
and scatter peaks, continuum. This module asks it for those shapes and solves
the least-squares problem once, as PyMca's FastXRFLinearFit does for every page,
so that a fit is one matrix product.
"""

import copy
import importlib
import importlib.util
import re
import threading
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._linear_fit import Fit, Floats, Snip, pseudo_inverse

Configuration = dict[str, Any]
Calibration = tuple[float, float]
Background = Literal["none", "snip", "constant", "linear", "parabolic", "polynomial"]

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

_PYMCA = threading.Lock()
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
    element: str, energy: float, low: float, high: float, family: str | None = None
) -> list[str]:
    """Return which families of lines of an element are excited and in a range (all in keV).

    Asked for are K, L and M, or the `family` alone.

    Raises
    ------
    ValueError
        If there is none.
    """
    require_pymca()
    from PyMca5.PyMcaPhysics.xrf import Elements

    found = []
    with _PYMCA:
        known = Elements.Element[element]
        if known["buildparameters"]["energy"] != energy:
            Elements.updateDict(energy=energy)  # of all elements, which takes its time
        for name in (family,) if family else ("K", "L", "M"):
            shell, line = STRONGEST[name]
            excited = 0 < known["binding"][shell] < energy and line in known
            if excited and low <= known[line]["energy"] <= high:
                found.append(name)
    if not found:
        raise ValueError(
            f"elements: {element} has no {family or 'K, L or M'} line between {low:g} and "
            f"{high:g} keV that photons of {energy:g} keV excite"
        )
    return found


def fits(
    configuration: Configuration,
    channels: int,
    calibrations: Sequence[Calibration | None],
    energy_range: tuple[float, float] | None = None,
    reference: Floats | None = None,
) -> tuple[Fit, ...]:
    """Return the fit of each detector element.

    Parameters
    ----------
    configuration
        As PyMca has it.
    channels : int
        Number of channels of a spectrum.
    calibrations
        Per element (offset keV, gain keV/channel), or None for the configuration's.
    energy_range : tuple of float, optional
        Fitted range, keV; the configuration's channels otherwise.
    reference : ndarray, optional
        Counts per channel of a typical spectrum, for the weights 1/(1 + √reference)².

    Raises
    ------
    ImportError
        If PyMca is not installed.
    ValueError
        If PyMca cannot use the configuration, or it does not allow a linear fit.
    """
    require_pymca()
    from PyMca5.PyMcaPhysics.xrf import ClassMcaTheory

    config = _linear(configuration, weighted=reference is not None)
    made: dict[Calibration, Fit] = {}
    with _PYMCA:
        theory = ClassMcaTheory.McaTheory()
        try:
            theory.setConfiguration(config)
        except (ValueError, KeyError, IndexError, TypeError, ZeroDivisionError) as error:
            raise ValueError(
                f"PyMca cannot use this configuration: {type(error).__name__} {error}"
            ) from error
        detector = config["detector"]
        own: Calibration = (float(detector["zero"]), float(detector["gain"]))
        if energy_range is None and any(c not in (None, own) for c in calibrations):
            # The range is the same energies for all elements, whatever their gain.
            limits = config["fit"]["xmin"], config["fit"]["xmax"]
            energy_range = (own[0] + own[1] * limits[0], own[0] + own[1] * limits[1])
        theory.enableOptimizedLinearFit()
        for calibration in calibrations:
            wanted = calibration or own
            if wanted not in made:
                made[wanted] = _fit(theory, channels, wanted, energy_range, reference)
    return tuple(made[c or own] for c in calibrations)


def _linear(configuration: Configuration, *, weighted: bool) -> Configuration:
    """Return the configuration made ready for a linear fit, as FastXRFLinearFit makes it."""
    config = copy.deepcopy(configuration)
    fit = config["fit"]
    if fit.get("strategyflag"):
        raise ValueError("fit strategies of PyMca are not possible in a linear fit")
    if fit.get("stripflag") and fit.get("stripalgorithm", 0) != 1:
        raise ValueError(
            "the configuration strips the background with PyMca's slow iteration "
            "(stripalgorithm = 0), which a linear fit cannot use; choose SNIP in the "
            "configuration, or give background='snip', 'linear', ..."
        )
    if fit.get("continuum", 0) not in (0, *CONTINUUM.values()):
        raise ValueError(
            "an exponential polynomial as continuum is not linear; choose another "
            "in the configuration, or give background='polynomial', ..."
        )
    fit["linearfitflag"], fit["fitweight"] = 1, int(weighted)
    config.setdefault("concentrations", {})["useautotime"] = 0
    # PyMca needs the angles for the Compton peak; 45° is what it assumes without them.
    config.setdefault("attenuators", {}).setdefault("Matrix", [0, "-", 0.0, 0.0, 45.0, 45.0])
    return config


def _fit(
    theory: Any,
    channels: int,
    calibration: Calibration,
    energy_range: tuple[float, float] | None,
    reference: Floats | None,
) -> Fit:
    offset, gain = calibration
    config = theory.config
    config["detector"]["zero"], config["detector"]["gain"] = offset, gain
    low, high = config["fit"]["xmin"], config["fit"]["xmax"]
    if energy_range is not None:
        low, high = ((e - offset) / gain for e in energy_range)
    if min(high, channels - 1) - max(low, 0) < 1:
        raise ValueError(
            f"the fitted range, channels {low:.0f} to {high:.0f}, is not in the spectrum, "
            f"which has channels 0 to {channels - 1}"
        )
    theory.linearMatrix = None
    theory.setData(y=np.zeros(channels), xmin=low, xmax=high)
    theory.estimate()
    first = theory.NGLOBAL
    if len(theory.PEAKS0) != len(theory.PARAMETERS) - first:
        raise ValueError(
            "some of the peaks cannot be excited by the beam energy of the configuration: "
            f"{', '.join(theory.PARAMETERS[first:])}"
        )
    from PyMca5.PyMcaMath.fitting import Gefit

    free = [i for i, code in enumerate(theory.codes[0]) if code != Gefit.CFIXED]
    peaks = [i for i in free if i >= first]
    if not peaks:
        raise ValueError(
            f"no peak lies in the fitted range, {offset + gain * max(low, 0):.3g} to "
            f"{offset + gain * min(high, channels - 1):.3g} keV"
        )
    shapes = [
        np.ravel(theory.linearMcaTheoryDerivative(theory.parameters, i, theory.xdata)) for i in free
    ]
    start = int(theory.xdata[0, 0])
    stop = start + len(theory.xdata)
    model = np.array(shapes, np.float64).T
    sigma = np.ones(stop - start)
    if reference is not None:
        if len(reference) != channels:
            raise ValueError(
                f"reference has {len(reference)} channels, the spectra have {channels}"
            )
        sigma = 1 + np.sqrt(reference[start:stop])
    solve = pseudo_inverse(model / sigma[:, None], weighted=reference is not None) / sigma
    solve = solve[len(free) - len(peaks) :]
    return Fit(
        peaks=tuple(theory.PARAMETERS[i] for i in peaks),
        start=start,
        stop=stop,
        matrix=np.vstack([solve, solve**2]),
        floor=(solve**2).max(axis=1),
        snip=_snip(config["fit"], theory.xdata[:, 0]),
    )


def _snip(fit: Configuration, channels: npt.NDArray[Any]) -> Snip | None:
    if not fit["stripflag"]:
        return None
    anchors: list[int] = []
    if fit["stripanchorsflag"]:
        listed = [a for a in fit["stripanchorslist"] or () if a > channels[0]]
        anchors = [int(i) for i in np.searchsorted(channels, listed) if 0 < i < len(channels)]
    return Snip(
        width=int(fit["snipwidth"]),
        smoothing=int(fit["stripfilterwidth"]),
        anchors=tuple(sorted(anchors)) or (len(channels) - 1,),
    )
