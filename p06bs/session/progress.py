"""How far a scan is, and how long it will take."""

import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from p06bs.model.documents import Document


class StepsOnly:
    """Hand a callback the documents of all runs but fly scans: those have too many rows to read.

    Parameters
    ----------
    callback : callable
        Such as a live table.
    """

    def __init__(self, callback: Callable[[str, dict[str, Any]], Any]) -> None:
        self._callback = callback
        self._flying = False

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._flying = _kind(document).startswith("fly")
        if not self._flying:
            self._callback(name, document)


class ScanProgress:
    """A bar of a run's points, with the time that is gone and the time that is left.

    What a run has found, in the stream that ``scan["result"]`` names, is shown, too.

    A callback of a RunEngine. Points are counted by their seq_num: what is measured again after
    a pause does not count twice.

    Parameters
    ----------
    console : Console, optional
        Where it is shown; standard output by default.
    moves : callable, optional
        Shows what is waited for outside of runs, as a `waiting_hook` of a RunEngine does.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        console: Console | None = None,
        moves: Callable[[Any], Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._moves = console or Console(), moves
        self._watch = StopWatch(clock)
        self._moving = False
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._start: Document | None = None
        self._streams: dict[str, str] = {}
        self._whole: tuple[Any, int, float] = (None, 0, 0.0)

    def install(self, engine: Any) -> None:
        """Follow a RunEngine: its runs, its pauses and what it waits for."""
        engine.subscribe(self)
        engine.state_hook = self.state
        engine.waiting_hook = self.waiting

    def state(self, state: str, before: str) -> None:
        """Take a new state of the RunEngine; while it is paused there is no bar, and no time."""
        if state == "paused":
            self._watch.stop()
            if self._bar is not None:
                self._bar.stop()
        elif before == "paused":
            self._watch.go_on()
            if self._bar is not None and state == "running":
                self._bar.start()
        if state == "idle":  # a halted run has no end
            self.close()
            self._start = None

    def waiting(self, statuses: Any) -> None:
        """Show what is waited for, unless a run shows its own progress."""
        moving = statuses is not None and self._start is None
        if self._moves is not None and (moving or self._moving):
            self._moves(statuses if moving else None)
        self._moving = moving

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document."""
        if self._start is None:
            if name == "start":
                self._begin(document)
            return
        uid = self._start["uid"]
        if name == "start" or document.get("run_start", uid) != uid:
            return  # of a run within the run
        if name == "descriptor":
            self._streams[document["uid"]] = document.get("name", "")
        elif name in ("event", "event_page"):
            self._count(document)
        elif name == "stop":
            self._end(document)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _begin(self, start: Document) -> None:
        self.close()
        self._start, self._streams = start, {}
        points, scan = start.get("num_points"), _scan(start)
        words = [_kind(start), " x ".join(map(str, start.get("shape") or ()))]
        if not start.get("shape") and isinstance(points, int):
            words.append(f"{points} points")
        if isinstance(dwell := scan.get("dwell"), int | float):
            words.append(f"of {dwell:g} s")
        if isinstance(whole := scan.get("duration"), int | float):
            words.append(f"({timedelta(seconds=math.ceil(whole))} and moves)")
        words.append(self._of_the_whole(scan))
        said = " ".join(filter(None, words))
        self._console.print(f"{said}, run {start['uid']}", highlight=False, markup=False)
        if isinstance(points, int) and points > 0:
            self._bar = Progress(
                TextColumn("points"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeLeft(),
                console=self._console,
                get_time=self._watch,
            )
            duration = whole if isinstance(whole, int | float) else None
            self._task = self._bar.add_task("points", total=points, duration=duration)
            self._bar.start()

    def _of_the_whole(self, scan: dict[str, Any]) -> str:
        """Return which map of a tomography this is, and how long the others will take."""
        number, of = scan.get("projection"), scan.get("projections")
        if not isinstance(number, int) or not isinstance(of, int):
            return ""
        said = f"projection {number + 1}/{of}"
        whole, first, began = self._whole
        if whole != scan.get("tomography") or number <= first:
            self._whole = (scan.get("tomography"), number, self._watch())
            return said
        left = (self._watch() - began) / (number - first) * (of - number)
        return f"{said}, {timedelta(seconds=round(left))} left for all"

    def _count(self, document: Document) -> None:
        stream = self._streams.get(document["descriptor"])
        if stream == _scan(self._start or {}).get("result", ""):
            said = ", ".join(f"{key} {value:.6g}" for key, value in document["data"].items())
            self._console.print(said, highlight=False, markup=False)
        if self._bar is not None and stream == "primary":
            numbers = document["seq_num"]
            last = numbers if isinstance(numbers, int) else max(numbers, default=0)
            self._bar.update(self._task, completed=last)

    def _end(self, stop: Document) -> None:
        self.close()
        self._start = None
        reason = f" ({stop['reason']})" if stop.get("reason") else ""
        self._console.print(
            f"{stop['exit_status']}{reason}: {stop.get('num_events', {})}",
            highlight=False,
            markup=False,
        )


class StopWatch:
    """Seconds without those while it is stopped."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lost = 0.0
        self._stopped: float | None = None

    def __call__(self) -> float:
        """Return the time."""
        return (self._clock() if self._stopped is None else self._stopped) - self._lost

    def stop(self) -> None:
        """Stand still."""
        if self._stopped is None:
            self._stopped = self._clock()

    def go_on(self) -> None:
        """Run again."""
        if self._stopped is not None:
            self._lost += self._clock() - self._stopped
            self._stopped = None


class TimeLeft(TimeRemainingColumn):
    """The time that is left, as the scan itself has said until its pace is known."""

    def render(self, task: Task) -> Text:
        """Return the time as text."""
        if task.time_remaining is None and task.total and (told := task.fields["duration"]):
            left = timedelta(seconds=math.ceil(told * (1 - task.completed / task.total)))
            return Text(str(left), style="progress.remaining")
        return super().render(task)


def _scan(start: Document) -> dict[str, Any]:
    scan = start.get("scan")
    return scan if isinstance(scan, dict) else {}


def _kind(start: Document) -> str:
    return str(_scan(start).get("kind") or start.get("plan_name") or "scan")
