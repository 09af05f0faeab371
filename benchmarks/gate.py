"""What the gate costs: small reads a second of CPU time, through it and without it.

``python benchmarks/gate.py``. CPU time, of server and client together, because the
machine is shared; the two take turns.
"""

import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.doors import KEY, Gated
from tests.hostile import Request, Wire
from tests.live_server import serving

PATH = "/api/v1/array/full/live/run1/primary/Fe"
ROUNDS, READS = 11, 200


def rate(wire: Wire, request: Request) -> float:
    """Return reads a second of CPU time."""
    wire.close()  # which has been idle too long
    wire.send(request)
    begin = time.process_time()
    for _ in range(READS):
        status, _, content = wire.send(request)
        assert (status, len(content)) == (200, 96)
    return READS / (time.process_time() - begin)


def main() -> None:
    """Print both rates and their ratio."""
    headers = [("Host", "localhost"), ("Authorization", f"Apikey {KEY}")]
    request = Request("GET", PATH, headers, b"")
    gated = Gated()
    with serving(gated.app) as bare, serving(gated.gate) as guarded:
        wires = {"without": Wire(bare), "through": Wire(guarded)}
        for wire in wires.values():
            rate(wire, request)  # warm
        rates = {name: [] for name in wires}
        for _ in range(ROUNDS):
            for name, wire in wires.items():
                rates[name].append(rate(wire, request))
        for wire in wires.values():
            wire.close()
    ratios = [a / b for a, b in zip(rates["through"], rates["without"], strict=True)]
    for name, values in rates.items():
        print(f"{name} the gate: {median(values):.0f} reads/s of CPU (median of {ROUNDS})")
    print(f"through/without: {median(ratios):.2f}")


if __name__ == "__main__":
    main()
