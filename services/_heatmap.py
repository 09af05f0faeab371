"""Maps in a terminal: two pixels a character, measured beside expected."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table
from rich.text import Text

Map = npt.NDArray[np.float64]

# Six anchors of the colour map viridis (matplotlib, CC0), from low to high.
VIRIDIS = np.array(
    [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]],
    float,
)
WIDEST = 44


def heatmap(values: Map) -> Text:
    """Return a map as coloured half blocks, its first row at the bottom; NaN is black."""
    step = -(-max(values.shape) // WIDEST)
    shown = values[::step, ::step][::-1]
    if len(shown) % 2:
        shown = np.vstack([shown, np.full((1, shown.shape[1]), np.nan)])
    low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
    level = (shown - low) / (high - low if high > low else 1.0) * (len(VIRIDIS) - 1)
    text = Text()
    for upper, lower in zip(level[::2], level[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append("▀", style=f"{_colour(above)} on {_colour(below)}")
        text.append("\n")
    return text


def show_pairs(console: Console, pairs: Mapping[str, tuple[Map, Map]]) -> None:
    """Print measured maps beside expected ones."""
    for name, (measured, expected) in pairs.items():
        table = Table(f"{name}, measured", "phantom", box=None)
        table.add_row(heatmap(measured), heatmap(expected))
        console.print(table)


def _colour(level: float) -> str:
    if not np.isfinite(level):
        return "rgb(0,0,0)"
    at = min(int(level), len(VIRIDIS) - 2)
    mixed = VIRIDIS[at] + (level - at) * (VIRIDIS[at + 1] - VIRIDIS[at])
    red, green, blue = mixed.round().astype(int).tolist()
    return f"rgb({red},{green},{blue})"
