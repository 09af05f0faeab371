"""Maps."""

from p06bs.model.raster import (
    Extents,
    Grid,
    Indices,
    Map,
    axis,
    grid_map,
    grid_of,
    nearest,
    newest,
    pixels,
    regular_map,
)

__all__ = [
    "Extents",
    "Grid",
    "Indices",
    "Map",
    "axis",
    "grid_map",
    "grid_of",
    "nearest",
    "newest",
    "pixels",
    "regular_map",
]
