"""What the maps of a phantom are made of: elements, depth, light and charge."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A plane-parallel layer of the sample; its map of weights says how much is where.

    Parameters
    ----------
    elements : mapping of str to float
        Chemical symbol -> areal mass density where the weight is 1, along the beam at
        angle 0, ng/mm². They fill the layer evenly in depth.
    depth : tuple of float
        Where the layer begins and ends along the beam at angle 0, µm from the
        rotation axis.
    luminescence : float
        Visible photons emitted per incident X-ray photon where the weight is 1.
    collection : float
        Fraction, 0..1, of the charge generated in this layer that is collected.
    crystal : str, optional
        What makes powder rings, a name in `p06bs.sim.crystals.CRYSTALS`.

    Raises
    ------
    ValueError
        If a number is out of range, or the layer has no depth.
    """

    elements: Mapping[str, float]
    depth: tuple[float, float] = (-0.5, 0.5)
    luminescence: float = 0.0
    collection: float = 0.0
    crystal: str | None = None

    def __post_init__(self) -> None:
        for element, density in self.elements.items():
            if not 0 <= density < float("inf"):
                raise ValueError(f"{element} must have 0 or more ng/mm², not {density}")
        if not self.depth[0] < self.depth[1]:
            raise ValueError(f"a layer must end behind its begin, not {self.depth} µm")
        if not (self.luminescence >= 0 and 0 <= self.collection <= 1):
            raise ValueError(
                "luminescence must be 0 or more and collection within 0..1, "
                f"not {self.luminescence} and {self.collection}"
            )

    @property
    def thickness(self) -> float:
        """Depth of the layer, µm."""
        return self.depth[1] - self.depth[0]


LAYERS: Mapping[str, Layer] = {
    # A multi-element film with a calibrant's powder on a polymer foil.
    "XRFSpectrum": Layer(
        {
            **{"C": 3000.0, "O": 1000.0},
            **{"Co": 400.0, "Cu": 400.0, "Zn": 400.0, "Se": 400.0, "Sr": 400.0},
        },
        depth=(-4.0, 0.0),
        luminescence=2e-3,
        collection=0.92,
        crystal="LaB6",
    ),
    # 2 µm of stainless steel.
    "Steel": Layer(
        {"Cr": 2800.0, "Mn": 310.0, "Fe": 11000.0, "Ni": 1400.0},
        depth=(0.0, 2.0),
        luminescence=4e-4,
        collection=0.55,
        crystal="austenite",
    ),
}
"""Name of a map -> what it is made of, for maps that say nothing else."""
