"""What surrounds an experiment: the storage ring, the beam shutter and the air in the hutch.

Their values stay as they are until somebody sets them, as a test of a beam loss does; what the
ring stores and the shutter lets through is what detectors see then.
"""

from typing import Any

from bluesky.protocols import Reading
from ophyd_async.core import StandardReadable, StrictEnum, soft_signal_rw
from ophyd_async.core import StandardReadableFormat as Format

from p06bs.sim.beam import Beam
from p06bs.sim.beamline import RING_CURRENT
from p06bs.sim.metrology import Air


class ShutterState(StrictEnum):
    """Where the shutter is."""

    OPEN = "open"
    CLOSED = "closed"


class Ring(StandardReadable):
    """The storage ring: `current` (mA) right after an injection, and `energy` (GeV).

    Parameters
    ----------
    beam : Beam, optional
        What it stores into.
    """

    def __init__(self, beam: Beam | None = None, name: str = "") -> None:
        self._beam = beam or Beam()
        with self.add_children_as_readables(Format.HINTED_SIGNAL):
            self.current = soft_signal_rw(float, RING_CURRENT, units="mA", precision=3)
        with self.add_children_as_readables(Format.CONFIG_SIGNAL):
            self.energy = soft_signal_rw(float, 6.0, units="GeV")
        super().__init__(name=name)

    async def connect(self, *args: Any, **kwargs: Any) -> None:
        """Connect; from now on the beam follows the current."""
        await super().connect(*args, **kwargs)
        self.current.subscribe_reading(self._store)

    def _store(self, reading: dict[str, Reading[float]]) -> None:
        current = reading[self.current.name]["value"]
        self._beam.change(stored=max(current, 0.0) / RING_CURRENT)

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {f"{self.name}-current": "ring_current"}


class Shutter(StandardReadable):
    """The beam shutter: `state` is open or closed.

    Parameters
    ----------
    beam : Beam, optional
        What it lets through.
    """

    def __init__(self, beam: Beam | None = None, name: str = "") -> None:
        self._beam = beam or Beam()
        with self.add_children_as_readables():
            self.state = soft_signal_rw(ShutterState, ShutterState.OPEN)
        super().__init__(name=name)

    async def connect(self, *args: Any, **kwargs: Any) -> None:
        """Connect; from now on the beam follows the state."""
        await super().connect(*args, **kwargs)
        self.state.subscribe_reading(self._let_through)

    def _let_through(self, reading: dict[str, Reading[ShutterState]]) -> None:
        is_open = reading[self.state.name]["value"] == ShutterState.OPEN
        self._beam.change(passed=float(is_open))

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {f"{self.name}-state": "shutter"}


class Hutch(StandardReadable):
    """The air in the hutch: `temperature` (°C), `pressure` (hPa), `humidity` (%)."""

    def __init__(self, air: Air | None = None, name: str = "") -> None:
        air = air or Air()
        with self.add_children_as_readables():
            self.temperature = soft_signal_rw(float, air.temperature, units="degC")
            self.pressure = soft_signal_rw(float, air.pressure, units="hPa")
            self.humidity = soft_signal_rw(float, air.humidity, units="%")
        super().__init__(name=name)

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {
            f"{self.name}-{key}": f"air_{key}" for key in ("temperature", "pressure", "humidity")
        }
