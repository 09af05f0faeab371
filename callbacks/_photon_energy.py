"""The photon energy that events were taken at, where what is made of them depends on it."""

import numpy as np

from p06bs.callbacks._arrays import Array
from p06bs.model.modality import Input

PHOTON_ENERGY = Input(role="photon_energy", unit="keV", optional=True)

OTHER_ENERGY = 2e-3
"""Relative difference from which energies differ; motors and calibrations do so, too."""


def other_energies(photon_energy: Array, energy: float, text: str) -> dict[int, str]:
    """Return the events that were not taken at an energy (keV), with the reason why they are bad.

    `text` says, after a comma, what has that energy.
    """
    apart = np.abs(photon_energy / energy - 1)
    return {
        k: f"photon energy is {photon_energy[k]:g} keV, {text}"
        for k in np.flatnonzero(~(apart <= OTHER_ENERGY)).tolist()
    }
