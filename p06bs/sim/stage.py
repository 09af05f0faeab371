"""A scanning stage and the trigger box that captures its positions and counters.

The box is the clock of a fly scan: it fires one trigger per point and captures, at
the end of each gate, positions and counts, as a PandA does. What it captured comes
inside events. Detectors hang on it by a cable: they ask it what was triggered.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from bluesky.protocols import EventPageCollectable, HasHints, Hints, Pausable, Stoppable
from bluesky.utils import NoReplayAllowed
from event_model import DataKey, PartialEventPage
from ophyd_async.core import FlyableLogic, StandardFlyable

from p06bs.sim.beamline import Beamline
from p06bs.sim.clock import TriggerClock

Floats = npt.NDArray[np.float64]

LOOK_EVERY = 0.05
"""Seconds between two looks at the clock: points that fell due in between go together."""


class FlyPoints(Protocol):
    """What a plan prepares the box with.

    Nominal `x` and `y` (µm, shape ``(points,)``, in the order of acquisition),
    `rate` (points/s) and `gate_time` (s).
    """

    @property
    def x(self) -> Floats: ...
    @property
    def y(self) -> Floats: ...
    @property
    def rate(self) -> float: ...
    @property
    def gate_time(self) -> float: ...


@dataclass(frozen=True)
class Capture:
    """One thing that the box captures at every point."""

    role: str
    unit: str
    dtype: str


CAPTURES: Mapping[str, Capture] = {
    "x": Capture("position_x", "um", "<f8"),
    "y": Capture("position_y", "um", "<f8"),
    "i0": Capture("incident_flux", "counts", "<i8"),
    "diode": Capture("counter", "counts", "<i8"),
    "gate_time": Capture("gate_time", "s", "<f8"),
}


@dataclass
class TriggerLogic(FlyableLogic[FlyPoints, TriggerClock]):
    """Fire a trigger per point, by the wall clock."""

    beamline: Beamline
    points: FlyPoints | None = None
    clock: TriggerClock | None = None
    collected: int = 0
    wall_minus_monotonic: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    async def on_prepare(self, value: FlyPoints) -> TriggerClock:
        """Take the points of the next scan.

        Raises
        ------
        ValueError
            If x and y are not 1-D and of one length, or rate or gate time make no sense.
        """
        if value.x.ndim != 1 or value.x.shape != value.y.shape:
            raise ValueError(
                f"x and y must be 1-D and of one length, not {value.x.shape} and {value.y.shape}"
            )
        # At an infinite rate the gate is only what the counts are drawn for.
        longest = 1 / value.rate if np.isfinite(value.rate) else np.inf
        if not 0 < value.gate_time <= longest * (1 + 1e-9):
            raise ValueError(
                f"a gate of {value.gate_time:g} s does not fit into {value.rate:g} points/s"
            )
        self.points, self.collected = value, 0
        self.clock = TriggerClock(value.x.size, value.rate)
        return self.clock

    async def on_kickoff(self, ctx: TriggerClock) -> TriggerClock:
        """Start the clock."""
        now = time.monotonic()
        self.wall_minus_monotonic = time.time() - now
        ctx.start(now)
        return ctx

    async def on_complete(self, ctx: TriggerClock) -> None:
        """Wait for the last point."""
        self.idle.clear()
        try:
            while not ctx.ended(time.monotonic()):
                await asyncio.sleep(LOOK_EVERY)
        finally:
            self.idle.set()

    async def stop(self) -> None:
        """Fire no more triggers; return when nobody waits for one any more."""
        if self.clock is not None:
            self.clock.end(time.monotonic())
        await self.idle.wait()

    async def triggered(self, beyond: int) -> int:
        """Wait until more than `beyond` points are finished; return how many are.

        Returns `beyond` if no further point will come.
        """
        if self.clock is None:
            raise RuntimeError("the trigger box was not prepared")
        while (count := self.clock.count(time.monotonic())) <= beyond:
            if self.clock.ended(time.monotonic()):
                return beyond
            await asyncio.sleep(LOOK_EVERY)
        return count

    @property
    def prepared(self) -> FlyPoints:
        """The points of this scan.

        Raises
        ------
        RuntimeError
            If there are none yet.
        """
        if self.points is None:
            raise RuntimeError("the trigger box was not prepared")
        return self.points

    def positions(self, first: int, stop: int) -> tuple[Floats, Floats]:
        """Return the actual positions of the points in ``range(first, stop)``, µm."""
        x, y = (axis[first:stop] for axis in (self.prepared.x, self.prepared.y))
        return self.beamline.positions(range(first, stop), x, y)

    def capture(self, first: int, stop: int) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of `CAPTURES` for the points in ``range(first, stop)``."""
        x, y = self.positions(first, stop)
        gate_time = self.prepared.gate_time
        i0, diode = self.beamline.counters(range(first, stop), x, y, gate_time)
        return {"x": x, "y": y, "i0": i0, "diode": diode, "gate_time": np.full(x.size, gate_time)}


