"""Wait while there is no beam: suspenders for ring current, shutter and I0, and top-up gating.

Install them with ``RE.install_suspender(suspender)`` for all scans, or for one with
``bluesky.preprocessors.suspend_wrapper(plan, suspenders)``. While one holds, nothing is measured;
then the scan goes back to its last checkpoint, or, if it flies, on where it was.
"""

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import bluesky.plan_stubs as bps
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.suspenders import SuspendBoolHigh, SuspenderBase, SuspendFloor, SuspendWhenChanged
from bluesky.utils import Msg, MsgGenerator, maybe_await

from p06bs.plans import _arguments
from p06bs.plans.preprocessors import before, mutated

# They have no annotations of their own.
_Floor: Callable[..., SuspenderBase] = SuspendFloor
_High: Callable[..., SuspenderBase] = SuspendBoolHigh
_Unlike: Callable[..., SuspenderBase] = SuspendWhenChanged

SETTLE = 5.0
"""Seconds that the beam must have been back before a scan goes on."""


class Watched:
    """A signal as bluesky's suspenders expect one: ophyd's, or one of ophyd-async.

    Parameters
    ----------
    signal : signal
    """

    def __init__(self, signal: Any) -> None:
        self._signal = signal
        self._value: Any = None
        self._callbacks: dict[Callable[..., Any], Callable[..., Any]] = {}

    @property
    def name(self) -> str:
        """The signal's."""
        return str(self._signal.name)

    def get(self) -> Any:
        """Return the last value."""
        return self._value

    def subscribe(
        self, callback: Callable[..., Any], event_type: str | None = None, run: bool = True
    ) -> None:
        """Have ``callback(value=...)`` called with the present value and with each new one."""
        if not hasattr(self._signal, "subscribe_reading"):

            def changed(value: Any, **more: Any) -> None:
                self._value = value
                callback(value=value)

            self._callbacks[callback] = changed
            self._signal.subscribe(changed, event_type=event_type, run=run)
            return

        def read(readings: dict[str, Any]) -> None:
            self._value = readings[self.name]["value"]
            callback(value=self._value)

        self._callbacks[callback] = read
        _in_loop(lambda: self._signal.subscribe_reading(read))

    def clear_sub(self, callback: Callable[..., Any]) -> None:
        """Call no more."""
        ours = self._callbacks.pop(callback, None)
        if ours is None:
            return
        if hasattr(self._signal, "subscribe_reading"):
            _in_loop(lambda: self._signal.clear_sub(ours))
        else:
            self._signal.clear_sub(ours)

    def __repr__(self) -> str:
        return f"Watched({self.name})"


def _in_loop(action: Callable[[], Any]) -> None:
    """Do something in bluesky's event loop, from within it or from elsewhere."""

    async def act() -> None:
        action()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        call_in_bluesky_event_loop(act())
    else:
        action()


def ring_suspender(
    current: Any, lowest: float, *, resume: float | None = None, settle: float = SETTLE
) -> SuspenderBase:
    """Return what suspends scans while the ring has too little current.

    Parameters
    ----------
    current : signal
    lowest : float
        In the signal's unit, such as mA.
    resume : float, optional
        From how much on scans go on; `lowest` by default.
    settle : float
        Seconds that it must have been so.

    Raises
    ------
    ValueError
        If `resume` is less than `lowest`.
    """
    return _floor(current, lowest, resume, settle, "the ring has lost its beam")


def flux_suspender(
    i0: Any, lowest: float, *, resume: float | None = None, settle: float = SETTLE
) -> SuspenderBase:
    """Return what suspends scans while I0 is too low.

    Parameters
    ----------
    i0 : signal
        One that goes on while nothing is measured: a rate, and no counts of a scaler.
    lowest, resume, settle
        As of `ring_suspender`.

    Raises
    ------
    ValueError
        If `resume` is less than `lowest`.
    """
    return _floor(i0, lowest, resume, settle, "there is no flux at the sample")


def _floor(
    signal: Any, lowest: float, resume: float | None, settle: float, message: str
) -> SuspenderBase:
    return _Floor(
        Watched(signal), lowest, resume_thresh=resume, sleep=settle, tripped_message=message
    )


def shutter_suspender(
    state: Any, *, is_open: Any = "open", settle: float = SETTLE
) -> SuspenderBase:
    """Return what suspends scans while a shutter is not open.

    Parameters
    ----------
    state : signal
    is_open
        Its value while the shutter is open.
    settle : float
        Seconds that it must have been open.
    """
    return _Unlike(
        Watched(state),
        expected_value=is_open,
        allow_resume=True,
        sleep=settle,
        tripped_message="the shutter is not open",
    )


def injection_suspender(injecting: Any, *, settle: float = 0.1) -> SuspenderBase:
    """Return what suspends scans while the ring is topped up: for fly scans, too.

    Parameters
    ----------
    injecting : signal
        True during an injection.
    settle : float
        Seconds that the beam needs to damp after it.
    """
    return _High(Watched(injecting), sleep=settle, tripped_message="the ring is topped up")


def top_up_gated(
    plan: MsgGenerator[Any],
    countdown: Any,
    dwell: float,
    *,
    settle: float = 0.1,
    look_every: float = 0.05,
) -> MsgGenerator[Any]:
    """Return a plan that begins no point of a step scan that an injection would spoil.

    Before detectors are triggered it waits, if the next injection comes within the dwell time,
    until that is over.

    Parameters
    ----------
    plan : plan
    countdown : signal
        Seconds until the next injection; jumps up when it is over.
    dwell : float
        Seconds per point; less than from one injection to the next.
    settle : float
        Seconds that the beam needs to damp after an injection.
    look_every : float
        Seconds between two looks at the countdown.

    Raises
    ------
    ValueError
        If the dwell time is not positive, before the plan begins; if an injection is over and the
        next comes within the dwell time again, so that no point would ever begin.
    """
    _arguments.positive(dwell=dwell)
    _arguments.not_negative(settle=settle, look_every=look_every)
    began = False

    async def over() -> None:
        last = math.inf
        while (
            left := next(iter((await maybe_await(countdown.read())).values()))["value"]
        ) <= dwell:
            if left > 4 * max(last, 0) + 0.1:  # no noise, and no estimate that was corrected
                raise ValueError(
                    f"no point of {dwell:g} s fits between two injections: one is over, and "
                    f"{countdown.name} is {left:g} s; take a shorter dwell, or do without the gate"
                )
            last = left
            await asyncio.sleep(look_every)
        if last < math.inf:
            await asyncio.sleep(settle)

    def wait() -> Iterator[Msg]:
        # One message: a point that is measured again after a pause looks again.
        looked = yield from bps.wait_for([over])
        for task in looked or ():  # None: the answer was lost in a pause
            task.result()

    def insert(msg: Msg) -> tuple[Any, Any]:
        nonlocal began
        if msg.command == "trigger" and not began:
            began = True
            return before(wait(), msg), None
        if msg.command in ("save", "drop", "checkpoint"):
            began = False
        return None, None

    return (yield from mutated(plan, insert))
