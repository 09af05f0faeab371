"""Break everything at random while scans run, and see that every result is right.

`schedule` decides what happens when, `faults` does it, `scans` measures meanwhile, `trial`
holds them together, and `verdict`, in a fresh process, compares what came with a reference.
``python -m tests.chaos 1000`` is the long one; see docs/explanation/chaos.md.
"""
