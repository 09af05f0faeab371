"""Encoders and interferometers find, by role, where the simulated sample was."""

from typing import Any

import numpy as np
import pytest

from p06bs import Modality, process
from p06bs.callbacks.encoders import Encoders
from p06bs.callbacks.interferometers import Interferometers
from p06bs.plans.maps import grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.metrology import Air, Metrology
from p06bs.sim.trajectory import CAPTURES, Trajectory
from tests.documents import raw_run

EMPTY = frozenset({30, 801})


@pytest.fixture(scope="module")
def path() -> Trajectory:
    """A snake of 1200 gates across the wraps of both encoders."""
    metrology = Metrology(air=Air(temperature=26.0, pressure=960.0), empty_gates=EMPTY)
    points = grid((-6, 6), 60, (-6, 6), 20, rate=100.0)
    return Trajectory(Beamline(seed=4, metrology=metrology), points)


def derive(path: Trajectory, modality: Modality) -> dict[str, Any]:
    columns = path.capture()
    raw = raw_run(
        columns,
        page=100,
        units={name: capture.unit for name, capture in CAPTURES.items()},
        devices={name: capture.role for name, capture in CAPTURES.items()},
    )
    pages = [document["data"] for name, document in process(modality, raw) if name == "event_page"]
    return {key: np.concatenate([page[key] for page in pages]) for key in pages[0]}


@pytest.mark.parametrize("reading", ["mean", "sum"])
def test_encoders_follow_the_stage_across_wraps(path: Trajectory, reading: str) -> None:
    metrology = path.beamline.metrology
    axes = {
        axis: {
            "scale": metrology.encoder_resolution,
            "origin": int(metrology.origin(axis)),
            "reading": reading,
        }
        for axis in "xy"
    }
    made = derive(path, Encoders(axes=axes))
    reasons = {i: r for i, r in enumerate(made["invalid_reason"].tolist()) if r}
    assert {i for i, r in reasons.items() if "the gate is empty" in r} == EMPTY
    wrapped = [i for i, r in reasons.items() if "wrapped inside the gate" in r]
    assert len(wrapped) == len(reasons) - len(EMPTY)
    assert 10 < len(wrapped) < 30  # once in most of the 20 lines
    good, truth = made["valid"], path.readback()
    for axis in "xy":
        errors = 1e3 * (made[axis] - truth[axis])[good]  # nm, a count each
        assert errors.std() < 1.1
        assert abs(errors).max() < 6
    # The box sees a gate's first and last count: the way between two points, or none in y.
    step = 12 / 59
    assert abs(made["x_half_width"][good] - step / 2).max() < 0.1 * step
    assert abs(made["y_half_width"][good]).max() <= 0.001


def test_interferometers_follow_the_sample_in_the_air_that_there_is(path: Trajectory) -> None:
    metrology = path.beamline.metrology
    air = metrology.air
    axes = {axis: {"resolution": metrology.count * 1e3} for axis in "xy"}
    made = derive(
        path,
        Interferometers(
            axes=axes,
            wavelength=metrology.wavelength,
            temperature=air.temperature,
            pressure=air.pressure,
            humidity=air.humidity,
        ),
    )
    points, truth = np.arange(len(path)), path.sample()
    lost = {axis: metrology.blocked(axis, points) for axis in "xy"}
    for axis in "xy":
        errors = made[axis] - 1e3 * truth[axis]
        assert np.isnan(errors).tolist() == lost[axis].tolist()
        assert made[f"{axis}_flag"].astype(bool).tolist() == lost[axis].tolist()
        assert 0.45 < np.nanstd(errors) < 0.55  # as put in
        assert abs(np.nanmean(errors)) < 0.1
    assert made["valid"].tolist() == (~(lost["x"] & lost["y"])).tolist()
