"""Run benchmarks: ``python -m benchmarks [NAME ...] [--repeat N] [--seconds S] [--json]``."""

import json
from typing import Annotated

import typer

from benchmarks import (
    archive,
    count,
    counters,
    diffraction,
    fluorescence,
    frames,
    gaps,
    latency,
    maps,
    pages,
    positions,
    region_sums,
    slurm,
    spectra,
    subscribe,
    topology,
)

BENCHMARKS = {
    "pages": pages,
    "slurm": slurm,
    "frames": frames,
    "spectra": spectra,
    "diffraction": diffraction,
    "fluorescence": fluorescence,
    "count": count,
    "counters": counters,
    "gaps": gaps,
    "latency": latency,
    "maps": maps,
    "positions": positions,
    "region_sums": region_sums,
    "archive": archive,
    "subscribe": subscribe,
    "topology": topology,
}


def run(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Some of {', '.join(BENCHMARKS)}; all by default.")
    ] = None,
    repeat: Annotated[
        int | None, typer.Option(min=1, help="Repetitions; each benchmark has its own default.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="About how long one value takes.")] = 4.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure the spine; medians with spread, as ratios where there is something beside it."""
    unknown = [name for name in names or () if name not in BENCHMARKS]
    if unknown:
        raise typer.BadParameter(f"no benchmark {unknown[0]!r}; there are {', '.join(BENCHMARKS)}")
    found = {}
    for name in names or BENCHMARKS:
        benchmark = BENCHMARKS[name]
        rows = benchmark.measure(repeat or benchmark.REPEAT, seconds)
        found[name] = [row.plain() for row in rows]
        if not as_json:
            print(name)
            for row in rows:
                print(f"  {row}", flush=True)
    if as_json:
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    typer.run(run)
