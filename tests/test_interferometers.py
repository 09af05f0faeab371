"""Interferometers: analytic positions, honest gaps where beams are lost, independent of cuts."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs import process
from p06bs.callbacks._air import NO_AIR, TOO_WET, refractivity
from p06bs.callbacks._beams import LOST, SECOND_LOST
from p06bs.callbacks.interferometers import Interferometers
from p06bs.model.binding import bind
from p06bs.model.documents import NamedDocument
from p06bs.model.maps import newest
from p06bs.model.modality import SettingsError
from tests.documents import acquisition, raw_run

AIR = {"air_temperature": "degC", "air_pressure": "hPa", "air_humidity": "%"}
STILL = {"temperature": 20.0, "pressure": 1013.25, "humidity": 50.0}
AXIS = {"resolution": 0.1}


def table(derived: Sequence[NamedDocument]) -> dict[str, Any]:
    assert derived[-1][1]["exit_status"] == "success", derived[-1][1]["reason"]
    pages = [document["data"] for name, document in derived if name == "event_page"]
    return {key: np.concatenate([page[key] for page in pages]) for key in pages[0]}


def derive(
    columns: dict[str, Any],
    axes: dict[str, Any] | None = None,
    *,
    size: int = 256,
    units: dict[str, str] | None = None,
    seqs: Sequence[int] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Return the columns of the derived run; inputs are named as the raw columns."""
    modality = Interferometers(
        axes=axes or {"x": AXIS}, inputs={name: name for name in columns}, **options
    )
    raw = raw_run(columns, page=7, units=AIR | (units or {}), seqs=seqs)
    return table(process(modality, raw, batch_size=size))


# The refractive index


def test_the_refractive_index_is_that_of_the_literature() -> None:
    """Birch and Downs's equation at a helium-neon laser's wavelength in standard air."""
    assert round(float(refractivity(633, 20, 1013.25, 0)), 8) == 2.7180e-4
    assert round(float(refractivity(633, 20, 1013.25, 50)), 8) == 2.7137e-4


def test_the_refractive_index_agrees_with_ciddors_equation() -> None:
    """P. E. Ciddor, Appl. Opt. 35 (1996) 1566, table 1: dry air at 633 nm with 450 ppm of CO2."""
    for temperature, pressure, expected in (
        (20, 800, 21458.0),
        (20, 1000, 26824.4),
        (20, 1200, 32191.6),
        (10, 1000, 27774.7),
        (30, 1000, 25937.2),
    ):
        made = 1e8 * float(refractivity(633, temperature, pressure, 0))
        assert made == pytest.approx(expected, abs=1.0)  # 1e-8 is what both claim


def test_the_refractive_index_follows_the_air_of_each_event() -> None:
    temperature, pressure, humidity = (
        [20.0, 21.0, 21.0],
        [1013.25, 1013.25, 990.0],
        [0.0, 0.0, 80.0],
    )
    columns = {
        "x": np.full(3, 1e8),
        "air_temperature": np.array(temperature),
        "air_pressure": np.array(pressure),
        "air_humidity": np.array(humidity),
    }
    made = derive(columns, wavelength=633.0)
    index = 1 + refractivity(633, temperature, pressure, humidity)
    assert made["refractive_index"].tolist() == index.tolist()
    np.testing.assert_allclose(made["x"], 1e7 / index, rtol=1e-15)


@pytest.mark.parametrize(
    ("units", "temperature", "pressure"),
    [
        ({"air_temperature": "K", "air_pressure": "kPa"}, 294.65, 100.9),
        ({"air_temperature": "degC", "air_pressure": "Pa"}, 21.5, 100900.0),
        ({"air_temperature": "degF", "air_pressure": "mbar"}, 70.7, 1009.0),
        ({"air_temperature": "°C"}, 21.5, 1009.0),
        ({"air_temperature": "C", "air_pressure": "hpa"}, 21.5, 1009.0),
        ({"air_temperature": "deg C", "air_pressure": "Torr"}, 21.5, 756.812237),
    ],
)
def test_units_of_the_air_are_converted(
    units: dict[str, str], temperature: float, pressure: float
) -> None:
    columns = {
        "x": np.full(2, 1e8),
        "air_temperature": np.full(2, temperature),
        "air_pressure": np.full(2, pressure),
    }
    made = derive(columns, units=units, humidity=30.0)
    expected = 1 + float(refractivity(1550, 21.5, 1009, 30))
    assert made["refractive_index"] == pytest.approx(expected, abs=1e-12)


