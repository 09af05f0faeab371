"""Encoders: exact over wraps, however batches are cut, and bad input that is flagged."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandablocks.connections import DataConnection
from pandablocks.hdf import create_default_pipeline, stop_pipeline
from pandablocks.responses import FrameData

from p06bs import process
from p06bs.callbacks._encoder_axis import LEAP, UNREADABLE
from p06bs.callbacks._gates import NO_RANGE, OUTSIDE, WRAPPED
from p06bs.callbacks.encoders import Encoders
from p06bs.model.binding import BindingError
from p06bs.model.documents import NamedDocument
from p06bs.model.maps import newest
from p06bs.model.modality import SettingsError
from tests.documents import acquisition, frame_documents, raw_run
from tests.markdown_pages import Page

DUMPS = Path(__file__).parent / "data" / "panda"


def wrap(counts: Any, bits: int = 32, *, signed: bool = True) -> np.ndarray:
    """Return the words that an encoder shows when it has counted so far."""
    words = np.asarray(counts, np.int64) % (1 << bits)
    return np.where(words >= 1 << (bits - 1), words - (1 << bits), words) if signed else words


def derive(
    columns: dict[str, Any], axis: dict[str, Any] | None = None, size: int = 256, **options: Any
) -> dict[str, Any]:
    """Return the columns of the derived run of one axis, x, whose inputs are named as columns."""
    modality = Encoders(
        axes={"x": {"scale": 1.0, **(axis or {})}}, inputs={name: name for name in columns}
    )
    return table(process(modality, raw_run(columns, page=7, **options), batch_size=size))


def table(derived: Sequence[NamedDocument]) -> dict[str, Any]:
    pages = [document["data"] for name, document in derived if name == "event_page"]
    assert derived[-1][1]["exit_status"] == "success", derived[-1][1]["reason"]
    return {key: np.concatenate([page[key] for page in pages]) for key in pages[0]}


def gates(paths: np.ndarray, bits: int = 32) -> dict[str, Any]:
    """Return what a box captures of counts of shape (gates, samples)."""
    words = wrap(paths, bits)
    return {
        "x_min": words.min(axis=1).astype(np.int32),
        "x_max": words.max(axis=1).astype(np.int32),
        "x_sum": words.sum(axis=1),
        "gate_samples": np.full(len(words), words.shape[1], np.uint32),
    }


# Truth


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("direction", [1, -1])
def test_positions_are_exact_over_two_full_wraps(signed: bool, direction: int) -> None:
    rng = np.random.default_rng(1)
    counts = np.cumsum(rng.integers(-(2**20), 2**25, 1500)) + 12345
    assert counts[-1] > 2 * 2**32
    words = wrap(counts, signed=signed).astype(np.int32 if signed else np.uint32)
    made = derive({"x": words}, {"direction": direction, "scale": 0.5, "reading": "value"})
    assert made["x"].tolist() == (direction * 0.5 * counts).tolist()
    assert made["valid"].all()
    assert not made["x_flag"].any()


def test_sums_of_long_gates_lose_no_bit() -> None:
    # 125 MHz for 10 s near the end of the range: sums need 62 bits, which no float holds.
    samples = 1_250_000_000
    whole, rest = 2**31 - 10, 1_000_000_001
    sums = np.array([whole * samples + rest, (whole - 1) * samples + 1, -whole * samples - 1])
    made = derive(
        {"x_sum": sums, "gate_samples": np.full(3, samples, np.uint32)},
        {"reading": "sum", "offset": float(-whole)},
    )
    expected = [rest / samples, -1 + 1 / samples, 20 - 1 / samples]
    np.testing.assert_allclose(made["x"], expected, rtol=0, atol=2**-20)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
def test_a_sum_is_a_mean_times_samples(dtype: Any) -> None:
    counts = np.arange(0, 400, 5)
    columns = {"x_sum": (125 * counts + 50).astype(dtype), "gate_samples": np.full(80, 125)}
    made = derive(columns, {"reading": "sum", "scale": 2.0, "offset": 1.0})
    np.testing.assert_allclose(made["x"], 2 * (counts + 0.4) + 1, rtol=1e-14)


@pytest.mark.parametrize("start", [-3000, 0, 3000])
def test_a_scan_may_begin_on_either_side_of_the_wrap(start: int) -> None:
    way = np.arange(start, start + 8000, 100)
    made = derive({"x": wrap(2**31 + 700 + way)}, {"origin": 2**31 + 700, "offset": 10.0})
    assert made["x"].tolist() == (way + 10.0).tolist()
    assert not made["x_flag"].any()


def test_half_width_and_mean_of_a_gate() -> None:
    paths = np.array([[0, 1, 2, 3], [3, 4, 5, 8], [8, 8, 8, 8]])
    made = derive(gates(paths), {"reading": "sum", "scale": -0.5, "offset": 10.0})
    assert made["x"].tolist() == [10 - 0.75, 10 - 2.5, 10 - 4.0]
    assert made["x_half_width"].tolist() == [0.75, 1.25, 0.0]


def test_the_unit_is_that_of_the_axis() -> None:
    modality = Encoders(
        axes={"x": {"scale": 1}, "rotation": {"scale": 1}, "pitch": {"scale": 1, "unit": "deg"}}
    )
    bound: Any = dict.fromkeys(("x", "rotation", "pitch"))
    outputs = modality.outputs(modality.settings, bound)
    assert {name: outputs[name].unit for name in ("x", "rotation", "pitch")} == {
        "x": "um",
        "rotation": "deg",
        "pitch": "deg",
    }


@settings(max_examples=60, deadline=None)
@given(
    bits=st.integers(3, 32),
    start=st.integers(-(2**33), 2**33),
    steps=st.lists(st.floats(-1, 1), min_size=1, max_size=60),
    size=st.integers(1, 64),
    signed=st.booleans(),
)
def test_any_way_is_followed_however_it_is_cut(
    bits: int, start: int, steps: list[float], size: int, signed: bool
) -> None:
    longest = (1 << (bits - 1)) - 1
    counts = start + np.cumsum([int(step * longest) for step in steps])
    made = derive({"x": wrap(counts, bits, signed=signed)}, {"bits": bits, "signed": signed}, size)
    words = wrap(counts, bits, signed=signed)
    assert made["x"].tolist() == (counts - counts[0] + words[0]).tolist()
    step = np.abs(np.diff(counts, prepend=counts[0]))
    assert ((made["x_flag"] & LEAP) > 0).tolist() == (step > 1 << (bits - 2)).tolist()


@settings(max_examples=40, deadline=None)
@given(
    legs=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 15)), min_size=1, max_size=5),
    size=st.integers(1, 30),
    bad=st.sets(st.integers(0, 60), max_size=5),
)
def test_after_rewinds_what_counts_is_that_of_an_uninterrupted_scan(
    legs: list[tuple[int, int]], size: int, bad: set[int]
) -> None:
    seqs = acquisition([*legs, (100, 0)])  # an aborted scan leaves rows of earlier legs
    counts = np.array(seqs) * 50  # of 8 bits: a wrap every five events
    counts[: len(seqs)] += np.arange(len(seqs)) % 3
    words = wrap(counts, 8).astype(float)
    words[[row for row in bad if row < len(seqs)]] = np.nan
    axis = {"bits": 8, "reading": "value"}
    made = derive({"x": words}, axis, size, seqs=seqs)
    rows = newest(made["raw_seq_num"])
    plain = derive({"x": words[rows]}, axis, size)
    assert made["valid"][rows].tolist() == plain["valid"].tolist()
    assert np.array_equal(made["x"][rows], plain["x"], equal_nan=True)


# Wraps inside the gate


def test_a_wrap_inside_the_gate_costs_its_own_position_only() -> None:
    paths = 2**31 - 1000 + np.arange(0, 1600, 4).reshape(-1, 16)  # one gate has both ends
    for reading in ("sum", "mean"):
        columns = gates(paths)
        if reading == "mean":
            columns["x"] = columns.pop("x_sum") / 16
        made = derive(columns, {"reading": reading})
        good = np.isfinite(made["x"])
        (lost,) = np.flatnonzero(~good)
        assert 0 < lost < len(paths) - 1
        assert made["x_flag"].tolist() == (WRAPPED * ~good).tolist()
        assert made["valid"].all()  # though it is the only axis: others may know where it is
        assert made["x"][good].tolist() == paths.mean(axis=1)[good].tolist()
        assert made["x_half_width"][good].tolist() == [30.0] * (len(paths) - 1)


def test_a_gate_of_two_samples_is_recovered_exactly() -> None:
    paths = np.array([[2**31 - 4, 2**31 - 1], [2**31 - 2, 2**31 + 3], [2**31 + 3, 2**31 + 4]])
    made = derive(gates(paths), {"reading": "sum"})
    assert made["valid"].all()
    assert made["x"].tolist() == paths.mean(axis=1).tolist()
    assert made["x_half_width"].tolist() == [1.5, 2.5, 0.5]
    assert made["x_flag"].tolist() == [0, WRAPPED, 0]


def test_a_latched_word_does_not_mind_a_wrap_inside_the_gate() -> None:
    paths = 2**31 - 1000 + np.arange(0, 1600, 4).reshape(-1, 16)
    columns = {**gates(paths), "x": wrap(paths[:, 0])}
    del columns["x_sum"]
    made = derive(columns, {"reading": "value"})
    assert made["x"].tolist() == paths[:, 0].tolist()
    wrapped = made["x_flag"] == WRAPPED
    assert wrapped.sum() == 1
    assert np.isnan(made["x_half_width"]).tolist() == wrapped.tolist()


# Bad input


def test_bad_events_are_flagged_with_a_reason_and_leave_the_others() -> None:
    words = np.array([10.0, np.nan, np.inf, -np.inf, 2.0**32, 14.0, 0.0, 0.0, 16.0, 17.0, 18.0])
    samples = np.array([5.0, 5, 5, 5, 5, 5, 0, np.nan, 5, 5, 5])
    low, high = words - 1, words + 1
    low[8], high[8], low[9] = 17, 15, np.nan
    made = derive({"x": words, "x_min": low, "x_max": high, "gate_samples": samples})
    assert made["invalid_reason"].tolist() == [
        "",
        "x reads nan, which 32 bits do not hold; x has minimum nan and maximum nan",
        "x reads inf, which 32 bits do not hold; x has minimum inf and maximum inf",
        "x reads -inf, which 32 bits do not hold; x has minimum -inf and maximum -inf",
        "x reads 4294967296.0, which 32 bits do not hold",
        "",
        "the gate is empty (samples: 0.0)",
        "the gate is empty (samples: nan)",
        "x has minimum 17.0 and maximum 15.0",
        "x has minimum nan and maximum 18.0",
        "",
    ]
    good = made["valid"]
    assert made["x"][good].tolist() == [10, 14, 18]
    assert np.isnan(made["x"][~good]).all()
    assert np.isnan(made["x_half_width"][~good]).all()


def test_a_bad_axis_costs_itself_only_and_says_why() -> None:
    paths = 2**31 - 300 + np.arange(0, 640, 4).reshape(-1, 16)  # the fifth gate has both ends
    seen = gates(paths)
    seen["x_sum"][1] = 2**40
    low = seen["x_min"].astype(float)
    low[2], low[3] = np.nan, 2**31 - 1
    y = 5.0 * np.arange(10)
    y[[6, 8]] = np.nan
    columns = {**seen, "x_min": low, "y": y, "z": np.where(np.arange(10) == 7, np.inf, 3.0)}
    columns["gate_samples"][8] = columns["x_sum"][8] = 0
    axes = {
        "x": {"scale": 1.0, "reading": "sum"},
        "y": {"scale": 1.0, "reading": "value"},
        "z": {"scale": 2.0, "bits": 0},
    }
    modality = Encoders(axes=axes, inputs={name: name for name in columns})
    for size in (1, 256):
        made = table(process(modality, raw_run(columns), batch_size=size))
        assert made["invalid_reason"].tolist() == [
            *[""] * 8,
            "the gate is empty (samples: 0); y reads nan, which 32 bits do not hold",
            "",
        ]
        bad = np.array([1, 2, 3, 4, 8])
        assert np.flatnonzero(np.isnan(made["x"])).tolist() == bad.tolist()
        assert (made["x_flag"][bad[:4]] & [UNREADABLE, NO_RANGE, NO_RANGE, WRAPPED]).all()
        good = np.isfinite(made["x"])
        assert made["x"][good].tolist() == paths.mean(axis=1)[good].tolist()  # goes on
        assert np.isnan(made["x_half_width"][bad[1:]]).all()
        assert np.flatnonzero(np.isnan(made["y"])).tolist() == [6, 8]
        assert made["y_flag"][6] == UNREADABLE
        assert np.flatnonzero(np.isnan(made["z"])).tolist() == [7, 8]
        assert made["z_flag"][7] == UNREADABLE


def test_an_event_without_any_axis_is_invalid() -> None:
    columns = {"x": np.array([1.0, np.nan, np.nan]), "y": np.array([1.0, 2.0, np.inf])}
    modality = Encoders(
        axes={"x": {"scale": 1}, "y": {"scale": 1}}, inputs={name: name for name in columns}
    )
    made = table(process(modality, raw_run(columns)))
    unknown = "x reads nan, which 32 bits do not hold; y reads inf, which 32 bits do not hold"
    assert made["invalid_reason"].tolist() == ["", "", unknown]
    assert np.isnan(made["x"]).tolist() == [False, True, True]
    assert made["y"][:2].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("reading", ["sum", "mean", "value"])
def test_an_empty_gate_is_no_position(reading: str) -> None:
    columns: dict[str, Any] = {"x_min": [7, 0, 9], "x_max": [7, 0, 9], "gate_samples": [3, 0, 3]}
    columns["x_sum" if reading == "sum" else "x"] = [21, 0, 27] if reading == "sum" else [7, 0, 9]
    made = derive(
        {name: np.array(c, np.int32) for name, c in columns.items()}, {"reading": reading}
    )
    assert made["valid"].tolist() == [True, False, True]
    assert made["x"][[0, 2]].tolist() == [7, 9]
    assert np.isnan(made["x"][1])


def test_a_mean_outside_of_minimum_and_maximum_is_flagged() -> None:
    columns = {"x": np.array([1.0, 125.0]), "x_min": np.array([1, 1]), "x_max": np.array([1, 1])}
    assert derive(columns)["x_flag"].tolist() == [0, OUTSIDE]


def test_values_that_do_not_wrap_may_be_anything_finite() -> None:
    values = np.array([0.25, -1e12, np.nan, 3e12])
    made = derive({"x": values}, {"bits": 0, "scale": 1000.0, "offset": 5.0})
    assert made["x"][[0, 1, 3]].tolist() == [255.0, -1e15 + 5, 3e15 + 5]
    assert made["invalid_reason"].tolist() == ["", "", "x reads nan", ""]


def test_unsigned_values_that_do_not_wrap_may_lie_below_the_origin() -> None:
    made = derive({"x": np.array([3, 10], np.uint32)}, {"bits": 0, "origin": 7, "scale": 0.5})
    assert made["x"].tolist() == [-2.0, 1.5]


def test_one_axis_need_not_be_captured_as_the_other() -> None:
    columns = {"a": np.arange(5) * 100, "b": np.arange(5) * 50, "n": np.full(5, 10)}
    modality = Encoders(
        axes={"x": {"scale": 0.1}, "rotation": {"scale": 1e-3, "reading": "sum", "bits": 24}},
        inputs={"x": "a", "rotation_sum": "b", "gate_samples": "n"},
    )
    made = table(process(modality, raw_run(columns)))
    np.testing.assert_allclose(made["x"], np.arange(5) * 10.0)
    np.testing.assert_allclose(made["rotation"], np.arange(5) * 5e-3)


def test_axes_are_found_by_role() -> None:
    devices = {"box": {"roles": {"a": "encoder_x", "b": "encoder_y", "n": "gate_samples"}}}
    columns = {"a": np.arange(5), "b": np.arange(5) * 2, "n": np.array([1, 1, 0, 1, 1])}
    raw = raw_run(columns, devices={k: v for name in "abn" for k, v in [(name, devices["box"])]})
    made = table(process(Encoders(axes={"x": {"scale": 1}, "y": {"scale": 1}}), raw))
    assert made["y"][made["valid"]].tolist() == [0, 2, 6, 8]


def test_an_axis_that_a_run_lacks_costs_itself_only() -> None:
    devices = {"a": "encoder_x", "n": "gate_samples"}
    columns = {"a": np.arange(5), "n": np.ones(5, int)}
    axes = {"y": {"scale": 1}, "x": {"scale": 1}, "z": {"scale": 2, "reading": "sum"}}
    sums = {"x": {"scale": 1, "reading": "sum"}}
    raw = raw_run({"a": columns["a"]}, devices={"a": "encoder_x"})  # no sum: no samples
    assert table(process(Encoders(axes=axes), raw))["x"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"axes\.x\.reading = 'sum' needs .* 'gate_samples'"):
        process(Encoders(axes=sums, inputs={"x_sum": "a"}), raw)
    raw = raw_run(columns, devices=devices)
    derived = process(Encoders(axes=axes), raw)
    made = table(derived)
    assert made["x"].tolist() == [0, 1, 2, 3, 4]
    assert made["valid"].all()
    assert not {"y", "z"} & made.keys()
    (y, z) = derived[0][1]["process"]["warnings"]
    assert "input 'y' looked for role 'encoder_y'" in y
    assert "input 'z_sum' looked for role 'encoder_z_sum'" in z
    with pytest.raises(BindingError, match=r"'y' looked for .* found none.*; input 'z_sum' looked"):
        process(Encoders(axes={n: a for n, a in axes.items() if n != "x"}), raw)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "at least 1 item"),
        ({"x": {}}, "Field required"),
        ({"x": {"scale": 0}}, "must not be 0"),
        ({"x": {"scale": float("nan")}}, "finite"),
        ({"x": {"scale": 1, "bits": 64}}, "less than or equal to 63"),
        ({"x": {"scale": 1, "bits": 1}}, "greater than or equal to 2"),
        ({"x": {"scale": 1, "direction": 2}}, "1 or -1"),
        ({"x": {"scale": 1}, "x_min": {"scale": 1}}, "cannot be the name of an axis"),
        ({"x": {"scale": 1}, "x_rest": {"scale": 1}}, "cannot be the name of an axis"),
        ({"valid": {"scale": 1}}, "cannot be the name of an axis"),
        ({"a b": {"scale": 1}}, "cannot be the name of an axis"),
    ],
)
def test_senseless_settings_are_refused(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Encoders(axes=axes)


def test_settings_that_need_more_than_is_bound_are_refused() -> None:
    raw = raw_run({"a": np.arange(4)})
    modality = Encoders(axes={"x": {"scale": 1}}, inputs={"x": "a"})
    both = {"axes": {"x": {"scale": 1}, "y": {"scale": 1}}}
    uid = next(d["uid"] for n, d in raw if n == "event")
    with pytest.raises(ValueError, match="axes: need y, which nothing feeds in this run"):
        process(modality, raw, [(uid, both)])


# What a PandA sends


def captured(dump: bytes) -> list[Any]:
    connection = DataConnection()
    connection.connect(scaled=False)
    return list(connection.receive_bytes(dump))


def test_a_raw_capture_of_a_panda() -> None:
    """In a raw capture a mean is the sum of so many clock ticks."""
    dump = gzip.decompress((DUMPS / "raw_dump.bin.gz").read_bytes())
    frames = [data.data for data in captured(dump) if isinstance(data, FrameData)]
    rows = np.concatenate(frames)
    columns = {name.replace(".", "-"): rows[name].copy() for name in rows.dtype.names}
    modality = Encoders(
        axes={
            "x": {"scale": 0.1, "reading": "sum"},
            "y": {"scale": 0.1, "reading": "sum"},
            "z": {"scale": 0.1, "reading": "value"},
        },
        inputs={
            "x_sum": "COUNTER1-OUT-Mean",
            "x_min": "COUNTER1-OUT-Min",
            "x_max": "COUNTER1-OUT-Max",
            "y_sum": "COUNTER2-OUT-Mean",
            "z": "COUNTER3-OUT-Value",
            "gate_samples": "PCAP-GATE_DURATION-Value",
        },
    )
    made = table(process(modality, raw_run(columns, page=100)))
    steps = np.arange(1, 1490)  # pandablocks' own tests say what was counted
    for axis, factor in (("x", 1), ("y", 2), ("z", 3)):
        assert made[axis].tolist() == (0.1 * (factor * steps)).tolist()
    assert not made["x_half_width"].any()
    assert not made["x_flag"].any()


def test_a_file_that_is_named_by_stream_resources(tmp_path: Path) -> None:
    """As ophyd-async's PandA writes it: a data set per data key, of shape [1] each."""
    fields = {"x": "INENC1.VAL.Mean", "x_min": "INENC1.VAL.Min", "x_max": "INENC1.VAL.Max"}
    counts = np.arange(0, 2**20, 2**14) + 2**31 - 2**19
    counts = np.where(np.abs(counts - 2**31) < 500, counts - 1000, counts)
    with h5py.File(tmp_path / "panda.h5", "w") as file:
        for name, shift in (("x", 0.5), ("x_min", -400), ("x_max", 400)):
            file[fields[name]] = wrap(counts + int(shift)) + shift % 1
        file["PCAP.SAMPLES.Value"] = np.where(np.arange(len(counts)) == 20, 0, 125)
    raw = raw_run({"i0": np.zeros(len(counts))}, aligned_streams=["primary", "panda"])
    uid, documents, described = raw[0][1]["uid"], [], None
    for key, field in {**fields, "gate_samples": "PCAP.SAMPLES.Value"}.items():
        made = frame_documents(
            uid,
            tmp_path / "panda.h5",
            len(counts),
            [1],
            key=key,
            stream="panda",
            dataset=f"/{field}",
            dtype="<f8",
            per=10,
        )
        described = described or made[0][1]
        described["data_keys"] |= made[0][1]["data_keys"]
        for _, document in made:
            if "descriptor" in document:
                document["descriptor"] = described["uid"]
        documents += made[1:]
    raw[-1:-1] = [("descriptor", described), *documents]
    modality = Encoders(
        axes={"x": {"scale": 0.25}},
        inputs={name: f"panda/{name}" for name in (*fields, "gate_samples")},
    )
    made = table(process(modality, raw))
    good = np.arange(len(counts)) != 20
    assert made["x"][good].tolist() == (0.25 * (counts[good] + 0.5)).tolist()
    assert made["x_half_width"][good].tolist() == [100.0] * good.sum()
    assert made["invalid_reason"][20] == "the gate is empty (samples: 0)"


