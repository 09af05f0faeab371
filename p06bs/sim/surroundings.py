"""What surrounds an experiment: the storage ring, the beam shutter and the air in the hutch.

Their values stay as they are until somebody sets them, as a test of a beam loss does.
"""

from ophyd_async.core import StandardReadable, StrictEnum, soft_signal_rw
from ophyd_async.core import StandardReadableFormat as Format

from p06bs.sim.beamline import RING_CURRENT
from p06bs.sim.metrology import Air


class ShutterState(StrictEnum):
    """Where the shutter is."""

    OPEN = "open"
    CLOSED = "closed"


class Ring(StandardReadable):
    """The storage ring: `current` (mA) and `energy` (GeV)."""

    def __init__(self, name: str = "") -> None:
        with self.add_children_as_readables(Format.HINTED_SIGNAL):
            self.current = soft_signal_rw(float, RING_CURRENT, units="mA", precision=3)
        with self.add_children_as_readables(Format.CONFIG_SIGNAL):
            self.energy = soft_signal_rw(float, 6.0, units="GeV")
        super().__init__(name=name)

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {f"{self.name}-current": "ring_current"}


class Shutter(StandardReadable):
    """The beam shutter: `state` is open or closed."""

    def __init__(self, name: str = "") -> None:
        with self.add_children_as_readables():
            self.state = soft_signal_rw(ShutterState, ShutterState.OPEN)
        super().__init__(name=name)

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
