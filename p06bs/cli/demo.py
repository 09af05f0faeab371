"""``p06bs demo``: the main job on a laptop."""

from pathlib import Path
from typing import Annotated

import typer

from p06bs.cli.terminal import console, remark, stoppable


def demo(
    out: Annotated[Path, typer.Option(help="directory for logs, files and summary.json")] = Path(
        "demo-out"
    ),
    once: Annotated[
        bool, typer.Option("--once", help="end by itself; status 0 only if all held")
    ] = False,
    phantom: Annotated[Path | None, typer.Option(help=".npz of weight maps, 0..1")] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed of all random numbers")] = 0,
    nx: Annotated[int, typer.Option(min=2, help="points per row")] = 41,
    ny: Annotated[int, typer.Option(min=2, help="rows")] = 41,
    rate: Annotated[float, typer.Option(min=1, help="points per second")] = 200.0,
    workers: Annotated[int, typer.Option(min=1, help="worker processes")] = 2,
) -> None:
    """Scan a simulated sample, and see its maps come while it is scanned."""
    from p06bs.services._scan import StoppedError
    from p06bs.services.demo import Demo, run

    job = Demo(
        out=out.absolute(),
        once=once,
        phantom=phantom,
        seed=seed,
        nx=nx,
        ny=ny,
        rate=rate,
        workers=workers,
    )
    with stoppable() as stopping:
        try:
            held = run(job, console, stopping)
        except StoppedError:
            remark("stopped; what was started has ended")
            raise typer.Exit(stopping.status) from None
    if not held:
        raise typer.Exit(1)