def recipe(reader: str, *, raw: bool = False) -> dict[str, Any]:
    """Run what the page shows: the block that reads with `reader`, then the last one."""
    blocks = [block.source for block in Page("docs/reference/encoders.md").blocks("python")]
    (read,) = [block for block in blocks if reader in block]
    derive = blocks[-1]
    if raw:
        for mean, total in (
            ('axis = {"scale": 0.005}', 'axis = {"scale": 0.005, "reading": "sum"}'),
            ('"x": "COUNTER1-OUT-Mean"', '"x_sum": "COUNTER1-OUT-Mean"'),
        ):
            assert mean in derive
            derive = derive.replace(mean, total)
    names: dict[str, Any] = {}
    exec(read, names)
    exec(derive, names)
    return names


def test_the_file_of_a_scaled_capture_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = create_default_pipeline(iter([str(tmp_path / "capture.h5")]), {})
    for data in captured((DUMPS / "fast_dump.bin").read_bytes()):
        pipeline[0].queue.put_nowait(data)
    stop_pipeline(pipeline)
    monkeypatch.chdir(tmp_path)
    assert recipe("h5py")["x"].tolist() == (0.005 * np.arange(1, 59)).tolist()


@pytest.mark.parametrize("begin", [0, 3], ids=["with its status", "from its header on"])
def test_a_scaled_dump_as_the_page_shows(
    begin: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dump = (DUMPS / "fast_dump.bin").read_bytes()
    Path("dump.bin").write_bytes(dump[begin:] + dump[3:])  # another capture follows
    names = recipe("DataConnection")
    assert names["x"].tolist() == (0.005 * np.arange(1, 59)).tolist()
    assert (names["header"].process, names["header"].missed) == ("Scaled", 0)


def test_a_raw_dump_as_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dump.bin").write_bytes(gzip.decompress((DUMPS / "raw_dump.bin.gz").read_bytes()))
    names = recipe("DataConnection", raw=True)
    assert names["x"].tolist() == (0.005 * np.arange(1, 1490)).tolist()
    assert names["header"].process == "Raw"


def test_a_dump_that_was_cut_gives_the_frames_that_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dump = (DUMPS / "fast_dump.bin").read_bytes()
    Path("dump.bin").write_bytes(dump[: len(dump) * 2 // 3])
    x = recipe("DataConnection")["x"]
    assert 20 < len(x) < 50
    assert x.tolist() == (0.005 * np.arange(1, len(x) + 1)).tolist()


def test_a_capture_as_text_as_the_page_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PandABlocks-server's page on data capture shows it."""
    monkeypatch.chdir(tmp_path)
    Path("dump.txt").write_text(
        "OK\nmissed: 0\nprocess: Scaled\nformat: ASCII\nfields:\n"
        " PCAP.TS_START double Value scale: 8e-09 offset: 0 units: s\n"
        " PCAP.GATE_DURATION double Value scale: 1 offset: 0 units: \n"
        " COUNTER1.OUT double Mean scale: 1 offset: 0 units: \n\n"
        " 1e-06 125 1\n 3e-06 125 2.5\n 5e-06 0 nan\n 7e-06 125 -4\nEND 4 Ok\n"
    )
    x = recipe("read_text")["x"]
    assert np.array_equal(x, [0.005, 0.0125, np.nan, -0.02], equal_nan=True)


def test_an_absolute_encoder_of_48_bits_wraps_there() -> None:
    way = np.arange(-5, 5) * 2**40 + 2**47
    made = derive({"x": wrap(way, 48)}, {"bits": 48, "reading": "value", "origin": 2**47})
    assert made["x"].tolist() == (way - 2**47).tolist()