def test_a_thermometer_in_metres_is_left_out_aloud() -> None:
    columns = {"x": np.full(2, 1e7), "air_temperature": np.zeros(2)}
    devices = {"x": "interferometer_x", "air_temperature": "air_temperature"}
    raw = raw_run(columns, units={"air_temperature": "m"}, devices=devices)
    derived = process(Interferometers(axes={"x": AXIS}), raw)
    (said,) = derived[0][1]["process"]["warnings"]
    assert re.match(
        "input 'air_temperature' looked for .* not fitting: .*, m.: nothing feeds", said
    )
    index = 1 + refractivity(1550, 20, 1013.25, 50)
    np.testing.assert_allclose(table(derived)["x"], 1e6 / index, rtol=1e-15)


def test_air_that_is_no_input_is_that_of_settings_then_of_the_device_then_usual() -> None:
    raw = raw_run({"x": np.zeros(2)})
    configured = {"x-air_temperature": 24.0, "x-air_pressure": 980.0, "x-model": "fibre"}
    raw[1][1]["object_keys"] = {"x": ["x"]}
    raw[1][1]["configuration"] = {"x": {"data": configured, "timestamps": {}, "data_keys": {}}}
    modality = Interferometers(axes={"x": AXIS}, temperature=22.0, inputs={"x": "x"})
    bound = bind(modality, raw[0][1], [raw[1][1]]).bound
    constants = modality.prepare(modality.settings, bound).air.constants
    assert constants == {"air_temperature": 22.0, "air_pressure": 980.0, "air_humidity": 50.0}


@pytest.mark.parametrize("air", [{}, {"humidity": 0.0}, {"humidity": 60.0, "temperature": 30.0}])
def test_vacuum_has_the_index_one(air: dict[str, float]) -> None:
    assert derive({"x": np.array([12345])}, pressure=0.0, **air)["x"][0] == 1234.5
    measured = derive({"x": np.array([12345]), "air_pressure": np.zeros(1)}, **air)
    assert measured["x"][0] == 1234.5
    assert measured["refractive_index"][0] == 1


def test_in_a_poor_vacuum_nothing_is_humid_unless_somebody_says_so() -> None:
    dry = 1 + refractivity(1550, 20, 5.0, 0)
    for columns, air in (({}, {"pressure": 5.0}), ({"air_pressure": np.full(1, 5.0)}, {})):
        made = derive({"x": np.array([1e7]), **columns}, **air)
        np.testing.assert_allclose(made["x"], 1e6 / dry, rtol=1e-15)
    with pytest.raises(ValueError, match=r"humidity: 50 % at 20 °C are 11\.7 hPa of water vapour"):
        derive({"x": np.zeros(1)}, pressure=5.0, humidity=50.0)


def test_more_water_vapour_than_pressure_is_flagged() -> None:
    columns = {"x": np.arange(3), "air_pressure": np.array([1013.0, 8.0, 30.0])}
    made = derive(columns, humidity=60.0)
    assert made["x_flag"].tolist() == [0, TOO_WET, 0]
    assert np.isnan(made["x"]).tolist() == [False, True, False]


# Geometry


def test_positions_are_counts_in_air_along_the_motion() -> None:
    counts = np.array([0, 1, -7, 10**6])
    made = derive(
        {"x": counts},
        {"x": {"resolution": 0.25, "direction": -1, "angle": 10.0, "zero": 3.0}},
        wavelength=633.0,
        **STILL,
    )
    expected = -counts * 0.25 / 1.00027137 / np.cos(0.01) - 3
    np.testing.assert_allclose(made["x"], expected, rtol=1e-8)
    assert not made["x_flag"].any()
    assert made["valid"].all()


