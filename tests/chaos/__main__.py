"""``python -m tests.chaos 1000``: a long trial, with a progress bar."""

import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos.trial import REPOSITORY, Report, Trial


def main(
    faults: Annotated[int, typer.Argument(min=1, help="how many faults")] = 200,
    *,
    seed: Annotated[int | None, typer.Option(help="repeat the choices of a trial")] = None,
    gap: Annotated[float, typer.Option(min=0, help="mean seconds between two faults")] = 1.2,
    out: Annotated[Path | None, typer.Option(help="directory; kept")] = None,
) -> None:
    """Hit services at random while scans run; end with 1 unless every result is right."""
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    folder = out or Path(tempfile.mkdtemp(prefix="p06bs-chaos-"))
    os.environ["PYTHONPATH"] = str(REPOSITORY)
    os.environ["XDG_RUNTIME_DIR"] = str(folder / "run")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    console = Console()
    console.print(f"seed {seed}; everything is in {folder}", highlight=False)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("start", total=faults)

        def progress(done: int, text: str) -> None:
            bar.update(task, completed=done, description=text)

        report = Trial(folder / "trial", seed, faults, gap, progress).run()
    show(report, console)
    if report.problems:
        console.print(f"logs and documents are in {folder}", highlight=False)
        sys.exit(1)
    if out is None:
        shutil.rmtree(folder)


def show(report: Report, console: Console) -> None:
    """Print what was done and what came of it."""

    def line(what: str, counts: dict[str, float] | dict[str, int]) -> None:
        said = ", ".join(f"{name} {n:g}" for name, n in sorted(counts.items()))
        console.print(f"{what}: {said or 'none'}", highlight=False, soft_wrap=True)

    line("hit", report.done)
    console.print(f"kills while batches were leased: {report.at_work}", highlight=False)
    line("missed", report.missed)
    line("changes of settings", report.changes)
    line("compared", report.counts)
    line("seconds", report.seconds)
    if report.skipped:
        console.print(f"no full disk: {report.skipped}", highlight=False)
    for problem in report.problems:
        console.print("[red]wrong[/]", problem, highlight=False, soft_wrap=True)
    if not report.problems:
        console.print("0 lost, 0 double, 0 different", highlight=False)


if __name__ == "__main__":
    typer.run(main)
