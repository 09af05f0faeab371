"""Benchmarks of the spine: ``python -m benchmarks``; docs/reference/benchmarks.md explains them."""
