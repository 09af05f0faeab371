"""Encoders, interferometers and both together find, by role, where the simulated sample was."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p06bs import Modality, callback, process
from p06bs.callbacks._gates import WRAPPED
from p06bs.callbacks.encoders import Encoders
from p06bs.callbacks.interferometers import Interferometers
from p06bs.callbacks.positions import Positions
from p06bs.model.documents import NamedDocument
from p06bs.pipeline.declared import Pipeline
from p06bs.plans.maps import grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.metrology import Air, Metrology
from p06bs.sim.trajectory import CAPTURES, Trajectory
from tests.documents import raw_run, rows_of
from tests.online import assert_equal, beamline

EMPTY = frozenset({30, 801})


@pytest.fixture(scope="module")
def path() -> Trajectory:
    """A snake of 1200 gates across the wraps of both encoders."""
    metrology = Metrology(air=Air(temperature=26.0, pressure=960.0), empty_gates=EMPTY)
    points = grid((-6, 6), 60, (-6, 6), 20, rate=100.0)
    return Trajectory(Beamline(seed=4, metrology=metrology), points)


def recorded(path: Trajectory, seqs: list[int] | None = None) -> list[NamedDocument]:
    """Return the raw run of what the box captures."""
    columns = path.capture()
    if seqs is not None:
        columns = {name: column[np.array(seqs) - 1] for name, column in columns.items()}
    return raw_run(
        columns,
        seqs=seqs,
        page=100,
        units={name: capture.unit for name, capture in CAPTURES.items()},
        devices={name: capture.role for name, capture in CAPTURES.items()},
    )


def table(derived: Sequence[NamedDocument]) -> dict[str, Any]:
    pages = [document["data"] for name, document in derived if name == "event_page"]
    return {key: np.concatenate([page[key] for page in pages]) for key in pages[0]}


def encoders(path: Trajectory, reading: str) -> Encoders:
    metrology = path.beamline.metrology
    scale = metrology.encoder_resolution
    return Encoders(
        axes={
            axis: {"scale": scale, "origin": int(metrology.origin(axis)), "reading": reading}
            for axis in "xy"
        }
    )


def interferometers(path: Trajectory, **axis: Any) -> Interferometers:
    metrology = path.beamline.metrology
    return Interferometers(
        axes={name: {"resolution": metrology.count * 1e3, **axis} for name in "xy"},
        wavelength=metrology.wavelength,
        temperature=metrology.air.temperature,
        pressure=metrology.air.pressure,
        humidity=metrology.air.humidity,
    )


@pytest.mark.parametrize("reading", ["mean", "sum"])
def test_encoders_follow_the_stage_across_wraps(path: Trajectory, reading: str) -> None:
    made = table(process(encoders(path, reading), recorded(path)))
    reasons = {i: r for i, r in enumerate(made["invalid_reason"].tolist()) if r}
    assert {i for i, r in reasons.items() if "the gate is empty" in r} == EMPTY == set(reasons)
    good, truth = made["valid"], path.readback()
    wrapped = {axis: good & np.isnan(made[axis]) for axis in "xy"}
    assert 10 < wrapped["x"].sum() < 30  # once in most of the 20 lines
    assert not (wrapped["x"] & wrapped["y"]).any()
    for axis in "xy":
        assert (wrapped[axis] == (good & (made[f"{axis}_flag"] & WRAPPED > 0))).all()
        errors = 1e3 * (made[axis] - truth[axis])[good & ~wrapped[axis]]  # nm, a count each
        assert errors.std() < 1.1
        assert abs(errors).max() < 6
    # The box sees a gate's first and last count: the way between two points, or none in y.
    step = 12 / 59
    assert np.nanmax(abs(made["x_half_width"] - step / 2)) < 0.1 * step
    assert np.nanmax(made["y_half_width"]) <= 0.001


def test_interferometers_follow_the_sample_in_the_air_that_there_is(path: Trajectory) -> None:
    made = table(process(interferometers(path), recorded(path)))
    metrology = path.beamline.metrology
    points, truth = np.arange(len(path)), path.sample()
    lost = {axis: metrology.blocked(axis, points) for axis in "xy"}
    for axis in "xy":
        errors = made[axis] - 1e3 * truth[axis]
        assert np.isnan(errors).tolist() == lost[axis].tolist()
        assert made[f"{axis}_flag"].astype(bool).tolist() == lost[axis].tolist()
        assert 0.45 < np.nanstd(errors) < 0.55  # as put in
        assert abs(np.nanmean(errors)) < 0.1
    assert made["valid"].all()


def rms(errors: Any) -> float:
    return float(np.sqrt(np.mean(errors**2)))


@pytest.mark.parametrize("seed", [4, 5])
def test_positions_bridge_the_gaps_of_lost_beams(seed: int) -> None:
    path = Trajectory(Beamline(seed=seed), grid((-6, 6), 60, (-6, 6), 60, rate=100.0))
    raw = recorded(path)
    coarse, fine = process(encoders(path, "sum"), raw), process(interferometers(path), raw)
    made = table(process(Positions(), raw, upstream=[*coarse, *fine]))
    good, truth, alone = made["valid"], path.sample(), table(coarse)
    assert set(made["invalid_reason"]) == {
        "",
        *(f"encoders: {reason}" for reason in alone["invalid_reason"] if reason),
    }
    for axis in "xy":
        errors = 1e3 * (made[axis] - truth[axis])
        lost = path.beamline.metrology.blocked(axis, np.arange(len(path)))
        wrapped = np.isnan(alone[axis])
        codes = np.where(lost, np.where(wrapped, 3, 2), 1)
        assert made[f"{axis}_source"][good].tolist() == codes[good].tolist()
        assert 0.45 < errors[good & ~lost].std() < 0.55  # as put in, also where a word wrapped
        assert (good & lost).sum() > 100
        assert rms(errors[good & lost & ~wrapped]) < 5.0
        unbridged = 1e3 * (alone[axis] - truth[axis])[good & ~wrapped]
        assert rms(unbridged) == pytest.approx(52, rel=0.2)


def test_positions_need_no_interferometer_and_no_encoder(path: Trajectory) -> None:
    raw = recorded(path)
    coarse, fine = process(encoders(path, "sum"), raw), process(interferometers(path), raw)
    truth, step = path.sample(), 1e3 * path.beamline.metrology.drift
    for upstream, codes, limit in (
        (fine, {1, 3}, 20.0),  # gaps are as good as the nominal positions and their jitter
        (coarse, {2, 3}, 1.5 * step),  # nominal where a word wrapped
        ([], {3}, 1.5 * step),
    ):
        made = table(process(Positions(), raw, upstream=upstream))
        assert set(made["x_source"][made["valid"]].tolist()) == codes
        assert rms(1e3 * (made["x"] - truth["x"])[made["valid"]]) < limit


def test_callback_pipeline_and_process_give_the_same(path: Trajectory, tmp_path: Path) -> None:
    raw = recorded(path, [*range(1, 151), *range(100, 401)])  # a rewind, across a wrap
    modalities: list[Modality] = [encoders(path, "sum"), interferometers(path, zero="first")]
    with beamline(tmp_path, list(modalities)) as (_, publish, listener):
        for document in raw:
            publish(*document)
        uid = raw[0][1]["uid"]
        online = {each.name: listener.wait(uid, each.name) for each in modalities}
    for each in modalities:
        assert_equal(online[each.name], each, raw)
        reference = process(each, raw, batch_size=1)
        live: list[NamedDocument] = []
        subscriber = callback(each, lambda name, document, to=live: to.append((name, document)))
        for document in raw:
            subscriber(*document)
        keys = ("raw_seq_num", "valid", "invalid_reason", "x_flag", "y_flag")
        assert rows_of(live, *keys) == rows_of(reference, *keys)
        for axis in "xy":
            assert np.array_equal(table(live)[axis], table(reference)[axis], equal_nan=True)
        flags, valid = table(reference)["x_flag"], table(reference)["valid"]
        assert not valid.all() if each.name == "encoders" else flags.any()


def test_a_chain_of_pipelines_gives_the_positions_of_its_parts(
    path: Trajectory, tmp_path: Path
) -> None:
    raw = recorded(path, [*range(1, 151), *range(100, 601)])  # a rewind, and gaps
    uid = raw[0][1]["uid"]
    parts: list[Modality] = [encoders(path, "sum"), interferometers(path)]
    last = Positions()
    chain = Pipeline(modality=last, after=["encoders", "interferometers"])
    with beamline(tmp_path, [chain, *parts]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        online = {one.name: listener.wait(uid, one.name) for one in (*parts, last)}
    upstream = [*online["encoders"], *online["interferometers"]]
    assert_equal(online["positions"], last, raw, upstream)
    live: list[NamedDocument] = []
    subscriber = callback(
        last, lambda name, document: live.append((name, document)), after=[*parts]
    )
    for document in raw:
        subscriber(*document)
    keys = ("raw_seq_num", "valid", "invalid_reason", "x_source", "y_source")
    assert rows_of(live, *keys) == rows_of(online["positions"], *keys)
    sources = table(live)
    assert {1, 2} <= set(sources["x_source"].tolist())
    for column in ("x", "y", "x_offset", "y_offset"):
        np.testing.assert_allclose(sources[column], table(online["positions"])[column], rtol=1e-9)
