"""Positions: the best source of each event, offsets that bridge gaps, however batches are cut."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs import process
from p06bs.callbacks.encoders import Encoders
from p06bs.callbacks.interferometers import Interferometers
from p06bs.callbacks.positions import Positions
from p06bs.model.binding import BindingError
from p06bs.model.maps import newest
from p06bs.model.modality import SettingsError
from tests.documents import acquisition, raw_run
from tests.test_interferometers import table

UNITS = {f"{source}_{axis}": "um" for source in ("nominal", "encoder") for axis in "xyz"}
UNITS |= {f"interferometer_{axis}": "nm" for axis in "xyz"}
NAN = np.nan


def derive(
    columns: Mapping[str, Any],
    *,
    size: int = 256,
    seqs: Sequence[int] | None = None,
    axes: Sequence[str] = ("x",),
    **options: Any,
) -> dict[str, Any]:
    """Return the columns of the derived run; inputs are named as the raw columns, nm and um."""
    modality = Positions(axes=axes, inputs={name: name for name in columns}, **options)
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    raw = raw_run(arrays, page=7, units=UNITS, seqs=seqs)
    return table(process(modality, raw, batch_size=size))


def same(made: Any, expected: Any) -> None:
    np.testing.assert_allclose(made, expected, rtol=1e-12, atol=1e-12)


def test_the_best_source_of_each_event_counts() -> None:
    made = derive(
        {
            "interferometer_x": [1000.0, 2000, NAN, NAN, 5500],
            "encoder_x": [0.5, 1.5, 2.5, NAN, 4.5],
            "nominal_x": [2.0, 3, 4, 5, 6],
        }
    )
    same(made["x"], [1, 2, 3, 4, 5.5])
    assert made["x_source"].tolist() == [1, 1, 2, 3, 1]
    same(made["x_offset"], [0, 0, 0.5, -1, 0])
    assert made["valid"].all()


def test_the_offset_is_the_mean_of_the_last_good_events() -> None:
    encoder = np.arange(8.0)
    apart = np.array([9.0, 1, 2, 3, NAN, 4, NAN, NAN])
    made = derive({"interferometer_x": 1e3 * (encoder + apart), "encoder_x": encoder}, average=3)
    same(made["x"][[4, 6, 7]], [4 + 2, 6 + 3, 7 + 3])
    same(made["x_offset"], [0, 0, 0, 0, 2, 0, 3, 3])


def test_before_anything_can_be_compared_a_source_is_taken_as_it_is() -> None:
    made = derive({"interferometer_x": [NAN, NAN, 9000, NAN], "encoder_x": [1.0, 2, 3, 4]}, size=1)
    same(made["x"], [1, 2, 9, 10])
    assert made["x_source"].tolist() == [2, 2, 1, 2]
    same(made["x_offset"], [NAN, NAN, 0, 6])


@pytest.mark.parametrize("size", [1, 100])
def test_sources_without_a_zero_get_that_of_the_nominal_position(size: int) -> None:
    way = np.linspace(-10, 10, 9)
    interferometer = 1e3 * (way - way[0]) + 7
    interferometer[[0, 4, 8]] = NAN
    encoder = way + 500
    encoder[[1, 8]] = NAN
    columns = {"interferometer_x": interferometer, "encoder_x": encoder, "nominal_x": way}
    made = derive(columns, size=size, zero="nominal")
    same(made["x"], way)
    assert made["x_source"].tolist() == [2, *[1] * 3, 2, *[1] * 3, 3]
    columns["nominal_x"] = np.r_[NAN, NAN, way[2:]]
    made = derive(columns, size=size, zero="nominal")
    assert made["x_source"].tolist() == [0, 0, *[1] * 2, 2, *[1] * 3, 3]  # of unknown zero
    same(made["x"], np.r_[NAN, NAN, way[2:]])


@pytest.mark.parametrize("source", ["interferometer", "encoder", "nominal"])
def test_one_source_of_an_axis_is_enough(source: str) -> None:
    made = derive({f"{source}_x": np.arange(3.0)})
    same(made["x"], np.arange(3) * (1e-3 if source == "interferometer" else 1))
    code = {"interferometer": 1, "encoder": 2, "nominal": 3}[source]
    assert made["x_source"].tolist() == [code] * 3


def test_an_axis_without_a_source_is_left_out() -> None:
    made = derive({"nominal_x": np.arange(3.0)}, axes=("x", "y", "rotation"))
    assert "y" not in made
    assert "x" in made
    with pytest.raises(BindingError, match="positions cannot work on this run"):
        process(Positions(), raw_run({"a": np.arange(3.0)}))
    with pytest.raises(ValueError, match="zero: nominal needs nominal_x, which nothing feeds"):
        derive({"encoder_x": np.arange(3.0)}, zero="nominal")


def test_roles_and_units_of_the_axes() -> None:
    modality = Positions(axes=("x", "rotation"))
    wanted = {name: (i.role, i.unit, i.optional) for name, i in modality.declared.items()}
    assert wanted == {
        "nominal_x": ("position_x", "um", True),
        "nominal_rotation": ("rotation", "deg", True),
        "encoder_x": ("encoder_position_x", "um", True),
        "encoder_rotation": ("encoder_position_rotation", "deg", True),
        "interferometer_x": ("interferometer_position_x", "um", True),
        "interferometer_rotation": ("interferometer_position_rotation", "deg", True),
    }
    made = modality.outputs(modality.settings, dict.fromkeys(wanted))
    assert {n: (o.role, o.unit) for n, o in made.items() if o.role} == {
        "x": ("position_x", "um"),
        "rotation": ("rotation", "deg"),
    }


def test_what_no_source_knows_is_invalid_with_the_reason_and_never_zero() -> None:
    made = derive(
        {
            "interferometer_x": [NAN, np.inf, 3000, NAN],
            "nominal_x": [1.0, -np.inf, 3, 4],
            "encoder_y": [1.0, NAN, NAN, 4],
        },
        axes=("x", "y"),
    )
    both = "x is not known: no number from interferometer or nominal"
    alone = "y is not known: no number from encoder"
    assert made["invalid_reason"].tolist() == ["", f"{both}; {alone}", alone, ""]
    assert np.isnan(made["x"]).tolist() == [False, True, True, False]
    # What is invalid says nothing about the offset.
    same(made["x"][[0, 3]], [1, 4])


def test_counts_of_any_dtype_are_positions() -> None:
    made = derive({"nominal_x": np.arange(4, dtype=np.int16), "encoder_x": np.ones(4, np.float32)})
    assert made["x"].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"axes": ()}, "at least 1 item"),
        ({"axes": ("x", "x")}, "cannot be the name of an axis"),
        ({"axes": ("x", "x_source")}, "cannot be the name of an axis"),
        ({"axes": ("1",)}, "cannot be the name of an axis"),
        ({"axes": ("valid",)}, "cannot be the name of an axis"),
        ({"average": 0}, "greater than or equal to 1"),
        ({"zero": "mine"}, "nominal"),
    ],
)
def test_senseless_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Positions(**given)


def scene(seqs: Sequence[int], seed: int) -> dict[str, Any]:
    """Return columns of two axes with gaps in all sources."""
    rng = np.random.default_rng(seed)
    at = np.array(seqs, float)
    columns: dict[str, Any] = {}
    for axis in "xy":
        for source, share in (("interferometer", 0.4), ("encoder", 0.2), ("nominal", 0.05)):
            place = at + rng.normal(0, 1, len(at))
            place[rng.random(len(at)) < share] = NAN
            columns[f"{source}_{axis}"] = place
    return columns


@settings(max_examples=40, deadline=None)
@given(
    legs=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 20)), min_size=1, max_size=5),
    size=st.integers(1, 64),
    seed=st.integers(0, 2**31),
    zero=st.sampled_from(["own", "nominal"]),
    lag=st.sampled_from([0.0, 0.4]),
)
def test_what_counts_is_that_of_an_uninterrupted_scan_however_it_is_cut(
    legs: list[tuple[int, int]], size: int, seed: int, zero: str, lag: float
) -> None:
    seqs = acquisition([*legs, (60, 0)])  # an aborted scan leaves rows of earlier legs
    columns = scene(seqs, seed)
    options: dict[str, Any] = {"axes": ("x", "y"), "average": 5, "zero": zero, "lag": lag}
    made = derive(columns, size=size, seqs=seqs, **options)
    rows = newest(made["raw_seq_num"])
    plain = derive({name: c[rows] for name, c in columns.items()}, **options)
    for name in ("x", "y", "x_source", "y_offset"):
        assert np.array_equal(made[name][rows], plain[name], equal_nan=made[name].dtype.kind == "f")
    assert made["invalid_reason"][rows].tolist() == plain["invalid_reason"].tolist()


@pytest.mark.parametrize("size", [1, 64])
def test_what_is_bad_upstream_in_one_axis_is_bridged_by_the_next_source(size: int) -> None:
    """Encoder words, counts and air: the position goes on, never by 0."""
    x, y = np.arange(8) * 100 + 10**6, np.arange(8) * 50  # nm; encoders begin at 0, at y = 3 µm
    columns: dict[str, Any] = {
        "encoder_x": np.array(x, float) - 10**6,
        "encoder_y": np.array(y, float) + 3000,
        "beam_x": np.array(x, float),
        "beam_y": np.array(y, float),
        "samples": np.full(8, 9),
        "temperature": np.full(8, 20.0),
    }
    columns["encoder_y"][2] = NAN  # while the beam is there
    columns["encoder_y"][3], columns["beam_x"][3] = 2.0**40, NAN  # while x has lost its beam
    columns["temperature"][4] = 400  # both encoders go on
    columns["encoder_y"][6] = columns["beam_y"][6] = NAN  # nothing is left of y
    columns["samples"][7] = columns["encoder_x"][7] = columns["encoder_y"][7] = 0
    raw = raw_run(columns)
    nm = {"scale": 0.001, "reading": "value"}
    words = Encoders(
        axes={"x": nm, "y": nm},
        inputs={"x": "encoder_x", "y": "encoder_y", "gate_samples": "samples"},
    )
    beams = Interferometers(
        axes={"x": {"resolution": 1.0}, "y": {"resolution": 1.0}},
        inputs={"x": "beam_x", "y": "beam_y", "air_temperature": "temperature"},
        pressure=0.0,
        humidity=0.0,
    )
    upstream = [*process(words, raw, batch_size=size), *process(beams, raw, batch_size=size)]
    made = table(process(Positions(), raw, batch_size=size, upstream=upstream))
    assert made["invalid_reason"].tolist() == [
        *[""] * 6,
        "y is not known: no number from interferometer or encoder",
        "encoders: the gate is empty (samples: 0)",
    ]
    same(made["x"][:6], x[:6] / 1e3)
    same(made["y"][:6], y[:6] / 1e3)
    assert made["x_source"][:6].tolist() == [1, 1, 1, 2, 2, 1]
    assert made["y_source"][:6].tolist() == [1, 1, 1, 1, 2, 1]
    same(made["x_offset"][3:5], [1000, 1000])
    assert np.isnan(made["x"][6:]).all()
