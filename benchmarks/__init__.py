"""Benchmarks of the spine: ``python -m benchmarks [NAME ...]``; see docs/reference/benchmarks.md."""
