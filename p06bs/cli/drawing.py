"""Pictures in a terminal: maps in half blocks or shades, curves in braille dots."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rich.text import Text

from p06bs.model.picture import Picture, PictureAxis
from p06bs.services._heatmap import colour, half_blocks, levels

Floats = npt.NDArray[np.float64]

SHADES = " ░▒▓█"
"""Of a terminal without colours; the first is for what is not there."""
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
FLATTEST = 8
"""Rows, or columns, that are drawn at least where there are so many."""
LABEL = 10
"""Characters at the left, for numbers along the vertical axis."""


def heat_map(
    picture: Picture, low: float, high: float, width: int, height: int, *, colours: bool
) -> list[Text]:
    """Return the lines of a map, axes growing to the right and upwards, and a bar of its colours.

    Parameters
    ----------
    low, high : float
        Values of the first and the last colour.
    width, height : int
        Characters that there are at most.
    colours : bool
        Whether the terminal has colours.
    """
    values, x, y = _upright(picture)
    columns, lines = max(8, width - LABEL - 1), max(4, height - 3)
    per_line = 2 if colours else 1
    shape = _fitting(values.shape, lines * per_line, columns, square=2 // per_line)
    shown = levels(_resized(values, shape), low, high)
    made = half_blocks(shown) if colours else _shades(shown)
    made = _with_numbers(made, y.last, y.first)
    return [*made, *_below(x, y, shape[1]), _bar(low, high, picture.unit, columns, colours=colours)]


def curve(picture: Picture, width: int, height: int) -> list[Text]:
    """Return the lines of a curve, drawn with dots of which 2 x 4 are a character."""
    values = picture.values[0]
    places = picture.places
    if places is None:
        places = np.linspace(picture.x.first, picture.x.last, len(values))
    columns, lines = max(8, width - LABEL - 1), max(4, height - 2)
    finite = np.isfinite(values)
    low, high = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    left, right = places.min(), places.max()
    across = np.rint((places - left) / ((right - left) or 1.0) * (2 * columns - 1)).astype(int)
    down = np.zeros(len(values), int)
    down[finite] = np.rint((high - values[finite]) / ((high - low) or 1.0) * (4 * lines - 1))
    dots = np.zeros((4 * lines, 2 * columns), bool)
    good = np.flatnonzero(finite)
    dots[down[good], across[good]] = True
    for a, b in pairwise(good):
        if b == a + 1:
            _join(dots, (across[a], down[a]), (across[b], down[b]))
    cells = dots.reshape(lines, 4, columns, 2).transpose(0, 2, 1, 3)
    codes = 0x2800 + (cells * DOTS).sum(axis=(2, 3))
    made = [Text("".join(map(chr, line))) for line in codes.tolist()]
    x = PictureAxis(picture.x.name, picture.x.unit, float(left), float(right))
    return [*_with_numbers(made, float(high), float(low)), *_below(x, None, columns)]


def _upright(picture: Picture) -> tuple[Floats, PictureAxis, PictureAxis]:
    """Return the values as they are drawn, line by line from the top, and growing axes."""
    values, x, y = picture.values, picture.x, picture.y
    if x.last < x.first:
        values, x = values[:, ::-1], PictureAxis(x.name, x.unit, x.last, x.first)
    if y.last < y.first:
        return values, x, PictureAxis(y.name, y.unit, y.last, y.first)
    return values[::-1], x, y


def _fitting(shape: tuple[int, ...], lines: int, columns: int, *, square: int) -> tuple[int, int]:
    """Return rows and columns of what is drawn: whole multiples of a small map, else what fits,
    in proportion, but for what is very flat.

    `square` is the number of columns that are as wide as a row is high.
    """
    ny, nx = shape
    factor = min(lines // ny, columns // (nx * square))
    if factor >= 1:
        return ny * factor, nx * factor * square
    scale = min(lines / ny, columns / (nx * square))
    rows = max(round(ny * scale), min(ny, lines, FLATTEST))
    return rows, max(round(nx * square * scale), min(nx * square, columns, FLATTEST))


def _resized(values: Floats, shape: tuple[int, int]) -> Floats:
    """Return means of the pixels that fall together, or pixels repeated."""
    made = values
    for axis, count in enumerate(shape):
        size = made.shape[axis]
        if count >= size:
            made = np.take(made, np.arange(count) * size // count, axis=axis)
            continue
        starts = np.arange(count) * size // count
        good = np.isfinite(made)
        total = np.add.reduceat(np.where(good, made, 0.0), starts, axis=axis)
        number = np.add.reduceat(good.astype(int), starts, axis=axis)
        made = np.full(total.shape, np.nan)
        np.divide(total, number, out=made, where=number > 0)
    return made


def _shades(shown: Floats) -> list[Text]:
    steps = len(SHADES) - 1
    index = np.where(np.isnan(shown), 0, 1 + np.minimum(np.nan_to_num(shown) * steps, steps - 1))
    return [Text("".join(SHADES[int(i)] for i in line)) for line in index.tolist()]


def _with_numbers(lines: list[Text], top: float, bottom: float) -> list[Text]:
    numbers = [""] * len(lines)
    numbers[-1], numbers[0] = f"{bottom:.4g}", f"{top:.4g}"
    return [Text(f"{number:>{LABEL}} ") + line for number, line in zip(numbers, lines, strict=True)]


def _below(x: PictureAxis, y: PictureAxis | None, columns: int) -> list[Text]:
    left, right = f"{x.first:.4g}", f"{x.last:.4g}"
    ends = left.ljust(max(len(left) + 1, columns - len(right))) + right
    axes = f"to the right: {x.label}" + (f", upwards: {y.label}" if y and y.name else "")
    return [Text(f"{' ' * (LABEL + 1)}{ends}"), Text(f"{' ' * (LABEL + 1)}{axes}")]


def _bar(low: float, high: float, unit: str | None, columns: int, *, colours: bool) -> Text:
    made = Text(f"{low:>{LABEL}.4g} ")
    count = max(5, min(30, columns // 2))
    if colours:
        for level in np.linspace(0, 1, count).tolist():
            made.append("█", colour(level))
    else:
        made.append(SHADES[1:])
    made.append(f" {high:.4g}{f' {unit}' if unit else ''}")
    return made


def _join(dots: npt.NDArray[np.bool_], start: tuple[int, int], stop: tuple[int, int]) -> None:
    """Set the dots of a straight line."""
    (x0, y0), (x1, y1) = start, stop
    count = max(abs(x1 - x0), abs(y1 - y0)) + 1
    across = np.rint(np.linspace(x0, x1, count)).astype(int)
    down = np.rint(np.linspace(y0, y1, count)).astype(int)
    dots[down, across] = True
