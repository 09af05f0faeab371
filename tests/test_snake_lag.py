"""Lag of a snake: found to 0.05 points by its lines, taken out of positions, never made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p06bs import callback, process
from p06bs.callbacks._snake import PROBLEMS, Snake, lag_of
from p06bs.callbacks.positions import Positions
from p06bs.callbacks.snake_lag import SnakeLag
from p06bs.model.documents import NamedDocument
from p06bs.plans.points import grid, spiral
from p06bs.sim.beamline import Beamline
from p06bs.sim.metrology import Metrology
from p06bs.sim.trajectory import Trajectory
from tests.documents import acquisition, raw_run
from tests.online import assert_equal, beamline
from tests.test_interferometers import table
from tests.test_positions import derive

INPUTS = {name: name for name in ("x", "y", "reference")}


def texture(x: np.ndarray, y: np.ndarray, seed: int = 1) -> np.ndarray:
    """Return something with details of two points and more, the mean of which is 1."""
    rng = np.random.default_rng(seed)
    made = np.ones(np.broadcast(x, y).shape)
    for _ in range(60):
        angle, length, phase = rng.uniform(0, np.pi), rng.uniform(4, 30), rng.uniform(0, 6.3)
        made += 0.03 * np.cos(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / length + phase)
    return made


def snake(
    lag: float,
    counts: float = np.inf,
    *,
    nx: int = 50,
    ny: int = 30,
    seed: int = 1,
    step: float = 1.0,
) -> dict[str, np.ndarray]:
    """Return x, y and the counts that detectors see along a snake; in points, but for `step`."""
    rng = np.random.default_rng(seed)
    y, x = np.divmod(np.arange(nx * ny), nx)
    direction = np.where(y % 2, -1, 1)
    x = np.where(y % 2, nx - 1 - x, x)
    seen = texture(x + direction * lag, y * 0.7, seed)
    if np.isfinite(counts):
        seen = rng.poisson(counts * np.maximum(seen, 0)) / counts
    place = x + rng.normal(0, 0.05, x.size)
    return {"x": step * place, "y": step * 0.7 * y, "reference": seen}


def final(derived: list[NamedDocument]) -> dict[str, Any]:
    """Return the last snapshot."""
    assert derived[-1][1]["exit_status"] == "success", derived[-1][1]["reason"]
    streams = {d["uid"]: d["name"] for name, d in derived if name == "descriptor"}
    found = [
        d["data"]
        for name, d in derived
        if name in ("event", "event_page") and streams[d["descriptor"]] == "snapshots"
    ]
    return {key: np.ravel(value)[-1] for key, value in found[-1].items()}


def find(columns: dict[str, Any], size: int = 256, **options: Any) -> dict[str, Any]:
    return final(process(SnakeLag(inputs=INPUTS), raw_run(columns, **options), batch_size=size))


# Truth


@pytest.mark.parametrize(("gate_time", "lines"), [(0.1, 40), (0.03, 60)])
@pytest.mark.parametrize("lag", [0.3, -0.77])
def test_the_lag_of_the_simulated_beamline_is_found_and_taken_out(
    lag: float, gate_time: float, lines: int
) -> None:
    """The sample is smooth, and its transmission varies by 1.4 %: hard to see."""
    points = grid((-6, 6), 60, (-6, 6), lines, rate=1 / gate_time)
    metrology = Metrology(lag=lag * gate_time, gap=(0, 0))
    path = Trajectory(Beamline(seed=7, metrology=metrology), points)
    seen = path.capture() | path.sample()  # as interferometers see it
    seen["reference"] = seen["diode"] / seen["i0"]
    found = find({name: seen[name] for name in INPUTS})
    assert found["lag_problem"] == 0
    assert found["lag"] == pytest.approx(lag, abs=0.05)
    assert found["lag_sigma"] < 0.1
    columns, truth = {f"nominal_{axis}": seen[axis] for axis in "xy"}, path.exposed()
    made = derive(columns, axes=("x", "y"), lag=float(found["lag"]))
    for axis in "xy":
        errors = (made[axis] - truth[axis])[1:]
        assert np.sqrt(np.mean(errors**2)) < 0.05 * 12 / 59


@pytest.mark.parametrize("counts", [np.inf, 1e4, 1e3])
@pytest.mark.parametrize("lag", [0.0, 0.25, -0.6, 2.9, -6.5])
def test_the_lag_is_found_to_a_twentieth_of_a_point(lag: float, counts: float) -> None:
    found = find(snake(lag, counts), size=100)
    assert found["lag"] == pytest.approx(lag, abs=0.05)
    assert found["lines"] == 28


@pytest.mark.parametrize("nx", [14, 400])
def test_short_and_long_lines_of_any_pitch_will_do(nx: int) -> None:
    found = find(snake(0.4, 1e4, nx=nx, ny=max(12, 800 // nx), step=-3.7))
    assert found["lag"] == pytest.approx(0.4, abs=0.05)


def test_lines_along_y_will_do() -> None:
    columns = snake(0.4)
    columns["x"], columns["y"] = columns["y"], columns["x"]
    assert find(columns)["lag"] == pytest.approx(0.4, abs=0.05)


def test_the_standard_deviation_is_that_of_the_errors() -> None:
    pulls = []
    for seed in range(40):
        columns = snake(0.3, 200.0, nx=40, seed=seed)
        known = Snake(np.empty((0, 3))).add(np.stack([*columns.values()], axis=1))
        lag = lag_of(known.finish())
        pulls.append((lag.points - 0.3) / lag.sigma)
    assert 0.4 < np.std(pulls) < 1.4
    assert abs(np.mean(pulls)) < 0.4


def test_a_live_scan_says_the_lag_of_the_lines_so_far() -> None:
    columns = np.stack([*snake(0.3).values()], axis=1)
    known = Snake(np.empty((0, 3)))
    lags = []
    for point in columns:
        known = known.add(point[None])
        lags.append(lag_of(known.finish()).points)
    assert np.isnan(lags[:107]).all()  # two lines and some
    assert np.isfinite(lags[200:]).all()
    np.testing.assert_allclose(lags[500:], 0.3, atol=0.05)


@pytest.mark.parametrize("size", [1, 13, 1024])
def test_how_batches_are_cut_and_rewinds_make_no_difference(size: int) -> None:
    columns = snake(0.3, 1e4, ny=8)
    whole = find(columns)
    seqs = acquisition([(120, 90), (60, 100), (400, 0)])
    rows = np.array(seqs) - 1
    for found in (
        find(columns, size),
        find({name: c[rows] for name, c in columns.items()}, size, seqs=seqs),
    ):
        assert found["lag"] == pytest.approx(whole["lag"], abs=1e-9)
        assert found["lines"] == whole["lines"] == 6


# What cannot be found is not made up


def flat(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "reference": np.full(len(columns["x"]), 7.0)}


def noise(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "reference": np.random.default_rng(2).poisson(9, len(columns["x"]))}


def one_row(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: column[:50] for name, column in columns.items()}


def two_rows(columns: dict[str, Any]) -> dict[str, Any]:
    return {name: column[:100] for name, column in columns.items()}


def still(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "x": np.zeros(len(columns["x"])), "y": np.ones(len(columns["x"]))}


def one_way(columns: dict[str, Any]) -> dict[str, Any]:
    """Each line begins where the one before it began."""
    return {**columns, "x": np.arange(len(columns["x"])) % 50.0}


def ramp(columns: dict[str, Any]) -> dict[str, Any]:
    return {**columns, "reference": 5.0 + columns["y"]}


def on_a_spiral(columns: dict[str, Any]) -> dict[str, Any]:
    at = spiral((0, 0), (50, 50), 1.5, rate=100.0).positions
    return {"x": at["x"], "y": at["y"], "reference": texture(at["x"], at["y"])}


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [(flat, 3), (noise, 3), (ramp, 3), (one_row, 1), (two_rows, 1), (still, 1), (one_way, 2)],
)
def test_what_tells_no_lag_says_why(spoil: Any, problem: int) -> None:
    found = find(spoil(snake(0.3)))
    assert np.isnan(found["lag"])
    assert np.isnan(found["lag_sigma"])
    assert found["lag_problem"] == problem
    assert problem in PROBLEMS


def test_a_spiral_has_no_lines() -> None:
    assert np.isnan(find(on_a_spiral({}))["lag"])


def test_nobody_waits_for_ever_for_the_end_of_a_line() -> None:
    known = Snake(np.empty((0, 3)))
    for start in range(0, 200_000, 1000):
        x = np.arange(start, start + 1000.0)
        known = known.add(np.stack([x, 0 * x, 0 * x], axis=1))
        assert len(known.waiting) < 1 << 16
    assert lag_of(known.finish()).problem == 1


def test_points_without_a_number_are_left_out() -> None:
    columns = snake(0.3)
    columns["reference"][[60, 333]] = np.nan
    columns["x"][777] = np.inf
    modality = SnakeLag(inputs=INPUTS)
    derived = process(modality, raw_run(columns))
    assert final(derived)["lag"] == pytest.approx(0.3, abs=0.05)
    pages = [d["data"] for name, d in derived if name == "event_page" and "valid" in d["data"]]
    reasons = np.concatenate([page["invalid_reason"] for page in pages])
    assert np.flatnonzero(reasons != "").tolist() == [60, 333, 777]
    assert reasons[777].startswith("x is inf, y is 10.5, the reference is ")


def test_callback_pipeline_and_process_give_the_same(tmp_path: Path) -> None:
    seqs = acquisition([(120, 90), (600, 0)])
    columns = {name: c[np.array(seqs) - 1] for name, c in snake(0.3, 1e4, ny=14).items()}
    raw, modality = raw_run(columns, seqs=seqs, page=50), SnakeLag(inputs=INPUTS)
    with beamline(tmp_path, [modality]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], modality.name)
    assert_equal(online, modality, raw)
    live: list[NamedDocument] = []
    subscriber = callback(modality, lambda name, document: live.append((name, document)))
    for document in raw:
        subscriber(*document)
    reference = final(process(modality, raw, batch_size=1))
    for made in (online, live):
        assert final(made)["lag"] == pytest.approx(reference["lag"], abs=1e-9)
        assert final(made)["lines"] == reference["lines"]


# Positions


def walk(nx: int, ny: int, *, snaking: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y, x = np.divmod(np.arange(nx * ny), nx)
    direction = np.where(y % 2, -1.0, 1.0) if snaking else np.ones(nx * ny)
    x = np.where((y % 2 == 1) & snaking, nx - 1 - x, x)
    return 0.2 * x, 0.3 * y, direction


@pytest.mark.parametrize("snaking", [True, False])
@pytest.mark.parametrize("size", [1, 7, 256])
def test_positions_are_moved_on_along_their_lines(size: int, snaking: bool) -> None:
    x, y, direction = walk(9, 6, snaking=snaking)
    made = derive({"nominal_x": x, "nominal_y": y}, size=size, axes=("x", "y"), lag=0.5)
    np.testing.assert_allclose(made["x"][1:], (x + 0.1 * direction)[1:], atol=1e-12)
    np.testing.assert_allclose(made["y"], y, atol=1e-12)
    np.testing.assert_allclose(made["x_lag"][1:], 0.1 * direction[1:], atol=1e-12)
    assert made["x"][0] == x[0]  # nobody has seen it move
    still = derive({"nominal_x": x, "nominal_y": y}, axes=("x", "y"))
    assert still["x"].tolist() == x.tolist()
    assert not still["x_lag"].any()


def test_missing_points_and_gaps_do_not_turn_the_stage() -> None:
    x, y, direction = walk(20, 4)
    columns = {"nominal_x": x.copy(), "nominal_y": y}
    columns["nominal_x"][[5, 6, 30]] = np.nan
    made = derive(columns, axes=("x", "y"), lag=-0.5)
    good = np.isfinite(columns["nominal_x"])
    good[0] = False
    np.testing.assert_allclose(made["x"][good], (x - 0.1 * direction)[good], atol=1e-12)
    assert made["valid"].sum() == 77


def test_a_rewind_leaves_no_trace_in_the_lag() -> None:
    x, y, direction = walk(9, 6)
    seqs = acquisition([(14, 8), (12, 3), (30, 0)])
    rows = np.array(seqs) - 1
    made = derive(
        {"nominal_x": x[rows], "nominal_y": y[rows]}, seqs=seqs, axes=("x", "y"), lag=0.5, size=4
    )
    last = {seq: row for row, seq in enumerate(seqs)}
    for seq, row in last.items():
        if seq > 1:
            assert made["x"][row] == pytest.approx(x[seq - 1] + 0.1 * direction[seq - 1])


def test_a_lag_that_is_set_during_a_scan_holds_from_that_event_on() -> None:
    x, y, direction = walk(9, 6)
    raw = raw_run({"nominal_x": x, "nominal_y": y}, page=7)
    uids = [uid for name, d in raw if name == "event_page" for uid in d["uid"]]
    modality = Positions(inputs={"nominal_x": "nominal_x", "nominal_y": "nominal_y"})
    derived = process(modality, raw, [(uids[20], {"lag": 0.5})], batch_size=5)
    made = table(derived)
    np.testing.assert_allclose(made["x"][:21], x[:21], atol=1e-12)  # it has not seen it move yet
    np.testing.assert_allclose(made["x"][21:], (x + 0.1 * direction)[21:], atol=1e-12)
    descriptors = [d for name, d in derived if name == "descriptor"]
    assert [d["name"] for d in descriptors] == ["primary", "primary"]  # which say the lag
