"""The fits that settings of `Fluorescence` describe: one for each detector element."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from p06bs.callbacks._elements import configuration
from p06bs.callbacks._fluorescence import FluorescenceSettings, column
from p06bs.callbacks._gain import GainFit, Range, gain_fit, place_nodes
from p06bs.callbacks._linear_fit import Fit, Model
from p06bs.callbacks._models import models
from p06bs.callbacks._pymca import (
    Configuration,
    Response,
    parse,
    response_of,
    set_background,
)
from p06bs.model.modality import Bound

Elements = slice | npt.NDArray[np.intp]


@dataclass(frozen=True)
class Group:
    """Detector elements that share a fit, because they have the same calibration."""

    elements: Elements
    fit: Fit
    gain: GainFit | None


def groups_of(settings: FluorescenceSettings, bound: Bound) -> tuple[Group, ...]:
    """Return the fits and the detector elements that each is for; masked ones have none.

    Raises
    ------
    ImportError, ValueError
        As `p06bs.callbacks._models.models`; ValueError also where settings have another
        number of detector elements than the spectra, or `track_gain` is not possible.
    """
    elements, channels = bound["spectrum"].shape
    if settings.sensitivity is not None and len(settings.sensitivity) != elements:
        raise ValueError(
            f"sensitivity: has {len(settings.sensitivity)} values, "
            f"the spectra have {elements} detector elements"
        )
    # Fits are kept, and what is not theirs makes no others.
    others = dict.fromkeys(("standard", "sensitivity", "saturation"))
    flags = {"normalise": False, "detection_limits": True, "gain_counts": 2000.0}
    return _groups(settings.model_copy(update=others | flags), elements, channels)


@lru_cache(maxsize=8)
def _groups(settings: FluorescenceSettings, elements: int, channels: int) -> tuple[Group, ...]:
    used = [i for i in range(elements) if i not in settings.masked]
    if not used or any(i >= elements for i in settings.masked):
        raise ValueError(
            f"masked: {settings.masked} leaves no detector element or names one that is not "
            f"there; the spectra have 0 to {elements - 1}"
        )
    described, limits = describe_fit(settings)
    responses = _responses(settings, response_of(described), elements)
    reference = None if settings.reference is None else np.array(settings.reference)
    spline = spline_spacing(settings)
    made = models(
        described,
        channels,
        [responses[i] for i in used],
        limits,
        reference=reference,
        spline=spline,
    )
    if len({model.peaks for model in made}) > 1:
        every = {p for model in made for p in model.peaks}
        some = set.intersection(*(set(model.peaks) for model in made))
        raise ValueError(
            f"{', '.join(sorted(every - some))} lies in the fitted range of some detector "
            "elements only; give an energy_range that all of them have"
        )
    top = max(model.offset + model.gain * model.stop for model in made)
    followed = Range(settings.gain_range, settings.zero_range)
    reach = followed.reach(min(float(model.energies.min()) for model in made))
    least = min(model.noise for model in made)
    nodes = place_nodes(reach, top, least, float(described["detector"]["fano"]))

    def tracked(model: Model) -> GainFit | None:
        """Return the fit that follows the gain of a detector element, if that is asked for."""
        if not settings.track_gain:
            return None
        references, drifted = _drifting(settings, described, model, channels)
        return gain_fit(model, drifted, references, nodes, reach, followed)

    return tuple(
        Group(alike, Fit.of(model), tracked(model))
        for model, alike in _alike(dict(zip(used, made, strict=True)))
    )


def describe_fit(
    settings: FluorescenceSettings,
) -> tuple[Configuration, tuple[float, float] | None]:
    """Return PyMca's configuration, and the fitted range, keV, where the settings give it."""
    limits = settings.energy_range
    if settings.config is not None:
        described = parse(settings.config)
        if settings.background is not None:
            set_background(described, settings.background)
            described["fit"]["linpolorder"] = settings.polynomial_order
        return described, limits
    assert settings.incident_energy is not None
    limits = limits or (1.0, 1.05 * settings.incident_energy)
    described = configuration(
        settings.elements,
        energy=settings.incident_energy,
        energy_range=limits,
        background=settings.background or "spline",
        polynomial_order=settings.polynomial_order,
        noise=settings.noise,
        fano=settings.fano,
        crystal=settings.crystal,
        crystal_thickness=settings.crystal_thickness,
        window_thickness=settings.window_thickness,
        air_path=settings.air_path,
        escape=settings.escape,
        scatter=settings.scatter,
        scattering_angle=settings.scattering_angle,
        angles=settings.angles,
    )
    return described, limits


def spline_spacing(settings: FluorescenceSettings) -> float:
    """Return the distance of the knots of a spline as continuum, keV; 0 without."""
    chosen = settings.background or ("spline" if settings.elements else None)
    return settings.spline_spacing if chosen == "spline" else 0.0


def peaks_of(groups: tuple[Group, ...]) -> tuple[str, ...]:
    """Return the peak groups, as PyMca names them."""
    return groups[0].fit.model.peaks


def _drifting(
    settings: FluorescenceSettings, described: Configuration, model: Model, channels: int
) -> tuple[tuple[int, ...], Callable[[list[float]], tuple[Model, ...]]]:
    """Return the places of the peak groups that tell the gain, and what makes models at gains."""
    columns = [column(peak) for peak in model.peaks]
    unknown = [name for name in settings.track_gain if name not in columns]
    if unknown:
        raise ValueError(
            f"track_gain: the fit has no peak group {', '.join(unknown)}; "
            f"it has {', '.join(columns)}"
        )
    if model.snip is not None:
        raise ValueError(
            "track_gain needs a continuum that is fitted: give background='linear', ..."
        )
    reference = None if settings.reference is None else np.array(settings.reference)

    def drifted(gains: list[float]) -> tuple[Model, ...]:
        """Return the models at relative gains, of the same channels."""
        return models(
            described,
            channels,
            [Response(model.offset, model.gain * (1 + gain), model.noise) for gain in gains],
            channel_range=(model.start, model.stop),
            reference=reference,
            spline=spline_spacing(settings),
        )

    return tuple(columns.index(name) for name in settings.track_gain), drifted


def _alike(models: dict[int, Model]) -> Iterator[tuple[Model, Elements]]:
    """Yield each model with the detector elements that share it."""
    for model in {id(m): m for m in models.values()}.values():
        elements = np.array([i for i, m in models.items() if m is model], np.intp)
        first, last = int(elements[0]), int(elements[-1])
        together = last - first + 1 == len(elements)  # a slice saves a copy of the spectra
        yield model, slice(first, last + 1) if together else elements


def _responses(
    settings: FluorescenceSettings, own: Response, elements: int
) -> tuple[Response, ...]:
    """Return how each detector element answers; `own` is what the configuration says."""
    calibrations = settings.calibration or (own[:2],)
    noises = settings.noises or (own.noise,)
    for name, values in (("calibration", calibrations), ("noises", noises)):
        if len(values) not in (1, elements):
            raise ValueError(f"{name}: there are {len(values)}, but {elements} detector elements")
    return tuple(
        Response(*calibrations[i % len(calibrations)], noises[i % len(noises)])
        for i in range(elements)
    )
