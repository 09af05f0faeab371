"""The benchmarks measure what is there: each moved name or new method would stop them."""

import pytest

from benchmarks import archive


def test_the_archive_is_measured_on_both_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "RUNS_COUNT", 300)
    rows = archive.measure(repeat=1, seconds=0)
    pages = [row for row in rows if row.unit == "ms"]
    assert len(pages) >= 14
    assert all(value > 0 for row in pages for value in row.values)
