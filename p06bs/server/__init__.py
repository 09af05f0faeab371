"""The HTTP door: one Tiled server process that holds the newest runs in memory."""
