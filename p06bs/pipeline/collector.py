"""Python's garbage collector in a process that handles many documents."""

import gc


def calm() -> None:
    """Exempt what has been imported from garbage collection, and collect less often.

    Documents are trees, which need no collector. Left alone it walks through all
    objects of all imported packages whenever enough lists have come, which takes a
    quarter of the time of a busy pipeline. Call it once, when imports are done.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
