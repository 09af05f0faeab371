"""What surrounds an experiment: the storage ring, the beam shutter and the air in the hutch.

Their values stay as they are until somebody sets them, as a test of a beam loss does; what the
ring stores and the shutter lets through is what detectors see then. Only top-up goes by the clock.
"""

import time
from collections.abc import Callable
from typing import Any

from bluesky.protocols import Reading
from ophyd_async.core import (
    SignalR,
    SoftSignalBackend,
    StandardReadable,
    StrictEnum,
    soft_signal_r_and_setter,
    soft_signal_rw,
)
from ophyd_async.core import StandardReadableFormat as Format

from p06bs.sim.beam import Beam
from p06bs.sim.beamline import DARK_RATE, MONITOR_RATE, RING_CURRENT, TOP_UP_PERIOD
from p06bs.sim.metrology import Air

INJECTION = 0.2
"""Seconds that an injection takes."""

LOOK_EVERY = 0.02
"""Seconds between two looks at the ring's clock while somebody watches."""


class ShutterState(StrictEnum):
    """Where the shutter is."""

    OPEN = "open"
    CLOSED = "closed"


class Ring(StandardReadable):
    """The storage ring: `current` (mA) right after an injection, and `energy` (GeV).

    `injecting` and `countdown`, the seconds until the next injection, go by the clock: they are
    there to be watched by plans and suspenders. What the current loses between two injections
    goes by the points of a scan, so that scans can be made again.

    Parameters
    ----------
    beam : Beam, optional
        What it stores into.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        beam: Beam | None = None,
        name: str = "",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._beam = beam or Beam()
        self._clock = clock
        with self.add_children_as_readables(Format.HINTED_SIGNAL):
            self.current = soft_signal_rw(float, RING_CURRENT, units="mA", precision=3)
        with self.add_children_as_readables():
            self.countdown = SignalR(
                SoftSignalBackend(float, units="s", getter=self._left, poll_period=LOOK_EVERY)
            )
            self.injecting = SignalR(
                SoftSignalBackend(bool, getter=self._injects, poll_period=LOOK_EVERY)
            )
        with self.add_children_as_readables(Format.CONFIG_SIGNAL):
            self.energy = soft_signal_rw(float, 6.0, units="GeV")
        super().__init__(name=name)

    async def connect(self, *args: Any, **kwargs: Any) -> None:
        """Connect; from now on the beam follows the current."""
        await super().connect(*args, **kwargs)
        self.current.subscribe_reading(self._store)

    def _left(self) -> float:
        """Return the seconds until the next injection; 0 while there is one."""
        since = self._clock() % TOP_UP_PERIOD  # the last one began
        return 0.0 if since < INJECTION else TOP_UP_PERIOD - since

    def _injects(self) -> bool:
        return self._left() == 0

    def _store(self, reading: dict[str, Reading[float]]) -> None:
        current = reading[self.current.name]["value"]
        self._beam.change(stored=max(current, 0.0) / RING_CURRENT)

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {f"{self.name}-current": "ring_current"}


class Shutter(StandardReadable):
    """The beam shutter: `state` is open or closed, `flux` (counts/s) what I0 would count behind it.

    Parameters
    ----------
    beam : Beam, optional
        What it lets through.
    """

    def __init__(self, beam: Beam | None = None, name: str = "") -> None:
        self._beam = beam or Beam()
        with self.add_children_as_readables():
            self.state = soft_signal_rw(ShutterState, ShutterState.OPEN)
            self.flux, self._tell = soft_signal_r_and_setter(float, units="counts/s")
        super().__init__(name=name)

    async def connect(self, *args: Any, **kwargs: Any) -> None:
        """Connect; from now on the beam follows the state."""
        await super().connect(*args, **kwargs)
        self._beam.watch(self._measure)
        self.state.subscribe_reading(self._let_through)

    def _measure(self) -> None:
        self._tell(MONITOR_RATE * self._beam.stored * self._beam.passed + DARK_RATE)

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
