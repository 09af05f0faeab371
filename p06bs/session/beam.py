"""Hold scans while there is no beam, and nothing else."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator

# It has no annotations of its own.
_mutated: Callable[..., MsgGenerator[Any]] = bpp.plan_mutator


class BeamSuspenders(dict[str, Any]):
    """Suspenders by name that are installed while a run is open; `offered` are those switched off.

    Between runs motors move, and a shutter is opened and closed by plans, with or without beam.
    A run opens when none of them holds. What is added or deleted counts from the next run on.

    A preprocessor of the RunEngine: of the first ones, so that others begin with beam.

    Parameters
    ----------
    engine : RunEngine
    """

    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.offered: dict[str, Any] = {}
        self._engine = engine
        engine.preprocessors.insert(0, self)

    def on(self, *names: str) -> None:
        """Have offered suspenders hold runs from the next one on.

        Raises
        ------
        ValueError
            If there is none of a name; nothing is switched then.
        """
        self._check(names)
        for name in names:
            if name not in self:
                self[name] = self.offered.pop(name)

    def off(self, *names: str) -> None:
        """Have suspenders hold no runs from the next one on, but be offered.

        Raises
        ------
        ValueError
            If there is none of a name; nothing is switched then.
        """
        self._check(names)
        for name in names:
            if name in self:
                self.offered[name] = self.pop(name)

    def _check(self, names: Iterable[str]) -> None:
        known = self.offered | self
        for name in names:
            if name not in known:
                raise ValueError(f"no suspender {name!r}: there are {', '.join(known) or 'none'}")

    def __call__(self, plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        """Return a plan that waits for the beam while it has a run."""
        runs = 0
        installed: list[Any] = []

        def insert(msg: Msg) -> tuple[Any, Any]:
            nonlocal runs
            runs += (msg.command == "open_run") - (msg.command == "close_run")
            if msg.command == "open_run" and runs == 1:
                return self._opened(msg, installed), None
            if msg.command == "close_run" and runs == 0:
                self._remove(installed)
            return None, None

        try:
            return (yield from _mutated(plan, insert))
        finally:  # also of a plan that is halted
            self._remove(installed)

    def _opened(self, msg: Msg, installed: list[Any]) -> Iterator[Msg]:
        for suspender in self.values():
            self._engine.install_suspender(suspender)
            installed.append(suspender)
        # Those that hold already also suspend the RunEngine, but only after a message or two.
        held = [each for suspender in installed for each in suspender.get_futures()[0]]
        if held:
            yield from bps.wait_for(held)
        return (yield msg)

    def _remove(self, installed: list[Any]) -> None:
        while installed:
            self._engine.remove_suspender(installed.pop())

    def __repr__(self) -> str:
        on = [f"{name}: {suspender!r}" for name, suspender in self.items()]
        return "\n".join([*on, *(f"{name}: off" for name in self.offered if name not in self)])
