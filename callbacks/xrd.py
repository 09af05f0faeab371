"""Powder X-ray diffraction: patterns, cakes and ring sums of area-detector frames."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._faults import invalidate
from p06bs.callbacks._incident_flux import INCIDENT_FLUX, is_average, per_flux
from p06bs.callbacks._settings import require
from p06bs.callbacks._xrd_frames import integrate, limits, native
from p06bs.callbacks._xrd_geometry import HC
from p06bs.callbacks._xrd_integrator import (
    Bins,
    Pixels,
    bins_of,
    integrator,
    pixels_of,
    require_pyfai,
)
from p06bs.callbacks._xrd_rings import RingPixels, ring_pixels, ring_sums
from p06bs.callbacks._xrd_settings import SHOWN_AS, PowderSettings
from p06bs.model.documents import settings_digest
from p06bs.model.modality import PART, Bound, BoundInput, Columns, Input, Modality, Output

EXAMPLE = {"distance": 0.1, "poni1": 6e-3, "poni2": 6.8e-3, "wavelength": 1e-10, "pixel1": 2e-4}
EXAMPLE_SHAPE = (64, 64)

OTHER_ENERGY = 2e-3
"""Relative difference of photon energies from which q is wrong; motors and calibrations differ."""


@dataclass(frozen=True)
class Setup:
    """What `process` needs.

    `dark` is the dark counts in all bins, `energy` (keV) what q is made with; `key` tells patterns
    that may be averaged from others.
    """

    bins: Bins
    pixels: Pixels
    rings: Mapping[str, RingPixels]
    settings: PowderSettings
    i0_per_second: bool
    dark: float
    energy: float | None
    key: str

    def judge(self, invalid: int, total: float) -> str:
        """Return why a frame with so many invalid pixels and total counts is invalid, or ""."""
        used = self.bins.pixels
        if invalid >= np.ceil(self.settings.max_invalid * used):
            return f"{'all' if invalid == used else f'{invalid} of'} {used} used pixels are invalid"
        if self.dark > 0 and total < -self.dark / 2:
            return f"it has less than half of the {self.dark:g} dark counts"
        return ""


class PowderDiffraction(Modality):
    """Integrate frames around the beam: I(q) or I(2θ) with sigma, a cake, and ring sums.

    Pixels that are masked, dummies, saturated or not finite are left out, and their bins
    are divided by what remains. An event is invalid if no pixel is left (or too few, by
    `max_invalid`), or if it is to be normalised and the incident flux is not positive.
    """

    name = "xrd"
    Settings = PowderSettings

    frames = Input(role="diffraction", dims=("y", "x"), unit="counts")
    incident_flux = INCIDENT_FLUX
    exposure = Input(role="gate_time", unit="s", optional=True)
    photon_energy = Input(role="photon_energy", unit="keV", optional=True)

    @classmethod
    def warm_up(cls) -> None:
        """Import pyFAI, and compile or load what sums frames of the usual dtypes."""
        try:
            require_pyfai()
        except ImportError:
            return  # a run that needs it says so
        modality = cls(poni=EXAMPLE, bins=8, rings={"ring": (1, 3)})
        for dtype in ("<u2", "<u4", "<i4"):
            frames = np.ones((1, *EXAMPLE_SHAPE), dtype)
            feed = BoundInput("", "", False, EXAMPLE_SHAPE, EXAMPLE_SHAPE, dtype)
            modality.process(modality.prepare(modality.settings, {"frames": feed}), frames=frames)

    @classmethod
    def example(cls) -> tuple[Modality, Columns]:
        """Return an instance and columns to try it with."""
        rng = np.random.default_rng(0)
        y, x = np.indices(EXAMPLE_SHAPE)
        ring = np.exp(-0.5 * ((np.hypot(y - 30, x - 34) - 20) / 1.5) ** 2)
        frames = rng.poisson(2 + 50 * ring, (12, *EXAMPLE_SHAPE)).astype(np.uint16)
        frames[3, 10:20, 5] = 65535
        columns: dict[str, Array] = {
            "frames": frames,
            "incident_flux": rng.uniform(0.9e5, 1.1e5, 12),
            "exposure": np.full(12, 0.1),
            "photon_energy": np.full(12, 12.4),
        }
        ring_sums = {"ring": {"low": 2.0, "high": 3.0, "background": [(1.2, 1.6), (3.4, 4.0)]}}
        return cls(poni=EXAMPLE, bins=50, azimuthal_bins=12, rings=ring_sums), columns

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return intensity and sigma, the cake if asked for, and a sum per ring."""
        axis, _ = SHOWN_AS[settings.unit]
        unit = "counts"
        if settings.normalise and "incident_flux" in bound:
            unit = per_flux(bound["incident_flux"])
        mean = Output(
            unit=unit,
            shape=(settings.bins,),
            dims=(axis,),
            description="mean counts per pixel, corrected",
        )
        spread: dict[str, Any] = {"hinted": False, "description": "standard deviation"}
        made = {"intensity": mean, "sigma": replace(mean, **spread)}
        if settings.azimuthal_bins:
            shape = (settings.azimuthal_bins, settings.bins)
            cake = replace(mean, shape=shape, dims=("azimuth", axis), hinted=False)
            made |= {"cake": cake, "cake_sigma": replace(cake, **spread)}
        made["total"] = Output(unit=unit, description="counts in all bins")
        for name in settings.rings:
            made[name] = Output(unit=unit, description="counts in the ring")
            made[f"{name}_sigma"] = Output(unit=unit, hinted=False)
        for name, text in {
            "n_invalid": "used pixels without a valid value in this frame",
            "n_saturated": "of these, saturated",
        }.items():
            made[name] = Output(dtype="int64", hinted=False, description=text)
        return made

    def prepare(self, settings: Any, bound: Bound) -> Setup:
        """Return positions, norms and bins of all pixels; takes about a second per 2 Mpixel.

        Raises
        ------
        ImportError
            If pyFAI or numba is not installed.
        ValueError
            If the geometry, a mask or a picture does not match the frames, no pixel is
            left, a ring has no pixel, or the wavelength or an input that a setting needs
            is missing.
        """
        require_pyfai()
        from p06bs.callbacks._xrd_kernels import DARK, RUN

        per_second = False
        if settings.normalise:
            require(bound, "incident_flux", "normalise")
            per_second = is_average(bound["incident_flux"])
            if per_second:
                require(bound, "exposure", "normalise with an incident flux per second")
        shape = bound["frames"].shape
        geometry = settings.poni.at_energy(settings.energy, bound["frames"].beam)
        in_q = settings.unit != "2th_deg"
        if in_q and geometry.wavelength is None:
            raise ValueError(
                f"unit {settings.unit} needs the wavelength: in poni, energy (keV), or "
                "beam.energy in the start document of the run"
            )
        made = integrator(geometry, shape)
        pixels = pixels_of(settings, made, shape)
        bins = bins_of(settings, made, pixels, shape, RUN)
        return Setup(
            bins=bins,
            pixels=pixels,
            rings={
                name: ring_pixels(name, ring, settings.unit, pixels)
                for name, ring in settings.rings.items()
            },
            settings=settings,
            i0_per_second=per_second,
            dark=float(bins.full[DARK].sum()),
            energy=HC / geometry.wavelength if in_q and geometry.wavelength else None,
            key=settings_digest(settings.model_copy(update={"rings": {}})),
        )

    def process(
        self,
        setup: Setup,
        *,
        frames: Array,
        incident_flux: Array | None = None,
        exposure: Array | None = None,
        photon_energy: Array | None = None,
    ) -> Columns:
        """Return patterns, sums and numbers of invalid pixels, and a reason per bad event.

        I = Σ (counts - dark) / Σ norm over the valid pixels of a bin, with
        norm = solid angle · polarisation · flat; sigma = √(Σ counts) / Σ norm.
        """
        settings, bins, count = setup.settings, setup.bins, len(frames)
        valid = limits(settings, frames.dtype)
        frames = native(frames.reshape(count, -1))
        scale, reasons = _received(setup, count, incident_flux, exposure, photon_energy)
        found = integrate(frames, bins, setup.pixels, valid, scale, reasons, setup.judge)
        made: dict[str, Array] = {
            "intensity": found.patterns[:, 0],
            "sigma": found.patterns[:, 1],
        }
        if len(bins.azimuth):
            made |= {"cake": found.cakes[:, 0], "cake_sigma": found.cakes[:, 1]}
        made["total"] = found.total
        for name, ring in setup.rings.items():
            sums = ring_sums(ring, frames, setup.pixels.dark, valid)
            made[name], made[f"{name}_sigma"] = (column / scale for column in sums)
        made |= {"n_invalid": found.invalid, "n_saturated": found.saturated}
        part: Any = dict(zip(("signal", "variance", "norm", "maximum"), found.totals, strict=True))
        return {**invalidate(made, found.reasons), PART: part}

    def results(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return mean and maximum of the patterns of the run, and the axes of all outputs."""
        axis, axis_unit = SHOWN_AS[settings.unit]
        pattern = self.outputs(settings, bound)["intensity"]
        made = {
            "mean_intensity": replace(pattern, description="of the sums over all valid events"),
            "mean_sigma": replace(pattern, hinted=False, description="standard deviation"),
            "max_intensity": replace(pattern, description="largest of all valid events, by bin"),
            axis: Output(
                unit=axis_unit, shape=pattern.shape, dims=(axis,), hinted=False,
                description="centres of the radial bins",
            ),
        }  # fmt: skip
        if settings.azimuthal_bins:
            made["azimuth"] = Output(
                unit="deg", shape=(settings.azimuthal_bins,), dims=("azimuth",), hinted=False,
                description="centres of the azimuthal bins",
            )  # fmt: skip
        return made

    def fold(self, setup: Setup, state: Any, part: Any) -> Any:
        """Add up what bins got; begin anew when settings change, which patterns do not mix."""
        if state is None or state["key"] != setup.key:
            return {"key": setup.key, **part}
        made = {name: state[name] + part[name] for name in ("signal", "variance", "norm")}
        return {**made, "key": setup.key, "maximum": np.maximum(state["maximum"], part["maximum"])}

    def snapshot(self, setup: Setup, state: Any) -> Columns:
        """Return mean, its standard deviation and maximum; NaN in bins that got nothing."""
        there = state["norm"] > 0
        with np.errstate(all="ignore"):  # bins that got nothing become NaN
            mean = np.where(there, state["signal"] / state["norm"], np.nan)
            floor = np.maximum(state["variance"], 1)
            sigma = np.where(there, np.sqrt(floor) / state["norm"], np.nan)
        axis, _ = SHOWN_AS[setup.settings.unit]
        made = {
            "mean_intensity": mean,
            "mean_sigma": sigma,
            "max_intensity": np.where(there, state["maximum"], np.nan),
            axis: setup.bins.radial,
        }
        return made | ({"azimuth": setup.bins.azimuth} if len(setup.bins.azimuth) else {})


def _received(
    setup: Setup,
    count: int,
    incident_flux: Array | None,
    exposure: Array | None,
    photon_energy: Array | None,
) -> tuple[Floats, dict[int, str]]:
    """Return what each event is divided by, NaN with a reason where it is no number for that."""
    scale, reasons = np.ones(count), dict[int, str]()
    factors: list[tuple[str, Array]] = []
    if setup.settings.normalise and incident_flux is not None:
        factors.append(("incident flux is {:g}", incident_flux))
        if setup.i0_per_second and exposure is not None:
            factors.append(("exposure is {:g} s", exposure))
    for text, factor in factors:
        scale = scale * factor
        for k in np.flatnonzero(~((scale > 0) & (scale < np.inf))).tolist():
            reasons.setdefault(k, text.format(float(factor[k])))
    if setup.energy is not None and photon_energy is not None:
        apart = np.abs(photon_energy / setup.energy - 1)
        for k in np.flatnonzero(~(apart <= OTHER_ENERGY)).tolist():
            reasons.setdefault(
                k,
                f"photon energy is {photon_energy[k]:g} keV, but {setup.settings.unit} is that of "
                f"{setup.energy:g} keV; the unit 2th_deg is that of all energies",
            )
    scale[list(reasons)] = np.nan
    return scale, reasons
