"""Maps that are kept up to date beside maps that are made anew: 1000 x 1000 pixels, 1e6 rows."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.documents import key, opened, page
from benchmarks.report import Row, ratios
from p06bs.model.gridding import RunningMap
from p06bs.model.maps import Grid
from p06bs.model.placement import Measured, Placement, Raster
from p06bs.model.points import Points, Positions
from p06bs.model.statistics import statistics
from p06bs.server.sink.sink import RunView, Sink
from p06bs.server.tree.maps import Maps

REPEAT = 5
SIDE = 1000
NEWS = 1000
"""Rows that come between two looks at a map."""
ROWS = SIDE * SIDE
EXTENTS = ((0.0, SIDE - 1.0), (0.0, SIDE - 1.0))


@dataclass(frozen=True)
class First:
    """The first rows of an array."""

    array: Any
    rows: int

    def read(self, start: int, stop: int) -> Any:
        """Return some rows."""
        return self.array[start:stop]


def scan() -> dict[str, Any]:
    """Return the columns of a raster scan with measured positions."""
    index = np.arange(ROWS)
    noise = np.random.default_rng(6).uniform(-0.4, 0.4, (2, ROWS))
    return {
        "numbers": index + 1,
        "x": index % SIDE + noise[0],
        "y": index // SIDE + noise[1],
        "values": np.sqrt(index),
    }


KINDS: dict[str, tuple[Callable[[], Placement], bool]] = {
    "raster": (lambda: Raster(Grid((SIDE, SIDE))), False),
    "measured": (lambda: Measured(Grid((SIDE, SIDE), extents=EXTENTS)), False),
    "positions of another stream": (
        lambda: Measured(Grid((SIDE, SIDE), extents=EXTENTS)),
        True,
    ),
    "scattered": (Measured, False),
}


class State:
    """A map of the first rows of a scan."""

    def __init__(self, kind: str, columns: dict[str, Any]) -> None:
        make, self._joined = KINDS[kind]
        self._placement, self._map = make(), RunningMap()
        self._columns = columns

    def update(self, rows: int) -> float:
        """Take rows up to the given one; return the seconds that it took."""
        numbers, x, y, values = (First(c, rows) for c in self._columns.values())
        positions = Positions(x, y, numbers=numbers if self._joined else None)
        begun = time.perf_counter()
        points = Points(numbers, positions)
        self._placement.update(points)
        self._map.update(self._placement, points, values)
        return time.perf_counter() - begun

    def read(self) -> float:
        """Read map and statistics; return the seconds that it took."""
        begun = time.perf_counter()
        statistics(self._map.read(self._placement.grid.shape))
        return time.perf_counter() - begun


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure gridding alone, then a map of a run in the sink; `seconds` has no meaning here."""
    columns = scan()
    rows: list[Row] = []
    for kind in KINDS:
        full, news, read = [], [], []
        for _ in range(repeat):
            state = State(kind, columns)
            full.append(1e3 * state.update(ROWS - 10 * NEWS))
            steps = range(ROWS - 9 * NEWS, ROWS + 1, NEWS)
            news.append(1e3 * float(np.median([state.update(step) for step in steps])))
            read.append(1e3 * state.read())
        rows += [
            Row(f"{kind}: 1000 rows more", "ms", tuple(news)),
            Row(f"{kind}: all rows anew", "ms", tuple(full)),
            # The grid of scattered positions is fitted anew while they extend: no goal.
            Row(
                f"{kind}: more / anew",
                "",
                ratios(news, full),
                at_most=None if kind == "scattered" else 0.1,
            ),
            Row(f"{kind}: read and statistics", "ms", tuple(read)),
        ]
    return [*rows, *_in_the_sink(repeat, columns)]


def _in_the_sink(repeat: int, columns: dict[str, Any]) -> list[Row]:
    sink = Sink(1_000_000_000)
    data = {name: columns[name] for name in ("x", "y", "values")}
    descriptor, begun = opened("map", {name: key(column[:1]) for name, column in data.items()})
    begun[0][1].update(
        shape=[SIDE, SIDE], extents=EXTENTS, snaking=[False, False], motors=["y", "x"]
    )
    for name, document in begun:
        sink(name, document)

    def feed(first: int) -> None:
        part = {name: column[first : first + NEWS] for name, column in data.items()}
        sink(*page(descriptor, "map", first, part))

    reserve = 10 * repeat * NEWS
    for first in range(0, ROWS - reserve, NEWS):
        feed(first)
    kept = Maps(limit=1 << 30)
    _look(kept, sink.view("map"))
    news, full, asked = [], [], []
    for first in range(ROWS - reserve, ROWS, NEWS):
        feed(first)
        news.append(_look(kept, sink.view("map")))
        if len(news) % 10 == 0:
            full.append(_look(Maps(limit=1 << 30), sink.view("map")))
            run = sink.view("map")
            begin = time.perf_counter()
            kept(run)
            asked.append(1e6 * (time.perf_counter() - begin))
    more = [float(np.median(news[i : i + 10])) for i in range(0, len(news), 10)]
    return [
        Row("in the sink: a look after 1000 rows more", "ms", tuple(more)),
        Row("in the sink: a look at a new map", "ms", tuple(full)),
        Row("in the sink: more / new", "", ratios(more, full), at_most=0.5),
        Row("in the sink: whether a run has maps", "us", tuple(asked)),
    ]


def _look(maps: Maps, run: RunView) -> float:
    """Look at a map with its statistics; return the milliseconds that it took."""
    begun = time.perf_counter()
    seen = maps.look(run, maps.of(run)["values"])
    assert seen.values is not None
    return 1e3 * (time.perf_counter() - begun)
