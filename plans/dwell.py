"""How detectors look at each point of a step scan, and for how long."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.utils import Msg, MsgGenerator

from p06bs.plans._arguments import positive
from p06bs.plans.preprocessors import before, mutated, replaced
from p06bs.plans.rewinds import without_superseded

logger = logging.getLogger(__name__)

PRESETS = ("preset_time", "count_time", "acquire_time", "exposure_time", "cam.acquire_time")
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
        if (preset := _preset_of(detector)) is not None:
            yield from bps.configure(detector, {preset: dwell})
        elif _is_prepared(detector):
            from ophyd_async.core import TriggerInfo

            yield from bps.prepare(detector, TriggerInfo(livetime=dwell), wait=True)


def in_steps(
    plan: MsgGenerator[Any], detectors: Sequence[Any], dwell: float | None
) -> MsgGenerator[Any]:
    """Return a plan of steps whose points may be measured again.

    It sets the time per point before each of its runs; None leaves it. Detectors that take no time
    are warned of, and named in ``start["scan"]["without_dwell"]``.
    """
    without = [] if dwell is None else [d.name for d in detectors if not _takes_time(d)]
    if without:
        logger.warning(
            "dwell does not reach %s: set the time there, or have one of %s among the "
            "configuration_attrs",
            ", ".join(without),
            ", ".join(PRESETS),
        )

    def say(msg: Msg) -> Msg:
        if msg.command != "open_run" or not without:
            return msg
        scan = {**msg.kwargs.get("scan", {}), "without_dwell": without}
        return msg._replace(kwargs={**msg.kwargs, "scan": scan})

    def insert(msg: Msg) -> tuple[Any, Any]:
        if msg.command == "open_run" and dwell is not None:
            return before(set_dwell(detectors, dwell), msg), None
        if msg.command == "close_run" and msg.kwargs.get("exit_status") is None:
            # No later pause repeats what belongs into a closed run.
            return before(bps.checkpoint(), msg), None
        return None, None

    return (yield from without_superseded(mutated(replaced(plan, say), insert)))


def _preset_of(detector: Any) -> str | None:
    """Return which signal has a detector's time per point, if it can be configured."""
    if not hasattr(detector, "configure"):
        return None
    known = getattr(detector, "configuration_attrs", None)  # of ophyd: it configures no others
    if known is None:
        known = [name for name in PRESETS if hasattr(detector, name)]
    return next((name for name in PRESETS if name in known), None)


def _is_prepared(detector: Any) -> bool:
    return hasattr(detector, "prepare") and hasattr(detector, "trigger")


def _takes_time(detector: Any) -> bool:
    """Return whether a time per point reaches a detector, or none is meant to."""
    measures = hasattr(detector, "trigger") and not hasattr(detector, "set")  # no motor, no signal
    return not measures or _preset_of(detector) is not None or _is_prepared(detector)
