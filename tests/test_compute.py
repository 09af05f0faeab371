"""Computing a batch: one bad event costs one row, and what is declared is what comes out."""

import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs import Input, Modality, ModalitySettings, Output, process
from p06bs.callbacks.xrf import RegionSums
from p06bs.model.compute import compute, make_ready
from p06bs.model.conformance import bind_columns
from p06bs.model.documents import NamedDocument
from tests.documents import raw_run, rows_of, validate
from tests.techniques import Scale


class Made(Modality):
    """Make whatever the settings say, right or wrong."""

    x = Input(role="counter")

    class Settings(ModalitySettings):
        """What to do."""

        act: str = ""

    calls = 0

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        kinds = {"i": "int32", "u": "uint16", "b": "bool", "s": "<U8", "f": "float32"}
        outputs = {name: Output(dtype=dtype) for name, dtype in kinds.items()}
        return {**outputs, "pair": Output(shape=(2,), dims=("pair",))}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        type(self).calls += 1
        x = columns["x"]
        act = setup.act
        if act == "write":
            x[0] = 1.0
        if act == "raise" or (act == "one" and 3.0 in x):
            raise KeyError("what")
        if act == "exit":
            sys.exit("enough")
        made: dict[str, Any] = {"i": np.zeros(len(x), "i4"), "u": np.zeros(len(x), "u2")}
        made.update(b=x > 0, s=["text"] * len(x), f=x, pair=np.stack([x, -x], axis=1))
        match act:
            case "missing":
                del made["pair"]
            case "extra":
                made["more"] = x
            case "length":
                made["i"] = made["i"][1:]
            case "shape":
                made["pair"] = made["pair"].T.copy() if len(x) != 2 else made["pair"][:, :1]
            case "range":
                made["i"] = np.full(len(x), 2**40)
            case "text":
                made["s"] = ["too long for it"] * len(x)
            case "dtype":
                made["i"] = x
            case "flags":
                made["invalid"] = [""] * (len(x) + 1)
            case "list":
                made = {k: np.asarray(c).tolist() for k, c in made.items()}
            case "none":
                made["invalid"] = [None if v == 3.0 else "" for v in x]
        return made


def derived(act: str, x: Any = (0.0, 1, 2, 3, 4), **kwargs: Any) -> list[NamedDocument]:
    documents = process(
        Made(act=act, inputs={"x": "x"}), raw_run({"x": np.asarray(x, float)}), **kwargs
    )
    validate(documents)
    return documents


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("raise", "KeyError: 'what'"),
        ("exit", "SystemExit: enough"),
        ("missing", "missing ['pair'], not declared []"),
        ("extra", "missing [], not declared ['more']"),
        ("length", "made i with shape (0,), declared is (1,)"),
        ("shape", "made pair with shape"),
        ("dtype", "made i as float64, declared is int32"),
        ("range", "made i with values that int32 does not hold"),
        ("text", "made s with values that <U8 does not hold"),
        ("flags", "flagged 2 events of a batch of 1"),
        ("write", "assignment destination is read-only"),
    ],
)
def test_everything_invalid_is_still_a_complete_run(act, reason):
    documents = derived(act)
    rows = rows_of(documents, "valid", "invalid_reason", "i", "u", "b", "s")
    assert len(rows) == 5
    for row in rows:
        assert row[3] is False
        assert reason in row[4]
        assert row[5:] == (np.iinfo("i4").min, np.iinfo("u2").max, False, "")
    pairs = [r[3] for r in rows_of(documents, "pair")]
    assert np.isnan(pairs).all()
    assert np.shape(pairs) == (5, 2)
    stop = documents[-1][1]
    assert (stop["num_events"], stop["num_invalid"]) == ({"primary": 5}, {"primary": 5})
    assert stop["exit_status"] == "success"  # the scan did not fail


def test_lists_in_place_of_arrays_are_accepted_where_they_are_as_declared():
    documents = derived("list")
    assert all(r[3] for r in rows_of(documents, "valid"))
    page = next(d for n, d in documents if n == "event_page")
    assert {k: page["data"][k].dtype.str for k in "iubf"} == {
        "i": "<i4",
        "u": "<u2",
        "b": "|b1",
        "f": "<f4",
    }


def test_one_bad_event_among_many_costs_a_logarithm_of_calls():
    x = np.arange(1024.0)
    modality = Made(act="one", inputs={"x": "x"})
    Made.calls = 0
    documents = process(modality, raw_run({"x": x}, page=256), batch_size=1024)
    rows = rows_of(documents, "f", "valid", "invalid_reason")
    assert [r[5] for r in rows if not r[4]] == ["KeyError: 'what'"]
    assert [r[3] for r in rows if r[4]] == [v for v in x.tolist() if v != 3.0]
    assert 11 <= Made.calls <= 1 + 2 * 10


def test_values_that_are_not_numbers_go_through_as_they_are():
    x = [1.0, np.nan, np.inf, -np.inf, 0.0]
    rows = rows_of(process(Scale(inputs={"x": "x"}), raw_run({"x": x})), "y", "valid")
    assert all(r[4] for r in rows[:1])
    # NaN is no integer, so numpy warns (an error in tests) where the modality casts it.
    assert [r[4] for r in rows] == [True, False, False, False, True]