class TriggerBox(
    StandardFlyable[FlyPoints, TriggerClock], EventPageCollectable, HasHints, Stoppable, Pausable
):
    """A stage on a trajectory and the box that triggers detectors along it.

    `prepare` takes `FlyPoints`; `kickoff` starts the clock; `collect_pages` gives
    the points captured since the last call as one event page. While the RunEngine
    is paused no triggers are fired; on resume the scan goes on where it was, and
    nothing is repeated (`pause` tells the RunEngine so).
    """

    def __init__(self, beamline: Beamline, name: str = "") -> None:
        self._beamline = beamline
        super().__init__(name=name)

    @cached_property
    def flyable_logic(self) -> TriggerLogic:
        """How it flies; detectors that hang on its cable use this."""
        return TriggerLogic(self._beamline)

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role, for the start document's table of devices."""
        return {f"{self.name}-{key}": capture.role for key, capture in CAPTURES.items()}

    @property
    def hints(self) -> Hints:
        """Show the counters by default."""
        return Hints(fields=[f"{self.name}-i0", f"{self.name}-diode"])

    async def describe_collect(self) -> dict[str, DataKey]:
        """Describe the captured values."""
        return {
            f"{self.name}-{key}": DataKey(
                source=f"sim://{self.name}/{key}",
                dtype="number" if capture.dtype == "<f8" else "integer",
                dtype_numpy=capture.dtype,
                shape=[],
                units=capture.unit,
            )
            for key, capture in CAPTURES.items()
        }

    async def collect_pages(self) -> AsyncIterator[PartialEventPage]:
        """Yield what was captured since the last call, if anything."""
        logic = self.flyable_logic
        if logic.clock is None:
            return
        now = time.monotonic()
        first, stop = logic.collected, logic.clock.count(now)
        if stop == first:
            return
        columns = logic.capture(first, stop)
        logic.collected = stop
        times = [
            logic.wall_minus_monotonic + min(logic.clock.due(i), now) for i in range(first, stop)
        ]
        yield PartialEventPage(
            time=times,
            data={f"{self.name}-{key}": column.tolist() for key, column in columns.items()},
            timestamps={f"{self.name}-{key}": times for key in columns},
        )

    async def pause(self) -> None:
        """Fire no triggers until `resume`.

        Raises
        ------
        NoReplayAllowed
            If a scan was started: the RunEngine then repeats no messages. Repeated
            ones would give new points the numbers of those already collected.
        """
        clock = self.flyable_logic.clock
        if clock is not None and clock.running:
            clock.hold(time.monotonic())
            raise NoReplayAllowed(f"{self.name} goes on where it was paused")

    async def resume(self) -> None:
        """Go on after `pause`."""
        if self.flyable_logic.clock is not None:
            self.flyable_logic.clock.release(time.monotonic())

    async def stop(self, success: bool = True) -> None:
        """Fire no more triggers in this scan."""
        await self.flyable_logic.stop()
