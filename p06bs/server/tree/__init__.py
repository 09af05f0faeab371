"""Runs as Tiled serves them: streams, columns and maps, exports, and subscriptions."""