def test_flagged_events_are_masked_and_keep_their_reasons():
    documents = process(
        Scale(inputs={"x": "x"}, flagged=[1.0, 3.0], bad=[2.0]), raw_run({"x": np.arange(5.0)})
    )
    rows = rows_of(documents, "valid", "invalid_reason", "y", "n")
    reasons = ["", "flagged", "ValueError: cannot stand [2.0]", "flagged", ""]
    assert [r[3:5] for r in rows] == [(not r, r) for r in reasons]
    assert [r[6] for r in rows] == [0, *[np.iinfo("i8").min] * 3, 4]


def test_reserved_names_are_refused_before_anything_is_computed():
    class Greedy(Scale):
        def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
            return {"valid": Output(), "y": Output()}

    with pytest.raises(ValueError, match="greedy may not call outputs valid"):
        process(Greedy(inputs={"x": "x"}), raw_run({"x": np.arange(5.0)}))


BAD_VALUES = {
    "a string": ("ERR", "x (x) holds a str"),
    "nothing": (None, "x (x) holds a NoneType"),
    "a dictionary": ({"a": 1}, "x (x) holds a dict"),
    "an array": (np.ones(3), "x (x) has shape [3], described is []"),
    "a ragged list": ([[1], [1, 2]], "x (x) is ragged"),
    "a missing key": (KeyError, "x is not in the event"),
}


@pytest.mark.parametrize("kind", BAD_VALUES)
@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_a_value_that_does_not_fit_costs_its_event(kind, batch_size):
    value, reason = BAD_VALUES[kind]
    raw = raw_run({"x": np.arange(20.0)})
    data = raw[2 + 11][1]["data"]
    data.clear() if value is KeyError else data.update(x=value)
    documents = process(Scale(inputs={"x": "x"}), raw, batch_size=batch_size)
    rows = rows_of(documents, "y", "invalid_reason")
    assert rows[11][4] == reason
    assert [r[3] for i, r in enumerate(rows) if i != 11] == [2.0 * i for i in range(20) if i != 11]


def test_scalars_where_spectra_are_described_cost_their_events():
    raw = raw_run({"mca": np.ones((6, 8), int)})
    raw[4][1]["data"]["mca"] = 3.0
    raw[5][1]["data"]["mca"] = [1, 2, 3]
    raw[6][1]["data"]["mca"] = [[1, 2], [3]]
    modality = RegionSums(regions={"a": (0, 7)}, inputs={"spectrum": "mca"})
    rows = rows_of(process(modality, raw), "a", "invalid_reason")
    assert [r[4] for r in rows] == [
        "",
        "",
        "spectrum (mca) has shape [], described is [8]",
        "spectrum (mca) has shape [3], described is [8]",
        "spectrum (mca) is ragged",
        "",
    ]
    assert [r[3] for r in rows] == [8, 8, *[np.iinfo("i8").min] * 3, 8]


@pytest.mark.parametrize("page", [5, 10])
def test_a_page_that_is_too_short_costs_the_events_it_lacks(page):
    raw = raw_run({"x": np.arange(10.0)}, page=page)
    last = raw[-2][1]
    last["data"] = {"x": last["data"]["x"][:-2]}
    rows = rows_of(process(Scale(inputs={"x": "x"}), raw), "valid", "invalid_reason")
    assert [r[3] for r in rows] == [True] * 8 + [False] * 2
    assert rows[-1][4] == "x has fewer values than its page has events"


class Labels(Modality):
    """Strings in, lengths out."""

    label = Input(role="label")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"length": Output(dtype="int64")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"length": np.char.str_len(columns["label"])}


def test_a_reason_is_never_taken_for_a_value():
    raw = raw_run({"label": np.array(["a", "bb", "ccc"])})
    described = raw[1][1]["data_keys"]["label"]
    described.update(dtype="string")
    del raw[3][1]["data"]["label"]
    rows = rows_of(process(Labels(inputs={"label": "label"}), raw), "length", "invalid_reason")
    assert rows[1][4] == "label is not in the event"
    assert [rows[0][3], rows[2][3]] == [1, 3]


@given(
    bad=st.sets(st.integers(0, 39)),
    flagged=st.sets(st.integers(0, 39)),
    unread=st.sets(st.integers(0, 39)),
)
def test_any_set_of_bad_events_leaves_the_others_alone(bad, flagged, unread):
    x = np.arange(40.0)
    modality = Scale(bad=sorted(map(float, bad)), flagged=sorted(map(float, flagged)))
    setup = make_ready(modality, modality.settings, bind_columns(modality, {"x": x}))
    reasons = ["late" if i in unread else "" for i in range(40)]
    result = compute(setup, {"x": x.copy()}, reasons)
    good = [i for i in range(40) if i not in bad | flagged | unread]
    assert np.flatnonzero(result.valid).tolist() == good
    for name in ("y", "n") if good else ():
        assert result.columns[name].tolist() == [(2 if name == "y" else 1) * i for i in good]
    assert all(result.reasons[i] == "late" for i in unread)
