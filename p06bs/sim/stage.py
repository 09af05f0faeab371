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

from bluesky.protocols import (
    Configurable,
    EventPageCollectable,
    HasHints,
    Hints,
    Pausable,
    Reading,
    Stoppable,
)
from bluesky.utils import NoReplayAllowed
from event_model import DataKey, Dtype, PartialEventPage
from ophyd_async.core import FlyableLogic, StandardFlyable

from p06bs.sim.beamline import Beamline
from p06bs.sim.clock import TriggerClock
from p06bs.sim.trajectory import CAPTURES, FlyPoints, Stage, Trajectory

LOOK_EVERY = 0.05
"""Seconds between two looks at the clock: points that fell due in between go together."""

DTYPES: Mapping[str, Dtype] = {"f": "number", "i": "integer", "b": "boolean"}
"""Kind of a numpy dtype -> the dtype in a data key."""


@dataclass
class TriggerLogic(FlyableLogic[FlyPoints, TriggerClock]):
    """Fire a trigger per point, by the wall clock."""

    beamline: Beamline
    stage: Stage | None = None
    trajectory: Trajectory | None = None
    clock: TriggerClock | None = None
    collected: int = 0
    wall_minus_monotonic: float = 0.0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()
        if self.stage is not None:
            self.stage.beam.watch(self.beam_changed)

    async def on_prepare(self, value: FlyPoints) -> TriggerClock:
        """Take the points of the next scan.

        Raises
        ------
        ValueError
            As of `Trajectory` and `Metrology.samples`.
        """
        self.beamline.metrology.samples((), value.gate_time)
        if self.stage is None:
            self.trajectory = Trajectory(self.beamline, value)
        else:
            self.trajectory = Trajectory(self.stage.set_up(self.beamline), value, self.stage.places)
        self.collected = 0
        self.clock = TriggerClock(len(self.trajectory), value.rate)
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

    def beam_changed(self) -> None:
        """Have the rest of a scan see the beam that there is now."""
        if self.stage is not None and self.trajectory is not None and self.clock is not None:
            now, beam = time.monotonic(), self.stage.beam
            # What is finished stays as it was.
            point = max(self.clock.progress(now), self.clock.count(now))
            self.trajectory.beamline.beam.change(point, beam.stored, beam.passed)

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

    def standing(self, point: int, gate_time: float) -> Trajectory:
        """Return the path of one point of a step scan, where the motors are now.

        Raises
        ------
        RuntimeError
            If the box knows no motors.
        """
        if self.stage is None:
            raise RuntimeError("step scans need the box to know a stage: TriggerBox(..., stage)")
        return self.stage.standing(self.beamline, point, gate_time)

    @property
    def prepared(self) -> Trajectory:
        """The points of this scan.

        Raises
        ------
        RuntimeError
            If there are none yet.
        """
        if self.trajectory is None:
            raise RuntimeError("the trigger box was not prepared")
        return self.trajectory


class TriggerBox(
    StandardFlyable[FlyPoints, TriggerClock],
    EventPageCollectable,
    Configurable[float],
    HasHints,
    Stoppable,
    Pausable,
):
    """A stage on a trajectory and the box that triggers detectors along it.

    `prepare` takes `FlyPoints`; `kickoff` starts the clock; `collect_pages` gives
    the points captured since the last call as one event page. While the RunEngine
    is paused no triggers are fired; on resume the scan goes on where it was, and
    nothing is repeated (`pause` tells the RunEngine so).

    Parameters
    ----------
    beamline : Beamline
        What there is to see.
    stage : Stage, optional
        Motors and beam. Axes that a flight does not move stay where they are when it is
        prepared; after it those that it moved are back where they were. Ring and shutter may
        change meanwhile. Detectors on the box make step scans with it.
    """

    def __init__(self, beamline: Beamline, stage: Stage | None = None, name: str = "") -> None:
        self._beamline = beamline
        self._stage = stage
        super().__init__(name=name)

    @cached_property
    def flyable_logic(self) -> TriggerLogic:
        """How it flies; detectors that hang on its cable use this."""
        return TriggerLogic(self._beamline, self._stage)

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
                dtype=DTYPES[capture.dtype[1]],
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
        columns = logic.prepared.capture(first, stop)
        logic.collected = stop
        times = [
            logic.wall_minus_monotonic + min(logic.clock.due(i), now) for i in range(first, stop)
        ]
        yield PartialEventPage(
            time=times,
            data={f"{self.name}-{key}": column.tolist() for key, column in columns.items()},
            timestamps={f"{self.name}-{key}": times for key in columns},
        )

    async def describe_configuration(self) -> dict[str, DataKey]:
        """Describe what a user of encoders and interferometers must know."""
        return {
            f"{self.name}-{key}": DataKey(
                source=f"sim://{self.name}/{key}",
                dtype="number",
                dtype_numpy="<f8",
                shape=[],
                units=unit,
            )
            for key, (_, unit) in self._beamline.metrology.configuration().items()
        }

    async def read_configuration(self) -> dict[str, Reading[float]]:
        """Return resolutions, offsets and wavelength."""
        now = time.time()
        return {
            f"{self.name}-{key}": Reading(value=float(value), timestamp=now)
            for key, (value, _) in self._beamline.metrology.configuration().items()
        }

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
