"""The demo's limits: the simulated beamline's own settings keep them, and wrong ones do not."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import p06bs.services
from p06bs import Modality, config, process
from p06bs.model.documents import NamedDocument
from p06bs.plans.maps import grid
from p06bs.services._limits import MEASURES, Measured, measure
from p06bs.sim.beamline import Beamline
from p06bs.sim.diffraction import PowderRings
from p06bs.sim.lines import FAST
from p06bs.sim.metrology import AXES
from p06bs.sim.trajectory import CAPTURES, Trajectory
from tests.documents import raw_run

FILE = Path(p06bs.services.__file__).with_name("sim.toml")
SECTIONS = {each.make().name: each for each in config.load(FILE).pipelines}


@pytest.fixture(scope="module")
def path() -> Trajectory:
    beamline = Beamline(seed=0, emission=FAST)
    return Trajectory(beamline, grid((-20, 20), 21, (-20, 20), 20, rate=200.0))


@pytest.fixture(scope="module")
def raw(path: Trajectory) -> list[NamedDocument]:
    """What box and detectors recorded, in one stream."""
    points = range(len(path))
    seen = path.beamline.expose(**path.seen(points))
    rings = PowderRings(path.beamline.phantom, seed=path.beamline.seed)
    units = {key: capture.unit for key, capture in CAPTURES.items()}
    roles = {key: capture.role for key, capture in CAPTURES.items()}
    columns: dict[str, Any] = path.capture()
    for key, role, unit, values in (
        ("spectrum", "fluorescence", "counts", seen.spectrum),
        ("live_time", "live_time", "s", seen.live_time),
        ("real_time", "real_time", "s", seen.real_time),
        ("frames", "diffraction", "counts", rings.rows(path, points)["data"]),
    ):
        columns[key], units[key], roles[key] = values, unit, role
    return raw_run(columns, page=100, units=units, devices=roles)


def modality(name: str, **changed: Any) -> Modality:
    """Return a modality with the settings of sim.toml, but for some."""
    made = SECTIONS[name].make()
    return type(made)(**{**made.settings.model_dump(exclude_unset=True), **changed})


def found(
    path: Trajectory,
    raw: list[NamedDocument],
    name: str,
    after: Iterable[str] = (),
    **changed: Any,
) -> dict[str, Measured]:
    upstream = [document for each in after for document in process(modality(each), raw)]
    derived = process(modality(name, **changed), raw, upstream=upstream)
    return measure(name, derived, path)


BOTH = ("encoders", "interferometers")


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_right_is_within_all_limits(
    name: str, path: Trajectory, raw: list[NamedDocument]
) -> None:
    numbers = found(path, raw, name, BOTH if name == "positions" else ())
    assert numbers
    assert {what: number for what, number in numbers.items() if not number.good} == {}


WRONG: dict[str, Any] = {
    "one count off": {"scale": 0.001, "origin": 2147479944, "reading": "sum"},
    "a wavelength off by 1e-4": {"resolution": 0.10001},
}


@pytest.mark.parametrize(
    ("name", "after", "wrong"),
    [
        ("counters", (), {"gain": 1.01}),
        ("encoders", (), {"axes": dict.fromkeys("xy", WRONG["one count off"])}),
        ("interferometers", (), {"axes": dict.fromkeys("xy", WRONG["a wavelength off by 1e-4"])}),
        ("positions", ("encoders",), {}),
        ("xrf", (), {"noises": None}),
        ("xrf", (), {"dead_time": False}),
        ("xrd", (), {"poni": {**SECTIONS["xrd"].settings["poni"], "distance": 0.05002}}),
    ],
    ids=lambda given: "-".join(given) if isinstance(given, tuple | dict) else given,
)
def test_what_is_wrong_is_found_out(
    name: str,
    after: tuple[str, ...],
    wrong: dict[str, Any],
    path: Trajectory,
    raw: list[NamedDocument],
) -> None:
    numbers = found(path, raw, name, after, **wrong)
    assert any(not number.good for number in numbers.values())


def test_positions_without_a_beam_at_the_beginning_are_the_encoders(path: Trajectory) -> None:
    columns = path.capture(0, 60)
    for axis in AXES:
        columns[f"interferometer_{axis}_valid"][:5] = False
    units = {key: capture.unit for key, capture in CAPTURES.items()}
    roles = {key: capture.role for key, capture in CAPTURES.items()}
    raw = raw_run(columns, page=20, units=units, devices=roles)
    upstream = [document for each in BOTH for document in process(modality(each), raw)]
    pages = [
        document["data"]
        for kind, document in process(modality("positions"), raw, upstream=upstream)
        if kind == "event_page"
    ]
    for axis in AXES:
        place = np.concatenate([page[axis] for page in pages])
        source = np.concatenate([page[f"{axis}_source"] for page in pages])
        assert {*source[:5]} == {2}
        assert np.abs(place - path.sample(0, 60)[axis]).max() < 0.02  # µm; it has hardly drifted
