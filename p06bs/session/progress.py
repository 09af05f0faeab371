"""How far a scan is, and how long it will take."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

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
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._start: Document = {}
        self._streams: dict[str, str] = {}

    def __call__(self, name: str, document: dict[str, Any]) -> None:
        """Take a document."""
        if name == "start":
            self._begin(document)
        elif document.get("run_start", self._start.get("uid")) != self._start.get("uid"):
            return  # of a run within the run
        elif name == "descriptor":
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
        words = [_kind(start), " x ".join(map(str, start.get("shape") or ()))]
        scan = _scan(start)
        if isinstance(dwell := scan.get("dwell"), int | float):
            words.append(f"of {dwell:g} s")
        if isinstance(whole := scan.get("duration"), int | float):
            words.append(f"({timedelta(seconds=math.ceil(whole))} and moves)")
        if isinstance(number := scan.get("projection"), int):
            words.append(f"projection {number + 1}/{scan.get('projections')}")
        said = " ".join(filter(None, words))
        self._console.print(f"{said}, run {start['uid']}", highlight=False, markup=False)
        if isinstance(points := start.get("num_points"), int) and points > 0:
            self._bar = Progress(
                TextColumn("points"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._bar.add_task("points", total=points)
            self._bar.start()

    def _count(self, document: Document) -> None:
        stream = self._streams.get(document["descriptor"])
        if stream == _scan(self._start).get("result", ""):
            said = ", ".join(f"{key} {value:.6g}" for key, value in document["data"].items())
            self._console.print(said, highlight=False, markup=False)
        if self._bar is not None and stream == "primary":
            numbers = document["seq_num"]
            last = numbers if isinstance(numbers, int) else max(numbers, default=0)
            self._bar.update(self._task, completed=last)

    def _end(self, stop: Document) -> None:
        self.close()
        reason = f" ({stop['reason']})" if stop.get("reason") else ""
        self._console.print(
            f"{stop['exit_status']}{reason}: {stop.get('num_events', {})}",
            highlight=False,
            markup=False,
        )


def _scan(start: Document) -> dict[str, Any]:
    scan = start.get("scan")
    return scan if isinstance(scan, dict) else {}


def _kind(start: Document) -> str:
    return str(_scan(start).get("kind") or start.get("plan_name") or "scan")