def test_dead_path_does_not_move_the_position_when_the_air_changes() -> None:
    """Someone who stands still 30 mm away sees counts change with the air."""
    temperature = np.linspace(20, 22, 200)
    index = 1 + refractivity(1550, temperature, 1010, 40)
    path, position = 30e6, np.linspace(0, 5e5, 200)
    optical = index * (path + position) - index[0] * path
    columns = {"x": optical / 0.1, "air_temperature": temperature}
    air = {"pressure": 1010.0, "humidity": 40.0}
    made = derive(columns, {"x": {**AXIS, "dead_path": 30.0}}, **air)
    np.testing.assert_allclose(made["x"], position, atol=1e-6)
    made = derive(columns, {"x": AXIS}, **air)
    assert abs(made["x"] - position).max() > 50


def test_two_beams_undo_abbes_error() -> None:
    rng = np.random.default_rng(1)
    tilt, place = rng.normal(0, 1e-6, 50), rng.normal(0, 1e4, 50)  # rad, nm at the sample
    first, second = place - 5e6 * tilt, place + 15e6 * tilt
    columns = {"x": first / 0.1, "x_2": second / 0.1}
    beam = {"separation": 20.0, "arm": 5.0}
    made = derive(columns, {"x": {**AXIS, "second": beam}}, pressure=0.0, humidity=0.0)
    np.testing.assert_allclose(made["x"], place, atol=1e-6)


def test_the_first_event_with_a_beam_is_the_zero() -> None:
    columns = {
        "x": np.array([50, 60, 70, 90]),
        "x_valid": np.array([0, 1, 1, 1]),
        "y": np.array([5, 6, 7, 8]),
    }
    axes = {"x": {"resolution": 1.0, "zero": "first"}, "y": {"resolution": 1.0}}
    for size in (1, 4):
        made = derive(columns, axes, size=size, pressure=0.0, humidity=0.0)
        assert np.array_equal(made["x"], [np.nan, 0, 10, 30], equal_nan=True)
        assert made["y"].tolist() == [5, 6, 7, 8]


# Lost beams and bad input


def test_a_lost_beam_is_nan_and_leaves_the_other_axis_alone() -> None:
    columns = {
        "x": np.array([10.0, 0, 30, np.nan, np.inf, 60]),
        "x_valid": np.array([1, 0, 1, 1, 1, 1], np.uint8),
        "y": np.array([1, 2, 3, 4, 5, 0]),
        "y_valid": np.array([True, True, True, True, False, False]),
    }
    axes = {"x": {"resolution": 1.0}, "y": {"resolution": 1.0}}
    made = derive(columns, axes, pressure=0.0, humidity=0.0)
    nan = np.nan
    assert np.array_equal(made["x"], [10, nan, 30, nan, nan, 60], equal_nan=True)
    assert np.array_equal(made["y"], [1, 2, 3, 4, nan, nan], equal_nan=True)
    assert made["valid"].all()  # also where both are lost: an encoder may bridge the gap
    assert made["x_flag"][:4].tolist() == [0, LOST, 0, LOST]
    assert made["y_flag"].tolist() == [0, 0, 0, 0, LOST, LOST]


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.float64])
def test_valid_may_be_a_bit_of_a_word(dtype: Any) -> None:
    columns = {"x": np.arange(5), "x_valid": np.array([0b100, 0b011, 0b111, 0, 0b110], dtype)}
    made = derive(columns, valid_bit=2)
    assert np.isnan(made["x"]).tolist() == [False, True, False, True, False]
    assert made["x_flag"].tolist() == [0, LOST, 0, LOST, 0]


@pytest.mark.parametrize("lost", [0, np.nan])
def test_an_empty_gate_is_no_position(lost: float) -> None:
    columns = {
        "x": np.array([5.0, 0, 7]),
        "x_valid": np.array([1, 1, 0]),
        "gate_samples": np.array([9, lost, 9]),
    }
    made = derive(columns, gated=True)
    assert made["invalid_reason"].tolist() == [
        "",
        f"the gate is empty (samples: {columns['gate_samples'][1]})",
        "",
    ]
    assert np.isnan(made["x"]).tolist() == [False, True, True]


