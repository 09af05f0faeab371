"""Areal mass densities from a thin-film standard by PyMca's fundamental parameters.

An area is A = k · I0 · D · r with the areal density D (ng/mm²) and the rate r that PyMca's
fundamental parameters give for 1 ng/mm² of the element: photoelectric cross-section, fluorescence
yield, line ratios, attenuation by windows and air, and the detector's absorption (V. A. Solé et
al., Spectrochim. Acta B 62 (2007) 63). What is left in k is the same for all elements as far as
these are right: solid angle and calibration of the monitor. The standard tells k at its lines.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from p06bs.callbacks._arrays import Floats
from p06bs.callbacks._fluorescence import Standard, column
from p06bs.callbacks._models import linear
from p06bs.callbacks._pymca import PYMCA, STRONGEST, Configuration, require_pymca, theory_of

UNIT = "ng/mm**2"
GRAMS = 1e-7
"""g/cm² in 1 ng/mm²."""


def sensitivities(
    standard: Standard, configuration: Configuration, peaks: Sequence[str]
) -> dict[str, float]:
    """Return by column the area per incident flux that 1 ng/mm² gives, for each element's peaks.

    Where the standard lacks a peak group, k is interpolated between the energies of those that
    it has (linear in log k), and constant beyond them.

    Raises
    ------
    ValueError
        If the standard has a peak group that the fit lacks, or PyMca finds no rate for a peak.
    """
    groups = {column(peak): peak for peak in peaks if peak.split()[0] != "Scatter"}
    unknown = [name for name in standard.areas if name not in groups]
    if unknown:
        raise ValueError(
            f"standard: the fit has no peak group {', '.join(unknown)}; it has "
            f"{', '.join(groups) or 'none of an element'}"
        )
    sample = _rates(configuration, list(groups.values()), film=None)
    measured = [groups[name] for name in standard.areas]
    film = _rates(configuration, measured, film=standard.angles or sample.angles)
    density = np.array([standard.areal_density[peak.split()[0]] for peak in measured])
    area = np.array(list(standard.areas.values()))
    factor = area / (standard.incident_flux * density * film.rates)
    order = np.argsort(film.energies)
    log_k = np.interp(sample.energies, film.energies[order], np.log(factor)[order])
    # Its own lines exactly, also where two have one energy.
    own = {peak: float(np.log(k)) for peak, k in zip(measured, factor, strict=True)}
    log_k = np.array([own.get(p, k) for p, k in zip(groups.values(), log_k, strict=True)])
    return dict(zip(groups, (np.exp(log_k) * sample.rates).tolist(), strict=True))


@dataclass(frozen=True)
class _Rates:
    """Rates per ng/mm² and incident photon, up to a factor, and energies of the main lines, keV."""

    rates: Floats
    energies: Floats
    angles: tuple[float, float]


def _rates(
    configuration: Configuration, peaks: list[str], film: tuple[float, float] | None
) -> _Rates:
    """Return what PyMca's ConcentrationsTool expects of 1 ng/mm² of each peak's element.

    In a film that does not absorb, at these angles; without them in the sample of the
    configuration, through which the elements are taken to be spread evenly.
    """
    require_pymca()
    from PyMca5.PyMcaPhysics.xrf import ConcentrationsTool, Elements

    config = linear(configuration, weighted=False)
    with PYMCA:
        config = copy.deepcopy(theory_of(config).config)
        layer = list(config["attenuators"]["Matrix"])
        angles = float(layer[4]), float(layer[5])
        if film is not None or not layer[0]:
            angles = film or angles
            layer = [1, "C1", 1.0, GRAMS, *angles]
        if str(layer[1]).upper() == "MULTILAYER":
            raise ValueError(
                "standard: in a sample of several layers an area tells no areal density; "
                "describe it as one layer, or as thin (Matrix off)"
            )
        config["attenuators"]["Matrix"] = layer
        for section in ("userattenuators", "multilayer"):
            config.setdefault(section, {})
        tool = ConcentrationsTool.ConcentrationsTool()
        asked = tool.configure() | {"flux": 1.0, "time": 1.0, "area": 1.0, "distance": 0.0}
        one = {peak: {"fitarea": 1.0, "sigmaarea": 0.0} for peak in peaks}
        found = tool.processFitResult(
            config=asked, fitresult={"result": {"config": config, "groups": list(peaks), **one}}
        )["area"]
        energies = []
        for peak in peaks:
            element, family = peak.split()
            energies.append(float(Elements.Element[element][STRONGEST[family][1]]["energy"]))
    nothing = [peak for peak in peaks if not found[peak] > 0]
    if nothing:
        raise ValueError(f"standard: PyMca's theory has no rate for {', '.join(nothing)}")
    through = float(layer[2]) * float(layer[3]) / GRAMS
    rates = np.array([found[peak] for peak in peaks]) / through
    return _Rates(rates, np.array(energies), angles)
