"""Read PyMca fit configurations into the models of a linear fit.

PyMca (V. A. Solé et al., Spectrochim. Acta B 62 (2007) 63) describes how a
spectrum looks: lines and their ratios, attenuation, detector response, escape
and scatter peaks, continuum. This module asks it for those shapes, as PyMca's
FastXRFLinearFit does for every page.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import BSpline

from p06bs.callbacks._arrays import Floats
from p06bs.callbacks._linear_fit import Model, Snip
from p06bs.callbacks._pymca import (
    CONTINUUM,
    PYMCA,
    Configuration,
    Response,
    require_pymca,
    response_of,
    theory_of,
)


def models(
    configuration: Configuration,
    channels: int,
    responses: Sequence[Response],
    energy_range: tuple[float, float] | None = None,
    *,
    channel_range: tuple[int, int] | None = None,
    reference: Floats | None = None,
    spline: float = 0.0,
) -> tuple[Model, ...]:
    """Return the model of each detector element.

    Parameters
    ----------
    configuration
        As PyMca has it.
    channels : int
        Number of channels of a spectrum.
    responses
        How each detector element answers.
    energy_range : tuple of float, optional
        Fitted range, keV; the configuration's channels otherwise.
    channel_range : tuple of int, optional
        Fitted channels (start, stop) in place of energies.
    reference : ndarray, optional
        Counts per channel of a typical spectrum, for the weights 1/(1 + √reference)².
    spline : float
        Distance of the knots of a spline as continuum, keV; 0: the configuration's continuum.

    Raises
    ------
    ImportError
        If PyMca is not installed.
    ValueError
        If PyMca cannot use the configuration, or it does not allow a linear fit.
    """
    require_pymca()
    config = linear(configuration, weighted=reference is not None)
    made: dict[Response, Model] = {}
    with PYMCA:
        theory = theory_of(config)
        config = theory.config
        own = response_of(config)
        if channel_range is not None:
            config["fit"]["xmin"], config["fit"]["xmax"] = channel_range[0], channel_range[1] - 1
        elif energy_range is None and any(r[:2] != own[:2] for r in responses):
            # The range is the same energies for all elements, whatever their gain.
            limits = config["fit"]["xmin"], config["fit"]["xmax"]
            energy_range = (own.offset + own.gain * limits[0], own.offset + own.gain * limits[1])
        theory.enableOptimizedLinearFit()
        typical = float(np.median([response.gain for response in responses]))
        for response in responses:
            if response not in made:
                model = _model(theory, channels, response, energy_range, reference)
                made[response] = with_spline(model, spline / typical) if spline else model
    return tuple(made[response] for response in responses)


def linear(configuration: Configuration, *, weighted: bool) -> Configuration:
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


def _model(
    theory: Any,
    channels: int,
    response: Response,
    energy_range: tuple[float, float] | None,
    reference: Floats | None,
) -> Model:
    offset, gain, noise = response
    config = theory.config
    config["detector"].update(zero=offset, gain=gain, noise=noise)
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
    weights = None
    if reference is not None:
        if len(reference) != channels:
            raise ValueError(
                f"reference has {len(reference)} channels, the spectra have {channels}"
            )
        weights = 1 / (1 + np.sqrt(reference[start:stop]))
    return Model(
        peaks=tuple(theory.PARAMETERS[i] for i in peaks),
        start=start,
        stop=stop,
        offset=offset,
        gain=gain,
        noise=noise,
        columns=np.array(shapes, np.float64).T,
        weights=weights,
        snip=_snip(config["fit"], theory.xdata[:, 0]),
    )


def with_spline(model: Model, spacing: float) -> Model:
    """Return the model with a cubic spline below the peaks, knots some `spacing` channels apart.

    Unlike those of a polynomial its terms are local: what the model gets wrong at the scatter
    peaks does not spoil areas elsewhere.
    """
    channels = len(model.columns)
    pieces = max(1, round(channels / spacing))
    knots = np.linspace(-0.5, channels - 0.5, pieces + 1)
    ends = np.arange(1, 4) * (knots[1] - knots[0])
    knots = np.concatenate([knots[0] - ends[::-1], knots, knots[-1] + ends])
    terms = BSpline.design_matrix(np.arange(channels), knots, 3).toarray()
    columns = np.hstack([terms, model.columns])
    return replace(model, columns=columns)


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