@pytest.mark.parametrize("bit", [None, 0])
def test_valid_that_is_no_number_says_that_the_beam_is_lost(bit: int | None) -> None:
    columns = {"x": np.arange(3), "x_valid": np.array([1.0, np.nan, 1.0])}
    assert derive(columns, valid_bit=bit)["x_flag"].tolist() == [0, LOST, 0]


def test_an_axis_is_lost_with_one_of_its_two_beams() -> None:
    columns = {
        "x": np.array([10, 10, 10, 10]),
        "x_valid": np.array([1, 0, 1, 0]),
        "x_2": np.array([20.0, 20, np.nan, 20]),
        "x_2_valid": np.array([1, 1, 1, 0]),
        "y": np.arange(4),
    }
    second = {"separation": 10.0, "arm": 5.0}
    axes = {"x": {"resolution": 1.0, "second": second}, "y": {"resolution": 1.0}}
    made = derive(columns, axes, pressure=0.0, humidity=0.0)
    assert np.array_equal(made["x"], [15, np.nan, np.nan, np.nan], equal_nan=True)
    assert made["x_flag"].tolist() == [0, LOST, SECOND_LOST, LOST | SECOND_LOST]
    assert made["valid"].all()


def test_air_that_is_none_costs_the_positions_and_is_flagged() -> None:
    columns = {
        "x": np.arange(6),
        "x_valid": np.array([1, 1, 1, 0, 1, 1]),
        "air_temperature": np.array([20.0, np.nan, 20, 20, 300, 20]),
        "air_pressure": np.array([1013.0, 1013, -1, 101325, 1013, 1013]),
        "air_humidity": np.array([50.0, 50, 50, 50, 101, 50]),
    }
    for size in (1, 256):
        made = derive(columns, size=size)
        bits = NO_AIR["air_temperature"], NO_AIR["air_pressure"], NO_AIR["air_humidity"]
        assert bits == (4, 8, 16)
        assert made["x_flag"].tolist() == [0, 4, 8, LOST | 8, 4 | 16, 0]
        assert np.isnan(made["x"]).tolist() == [False, *[True] * 4, False]
        assert np.isnan(made["refractive_index"]).tolist() == np.isnan(made["x"]).tolist()
        assert made["valid"].all()  # an encoder may bridge the gap


def test_bad_air_at_the_beginning_moves_the_zero_to_the_first_good_event() -> None:
    columns = {"x": np.array([50, 60, 90]), "air_temperature": np.array([np.nan, 20.0, 20.0])}
    axes = {"x": {"resolution": 1.0, "zero": "first", "dead_path": 1.0}}
    for size in (1, 256):
        made = derive(columns, axes, size=size, pressure=0.0, humidity=0.0)
        assert np.array_equal(made["x"], [np.nan, 0, 30], equal_nan=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": {}}, "at least 1 item"),
        ({"axes": {"x": {}}}, "Field required"),
        ({"axes": {"x": {"resolution": 0}}}, "greater than 0"),
        ({"axes": {"x": {**AXIS, "angle": 1600}}}, "less than 500"),
        ({"axes": {"x": {**AXIS, "zero": "last"}}}, "first"),
        ({"axes": {"x": {**AXIS, "second": {"separation": 0, "arm": 1}}}}, "greater than 0"),
        ({"axes": {"x": AXIS, "x_2": AXIS}}, "cannot be the name of an axis"),
        ({"axes": {"refractive_index": AXIS}}, "cannot be the name of an axis"),
        ({"axes": {"x": AXIS}, "wavelength": 1.55}, "greater than or equal to 300"),
        ({"axes": {"x": AXIS}, "pressure": 101325}, "less than or equal to 1200"),
        ({"axes": {"x": AXIS}, "pressure": 101.3}, r"101.3 hPa is no vacuum \(0 to 10 hPa\)"),
    ],
)
def test_senseless_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Interferometers(**given)


