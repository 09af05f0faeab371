"""What commands print to and share: results on standard output, progress and remarks on stderr."""

import json
import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table

WIDE = 200
"""Characters in a line of what a file or another program takes."""


def _width() -> int | None:
    return None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE


console = Console(width=_width())
remarks = Console(stderr=True)

SHOWN = 8
"""Characters of a uid in a table; --json has all."""

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def remark(text: str) -> None:
    """Print one line on stderr beside the results."""
    remarks.print(text, soft_wrap=True, markup=False, highlight=False)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON, which has no numbers that are not finite: null is in their place."""
    print(json.dumps(_strict(value), indent=indent, allow_nan=False, default=str))


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if hasattr(value, "tolist"):  # numpy's arrays and numbers
        return _strict(value.tolist())
    if isinstance(value, Mapping):
        return {key: _strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    return value


def folded(*heads: str) -> list[Column]:
    """Return columns of a table that fold what does not fit, and cut nothing."""
    return [Column(head, overflow="fold") for head in heads]


def progress_bar() -> Progress:
    """Return a progress bar that is there only if somebody sees it."""
    return Progress(console=remarks, transient=True, disable=not remarks.is_terminal)


def show_result(result: dict[str, Any]) -> None:
    """Print what became of a run as a table."""
    console.print(
        f"[bold]{result['modality']}[/] of run {result['raw']}: derived run {result['derived']}, "
        f"{result['events']} events, {result['invalid']} invalid"
    )
    fed = (f"{name} from {where}" for name, where in result["inputs"].items())
    console.print(escape("; ".join(fed)), soft_wrap=True)
    table = Table(*folded("column", "unit", "sum", "mean", "minimum", "maximum"))
    for name, column in result["columns"].items():
        numbers = (f"{column[k]:.6g}" for k in ("sum", "mean", "min", "max"))
        shape = f" {column['shape']}" if column["shape"] else ""
        table.add_row(escape(name + shape), column["unit"] or "", *numbers)
    console.print(table)
    for file in result["files"]:
        console.print(f"wrote {escape(file)}", soft_wrap=True)


class Stopping:
    """True once a signal has asked the process to stop."""

    number = 0

    def __call__(self) -> bool:
        return self.number != 0

    def note(self, number: int, frame: object) -> None:
        """Handle a signal; the first one counts."""
        self.number = self.number or number

    @property
    def status(self) -> int:
        """The exit status of a process that a signal ended before it was done."""
        return 128 + self.number


@contextmanager
def stoppable() -> Iterator[Stopping]:
    """Turn Ctrl-C, SIGTERM and a closed terminal into a flag, so that nothing is left half done."""
    stopping = Stopping()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stopping.note) for number in signals}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
