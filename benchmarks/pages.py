"""Pages of 100 small events, from a publisher to ordered derived documents in a consumer."""

from contextlib import ExitStack
from functools import partial

from benchmarks import hpc
from benchmarks.documents import EVENTS_PER_PAGE, small_pages
from benchmarks.report import Row, ratios, turns
from benchmarks.services import Bus, services

REPEAT = 5
WARM_UP = 500
NORMALISE = "benchmarks.techniques:Normalise"
INPUTS = {"signal": "signal", "reference": "reference"}


def rate(bus: Bus, pages: int) -> float:
    """Return pages per second, from the first one published to the last one's rows consumed."""
    arrivals = bus.send(partial(small_pages, pages=pages))
    arrivals.check(pages * EVENTS_PER_PAGE)
    return pages / arrivals.seconds


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure with one and two workers, beside PvaPy with two consumers."""
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        buses = {
            "1 worker": stack.enter_context(services(NORMALISE, INPUTS, workers=1)),
            "2 workers": stack.enter_context(services(NORMALISE, INPUTS, workers=2)),
        }
        peers: dict[str, hpc.Peer] = {}
        try:
            python = hpc.environment()
            peers = {
                "PvaPy": hpc.Peer(python, collector=False),
                "PvaPy, sorted": hpc.Peer(python, collector=True),
            }
        except hpc.UnavailableError as reason:
            print(f"no comparison with PvaPy: {reason}")
        pages = {}
        for name, bus in buses.items():
            rate(bus, WARM_UP)
            pages[name] = max(WARM_UP, round(seconds * rate(bus, WARM_UP)))
        for name in turns([*buses, *peers], repeat):
            value = rate(buses[name], pages[name]) if name in buses else peers[name].rate(seconds)
            found.setdefault(name, []).append(value)
    rows = [Row(f"pages of 100 events, {name}", "pages/s", tuple(v)) for name, v in found.items()]
    for peer in peers:
        made = ratios(found["2 workers"], found[peer])
        goal = 4.0 if peer == "PvaPy" else None
        rows.append(Row(f"p06bs, 2 workers / {peer}, 2 consumers", "", made, at_least=goal))
    return rows
