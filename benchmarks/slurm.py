"""Pages of 100 small events through workers that are jobs of SLURM, beside local ones."""

import os
from contextlib import ExitStack

from benchmarks.pages import INPUTS, NORMALISE, WARM_UP, rate
from benchmarks.report import Row, ratios, turns
from benchmarks.services import services

REPEAT = 5
JOBS = """
[workers.slurm]
directory = "{folder}/slurm"
memory = "1GiB"
"""


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure with two workers each, on a SLURM of this host that is there for it only."""
    from tests.slurm import missing, running_slurm

    if lacking := missing():
        print(f"no SLURM on this machine: {', '.join(lacking)} (make system)")
        return []
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        slurm = stack.enter_context(running_slurm())
        before = os.environ.get("SLURM_CONF")
        os.environ.update(slurm.environment)
        try:
            buses = {
                "local": stack.enter_context(services(NORMALISE, INPUTS)),
                "SLURM": stack.enter_context(services(NORMALISE, INPUTS, on="slurm", more=JOBS)),
            }
        finally:
            os.environ.pop("SLURM_CONF")
            if before is not None:
                os.environ["SLURM_CONF"] = before
        pages = {}
        for name, bus in buses.items():
            rate(bus, WARM_UP)
            pages[name] = max(WARM_UP, round(seconds * rate(bus, WARM_UP)))
        for name in turns(list(buses), repeat):
            found.setdefault(name, []).append(rate(buses[name], pages[name]))
    rows = [Row(f"pages, 2 workers, {name}", "pages/s", tuple(v)) for name, v in found.items()]
    return [*rows, Row("SLURM / local", "", ratios(found["SLURM"], found["local"]))]
