"""RunEngines of tests."""

from bluesky import RunEngine


def end(engine: RunEngine) -> None:
    """End a RunEngine, its plan if there is one, and its thread."""
    if engine.state != "idle":
        engine.abort()
    engine.loop.call_soon_threadsafe(engine.loop.stop)
    engine._th.join()
    engine.loop.close()
