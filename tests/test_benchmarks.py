"""The benchmarks measure what is there: each moved name or new method would stop them."""

import pytest

from benchmarks import archive, positions, region_sums


@pytest.mark.slow
def test_the_archive_is_measured_on_both_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "RUNS_COUNT", 300)
    rows = archive.measure(repeat=1, seconds=0)
    pages = [row for row in rows if row.unit == "ms"]
    assert len(pages) >= 14
    assert all(value > 0 for row in pages for value in row.values)


def test_region_sums_are_measured_beside_numpy() -> None:
    rows = region_sums.measure(repeat=1, seconds=0)
    assert [row.unit for row in rows] == ["M spectra/s", "M spectra/s", ""]
    assert all(value > 0 for row in rows for value in row.values)


@pytest.mark.slow
def test_positions_are_measured_beside_what_numpy_and_python_take() -> None:
    rows = positions.measure(repeat=1, seconds=0)
    assert {row.unit for row in rows} == {"M/s", ""}
    assert all(value > 0 for row in rows for value in row.values)
    assert [row.at_least for row in rows if row.at_least] == [50, 50, 200, 1]
