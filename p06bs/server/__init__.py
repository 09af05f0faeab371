"""The HTTP door: one Tiled server process for the newest runs in memory and the offline DB."""