def test_settings_that_need_more_than_is_bound_are_refused() -> None:
    raw = raw_run({"a": np.arange(4)})
    modality = Interferometers(axes={"x": AXIS}, inputs={"x": "a"})
    uid = next(d["uid"] for n, d in raw if n == "event")
    second = {"axes": {"x": {**AXIS, "second": {"separation": 1, "arm": 1}}}}
    with pytest.raises(ValueError, match=r"axes\.x\.second needs the input 'x_2', which"):
        process(modality, raw, [(uid, second)])


def test_an_axis_that_a_run_lacks_costs_itself_only() -> None:
    raw = raw_run({"a": np.arange(4.0)}, devices={"a": "interferometer_y"})
    derived = process(Interferometers(axes={"x": AXIS, "y": AXIS}, pressure=0), raw)
    made = table(derived)
    np.testing.assert_allclose(made["y"], np.arange(4) * 0.1)
    assert "x" not in made
    assert "'x' looked for role 'interferometer_x'" in derived[0][1]["process"]["warnings"][0]


def test_a_second_beam_is_needed_of_axes_that_the_run_has() -> None:
    raw = raw_run({"a": np.arange(4.0)}, devices={"a": "interferometer_y"})
    two = {**AXIS, "second": {"separation": 20, "arm": 5}}
    derived = process(Interferometers(axes={"x": two, "y": AXIS}, pressure=0), raw)
    np.testing.assert_allclose(table(derived)["y"], np.arange(4) * 0.1)
    (said,) = derived[0][1]["process"]["warnings"]
    assert "'x' looked for role 'interferometer_x'" in said
    with pytest.raises(ValueError, match=r"axes\.y\.second needs the input 'y_2', which nothing"):
        process(Interferometers(axes={"x": AXIS, "y": two}), raw)


# However it is cut


def scene(seqs: Sequence[int], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return columns of two axes with gaps and drifting air, and their settings."""
    rng = np.random.default_rng(seed)
    at = np.array(seqs)
    temperature = 20 + np.floor(at / 9) * 0.05
    columns = {
        "x": at * 1000 + rng.integers(-9, 9, len(at)),
        "x_valid": rng.random(len(at)) < 0.7,
        "y": rng.normal(0, 1e5, len(at)),
        "y_2": np.where(rng.random(len(at)) < 0.2, np.nan, rng.normal(0, 1e5, len(at))),
        "air_temperature": np.where(rng.random(len(at)) < 0.05, np.nan, temperature),
    }
    axes = {
        "x": {"resolution": 0.1, "zero": "first", "dead_path": 20.0},
        "y": {"resolution": 0.1, "second": {"separation": 10.0, "arm": -2.0}},
    }
    return columns, axes


@settings(max_examples=40, deadline=None)
@given(
    legs=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), min_size=1, max_size=5),
    size=st.integers(1, 64),
    seed=st.integers(0, 2**31),
)
def test_what_counts_is_that_of_an_uninterrupted_scan_however_it_is_cut(
    legs: list[tuple[int, int]], size: int, seed: int
) -> None:
    seqs = acquisition([*legs, (100, 0)])  # an aborted scan leaves rows of earlier legs
    columns, axes = scene(seqs, seed)
    made = derive(columns, axes, size=size, seqs=seqs)
    rows = newest(made["raw_seq_num"])
    plain = derive({name: c[rows] for name, c in columns.items()}, axes)
    for name in ("x", "y", "x_flag", "y_flag", "refractive_index"):
        assert np.array_equal(made[name][rows], plain[name], equal_nan=made[name].dtype.kind == "f")
    assert made["invalid_reason"][rows].tolist() == plain["invalid_reason"].tolist()


def test_how_long_columns_are_cut_does_not_show() -> None:
    columns, axes = scene(range(1, 20_000), 3)
    modality = Interferometers(axes=axes, inputs={name: name for name in columns})
    raw = raw_run(columns, page=20_000, units=AIR)
    whole = table(process(modality, raw, batch_size=20_000))
    parts = table(process(modality, raw, batch_size=777))
    for name in ("x", "y", "refractive_index"):
        assert np.array_equal(whole[name], parts[name], equal_nan=True)
