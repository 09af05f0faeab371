"""How detectors look at each point of a step scan, and for how long."""

from collections.abc import Iterator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg, MsgGenerator

from p06bs.plans._arguments import positive
from p06bs.plans.preprocessors import before, mutated
from p06bs.plans.rewinds import without_superseded

PRESETS = ("preset_time", "count_time", "acquire_time", "exposure_time")
"""Names of the signal with a detector's time per point, as ophyd's devices have it."""


def set_dwell(detectors: Sequence[Any], dwell: float) -> Iterator[Msg]:
    """Have all detectors look for so many seconds per point from now on.

    Where a device is configured, its new configuration is recorded in a new descriptor; detectors
    of ophyd-async are prepared, and have forgotten it when they are staged.

    Raises
    ------
    ValueError
        If the time is not positive.
    """
    positive(dwell=dwell)
    for detector in detectors:
        preset = next((name for name in PRESETS if hasattr(detector, name)), None)
        if preset is not None:
            yield from bps.configure(detector, {preset: dwell})
        elif hasattr(detector, "prepare") and hasattr(detector, "trigger"):
            from ophyd_async.core import TriggerInfo

            yield from bps.prepare(detector, TriggerInfo(livetime=dwell), wait=True)


def in_steps(
    plan: MsgGenerator[Any], detectors: Sequence[Any], dwell: float | None
) -> MsgGenerator[Any]:
    """Return a plan of steps whose points may be measured again.

    It sets the time per point before each of its runs; None leaves it.
    """

    def insert(msg: Msg) -> tuple[Any, Any]:
        if msg.command == "open_run" and dwell is not None:
            return before(set_dwell(detectors, dwell), msg), None
        if msg.command == "close_run" and msg.kwargs.get("exit_status") is None:
            # No later pause repeats what belongs into a closed run.
            return before(bps.checkpoint(), msg), None
        return None, None

    return (yield from without_superseded(mutated(plan, insert)))
