"""Counters: counting rates with dead-time correction, and photon flux from a diode or chamber."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from p06bs.callbacks._arrays import Array, Floats
from p06bs.callbacks._count_rates import BLOCK, Setup, rates_of, why_bad
from p06bs.callbacks._faults import invalidate
from p06bs.callbacks._settings import NotNegative, Positive, require_inputs
from p06bs.model.modality import (
    RESERVED,
    Bound,
    Columns,
    Input,
    Modality,
    ModalitySettings,
    Output,
)

ELEMENTARY_CHARGE = 1.602176634e-19
"""C (exact, SI 2019)."""


class PhotonFlux(ModalitySettings):
    """Say how a channel's rate becomes a photon flux.

    flux = rate · charge_per_count · pair_energy / (e · photon_energy · absorbed_fraction)
    """

    channel: int = Field(0, ge=0, description="index of the counter channel")
    charge_per_count: Positive = Field(
        description="C per count: preamplifier gain (A/V) divided by V-to-f gain (Hz/V)"
    )
    pair_energy: Positive = Field(
        3.66, description="eV per electron-hole or ion pair (Si 3.66, N2 34.8, Ar 26.4, air 33.97)"
    )
    photon_energy: float | None = Field(
        None, ge=0.1, le=1000, description="keV; None: as the run says, event by event"
    )
    absorbed_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the photons that the sensor absorbs, 1 - exp(-µd)"
    )

    @property
    def photons_per_count(self) -> float:
        """Return the number of photons that one count stands for; without an energy, at 1 keV."""
        absorbed_energy = 1e3 * (self.photon_energy or 1.0) * self.absorbed_fraction
        return self.charge_per_count * self.pair_energy / (ELEMENTARY_CHARGE * absorbed_energy)


def _column(key: str) -> str:
    """Return the name of the column that a data key has: without dots, slashes and spaces."""
    return re.sub(r"[./\s]", "_", key)


def _input(key: str) -> str:
    """Return the name of the input that a data key has."""
    return f"counts_{_column(key)}"


class Counters(Modality):
    """Turn counts into rates: dead time, dark rate, gain; optionally into photon flux.

    Channels are those of one data key, or several data keys (`keys`), each of which is one.

    An event is invalid if its gate time is not positive, or if one of the used
    channels is not finite, negative, or as fast as its dead time allows
    (observed rate · dead time ≥ 1, which has no solution), or, where the photon flux
    is that of the run's photon energy, if that is not positive and finite.
    """

    name = "counters"

    class Settings(ModalitySettings):
        """Settings per channel: one number for all, or one per used channel."""

        keys: tuple[str, ...] = Field(
            (), description="data keys of counters, each a channel; none: one key with channels"
        )
        dead_time: NotNegative | tuple[NotNegative, ...] = Field(0.0, description="s, of one count")
        model: Literal["nonparalyzable"] = Field(
            "nonparalyzable", description="a count during the dead time does not prolong it"
        )
        dark: NotNegative | tuple[NotNegative, ...] = Field(
            0.0, description="counts/s without beam, subtracted after the dead-time correction"
        )
        gain: Positive | tuple[Positive, ...] = Field(
            1.0, description="counts per particle; rates are divided by it"
        )
        channels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
            None, min_length=1, description="channels to use; None: all"
        )
        flag_above: float = Field(
            0.3, gt=0, le=1, description="observed rate · dead time from which `flag` is set"
        )
        photon_flux: PhotonFlux | None = Field(None, description="how a rate becomes photons/s")

        @model_validator(mode="after")
        def _distinct(self) -> "Counters.Settings":
            taken = {"flux", "flux_sigma", *RESERVED}
            for key, own in zip(self.keys, _columns(self.keys), strict=False):
                if not key or taken & {*own}:
                    raise ValueError(
                        f"keys: {key!r} is there twice, or makes a column of a name that is taken"
                    )
                taken |= {*own}
            if self.channels is not None and len({*self.channels}) < len(self.channels):
                raise ValueError(f"channels: {list(self.channels)} has one twice")
            if self.keys and self.channels is not None:
                raise ValueError("keys and channels: name the used data keys as keys only")
            return self

    def __init__(self, /, *, inputs: Mapping[str, str] | None = None, **settings: Any) -> None:
        keys = self.validate(settings).keys  # type: ignore[attr-defined]
        super().__init__(inputs={_input(key): key for key in keys} | dict(inputs or {}), **settings)

    @classmethod
    def declare(cls, settings: Any) -> dict[str, Input]:
        """Return one input with channels, or one for each of `keys`; gate time, photon energy."""
        made = {_input(key): Input(role="counter", unit="counts") for key in settings.keys}
        if not made:
            made["counts"] = Input(role="counter", dims=("channel",), unit="counts")
        made["gate_time"] = Input(role="gate_time", unit="s")
        if settings.photon_flux is not None and settings.photon_flux.photon_energy is None:
            made["photon_energy"] = Input(role="photon_energy", unit="keV", constant=True)
        return made

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return rate, its sigma and flag per used channel, and the flux if it was asked for.

        With `keys` there are columns for each, named like it.
        """
        shape: tuple[int, ...] = ()
        if not settings.keys:
            shape = (len(settings.channels or range(bound["counts"].shape[-1])),)
        dims = ("channel",) if shape else ()
        made = {}
        for rate, sigma, flag in _columns(settings.keys):
            made[rate] = Output(unit="1/s", shape=shape, dims=dims, description="true rate")
            made[sigma] = Output(
                unit="1/s", shape=shape, dims=dims, hinted=False, description="standard deviation"
            )
            made[flag] = Output(
                dtype="uint8",
                shape=shape,
                dims=dims,
                hinted=False,
                description="1: dead-time correction larger than trusted",
            )
        if settings.photon_flux is not None:
            made["flux"] = Output(unit="1/s", description="photons per second on the sensor")
            made["flux_sigma"] = Output(unit="1/s", hinted=False, description="standard deviation")
        return made

    def prepare(self, settings: Any, bound: Bound) -> Setup:
        """Return the constants per channel.

        Raises
        ------
        ValueError
            If the source lacks a channel, or a setting has another number of values
            than channels are used.
        """
        require_inputs("keys", self.declare(settings), bound)
        there = len(settings.keys) or bound["counts"].shape[-1]
        used = tuple(range(there)) if settings.channels is None else settings.channels
        missing = [c for c in used if c >= there]
        if missing:
            raise ValueError(
                f"channels: {bound['counts'].data_key} has channels 0 to {there - 1}, "
                f"not {', '.join(map(str, missing))}"
            )
        flux: PhotonFlux | None = settings.photon_flux
        if flux is not None and flux.channel not in used:
            raise ValueError(
                f"photon_flux.channel: {flux.channel} is not among the channels {used}"
            )

        def per_channel(name: str) -> Floats:
            value = np.atleast_1d(np.asarray(getattr(settings, name), np.float64))
            if value.size not in (1, len(used)):
                raise ValueError(
                    f"{name}: has {value.size} values, but {len(used)} channels are used"
                )
            return np.broadcast_to(value, (len(used),))

        return Setup(
            keys=settings.keys,
            channels=None if settings.channels is None else np.array(used, np.intp),
            dead_time=per_channel("dead_time"),
            dark=per_channel("dark"),
            gain=per_channel("gain"),
            flag_above=settings.flag_above,
            flux_index=0 if flux is None else used.index(flux.channel),
            photons_per_count=0.0 if flux is None else flux.photons_per_count,
        )

    def process(
        self,
        setup: Setup,
        *,
        gate_time: Array,
        counts: Array | None = None,
        photon_energy: Array | None = None,
        **keys: Array,
    ) -> Columns:
        """Return rates, (events, channels) or (events,) of each key, 1/s, and a reason per bad one.

        With the observed rate n = N/t the true rate is r = n/(1 - nτ) and its
        standard deviation r/√N, because dead time narrows the distribution of N to
        N(1 - nτ)² (J. W. Müller, Nucl. Instrum. Methods 112 (1973) 47). N = 0
        counts as 1 here.
        """
        if counts is None:
            counts = np.stack([keys[_input(key)] for key in setup.keys], axis=1)
        if setup.channels is not None:
            counts = counts[:, setup.channels]
        rate, sigma = np.empty(counts.shape), np.empty(counts.shape)
        flag = np.zeros(counts.shape, np.uint8)
        bad = np.zeros(len(counts), bool)
        with np.errstate(all="ignore"):  # what it would warn of is flagged as invalid
            for at in (slice(i, i + BLOCK) for i in range(0, len(counts), BLOCK)):
                bad[at] = rates_of(
                    setup, counts[at], gate_time[at], (rate[at], sigma[at], flag[at])
                )
        made: dict[str, Array] = {}
        reasons: dict[int, str] = {}
        found: tuple[Array, Array, Array] = (rate, sigma, flag)
        for i, names in enumerate(_columns(setup.keys)):
            own = (values[:, i].copy() for values in found) if setup.keys else found
            made.update(zip(names, own, strict=True))
        if setup.photons_per_count:
            # Photons are counted per count, not per particle, so the gain is undone.
            i = setup.flux_index
            factor: Any = setup.photons_per_count * float(setup.gain[i])
            if photon_energy is not None:
                reasons = _no_energies(photon_energy)
                with np.errstate(all="ignore"):  # likewise
                    factor = factor / photon_energy
            made["flux"], made["flux_sigma"] = rate[:, i] * factor, sigma[:, i] * factor
        for event in np.flatnonzero(bad).tolist():
            reasons[event] = "; ".join(why_bad(setup, counts[event], float(gate_time[event])))
        return invalidate(made, reasons)


def _no_energies(photon_energy: Array) -> dict[int, str]:
    """Return the events of which a photon energy (keV) gives no flux, and why."""
    bad = np.flatnonzero(~((photon_energy > 0) & (photon_energy < np.inf)))
    return {k: f"photon energy is {float(photon_energy[k]):g} keV" for k in bad.tolist()}


def _columns(keys: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Return the names of the columns of rates, sigmas and flags: for each key, or one set."""
    if not keys:
        return [("rate", "rate_sigma", "flag")]
    return [(name, f"{name}_sigma", f"{name}_flag") for name in map(_column, keys)]
