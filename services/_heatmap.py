"""Maps in a terminal: two pixels a character; measured maps beside expected ones."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

Map = npt.NDArray[np.float64]

# Ten anchors of the colour map viridis (matplotlib, CC0), from low to high.
VIRIDIS = np.array(
    [
        (68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142),
        (31, 158, 137), (53, 183, 121), (109, 205, 89), (180, 222, 44), (253, 231, 37),
    ],
    float,
)  # fmt: skip
WIDEST = 44


def levels(values: Map, low: float, high: float) -> Map:
    """Return where values lie between `low` and `high`, 0 to 1; NaN stays."""
    if high <= low:
        return np.where(np.isfinite(values), 0.5, np.nan)
    return np.clip((values - low) / (high - low), 0.0, 1.0)


def colour(level: float) -> str:
    """Return the colour of a level."""
    at = level * (len(VIRIDIS) - 1)
    first = min(int(at), len(VIRIDIS) - 2)
    mixed = VIRIDIS[first] + (at - first) * (VIRIDIS[first + 1] - VIRIDIS[first])
    return f"rgb({','.join(str(round(c)) for c in mixed)})"


def half_blocks(shown: Map) -> list[Text]:
    """Return lines of two rows of levels each, from the top; nothing is where NaN is."""
    if len(shown) % 2:
        shown = np.vstack([np.full((1, shown.shape[1]), np.nan), shown])
    return [_line(*pair) for pair in zip(shown[::2], shown[1::2], strict=True)]


def show_pairs(console: Console, pairs: Mapping[str, tuple[Map, Map]]) -> None:
    """Print measured maps beside expected ones, their first rows at the bottom."""
    for name, maps in pairs.items():
        table = Table(f"{name}, measured", "phantom", box=None)
        table.add_row(*(Text("\n").join(_heatmap(values)) for values in maps))
        console.print(table)


def _heatmap(values: Map) -> list[Text]:
    step = -(-max(values.shape) // WIDEST)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    return half_blocks(levels(values[::step, ::step][::-1], low, high))


def _line(upper: Map, lower: Map) -> Text:
    line = Text()
    for top, bottom in zip(upper.tolist(), lower.tolist(), strict=True):
        if np.isnan(top) and np.isnan(bottom):
            line.append(" ")
        elif np.isnan(top):
            line.append("▄", colour(bottom))
        else:
            below = "" if np.isnan(bottom) else f" on {colour(bottom)}"
            line.append("▀", f"{colour(top)}{below}")
    return line
