"""Counters: exact formulae, honest uncertainties, and bad input that is flagged."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p06bs import callback, process
from p06bs.callbacks.counters import Counters
from p06bs.model.binding import BindingError
from p06bs.model.conformance import check, made_up_columns
from p06bs.model.documents import NamedDocument
from p06bs.model.modality import INVALID, BoundInput, Columns, SettingsError
from tests.documents import raw_run

CHARGE = 1.602176634e-19


def bound(channels: int = 2) -> dict[str, BoundInput]:
    shape = (channels,)
    return {
        "counts": BoundInput("primary", "counter", False, shape, shape, "<u4", "counts"),
        "gate_time": BoundInput("primary", "gate", False, (), (), "<f8", "s"),
    }


def run(counts: Any, gate: Any, **settings: Any) -> Columns:
    counts, gate = np.asarray(counts), np.asarray(gate, float)
    counts.flags.writeable = gate.flags.writeable = False
    modality = Counters(**settings)
    feeds = bound(counts.shape[1])
    made = modality.process(
        modality.prepare(modality.settings, feeds), counts=counts, gate_time=gate
    )
    declared = modality.outputs(modality.settings, feeds)
    assert set(made) - {INVALID} == set(declared)
    for name, output in declared.items():
        assert made[name].dtype == output.dtype
        assert made[name].shape == (len(counts), *output.shape)
    return made


def nonparalyzable(rate: float, dead_time: float, gate: float, events: int) -> np.ndarray:
    """Count arrivals with exponential waiting times, each of which blinds the counter."""
    rng = np.random.default_rng(1)
    expected = int(gate * rate * 1.2 + 50)
    waits = rng.exponential(1 / rate, (events, expected))
    arrivals = np.cumsum(waits + dead_time, axis=1) - dead_time
    assert (arrivals[:, -1] > gate).all()
    return (arrivals < gate).sum(axis=1)


def test_rate_follows_the_formula() -> None:
    made = run([[1000, 0], [500, 7]], [0.1, 2.0], dead_time=(1e-6, 2e-6), dark=5.0, gain=(1.0, 2.0))
    observed = np.array([[1e4, 0], [250, 3.5]])
    true = observed / (1 - observed * [1e-6, 2e-6])
    np.testing.assert_allclose(made["rate"], (true - 5) / [1, 2], rtol=1e-12)
    np.testing.assert_allclose(
        made["rate_sigma"][:, 0], true[:, 0] / np.sqrt([1000, 500]), rtol=1e-12
    )
    assert made["rate_sigma"][0, 1] == pytest.approx(1 / 0.1 / 2)  # no count counts as one
    assert INVALID not in made


@pytest.mark.parametrize("busy", [0.0, 0.1, 1.0])
def test_sigma_is_that_of_a_counter_with_dead_time(busy: float) -> None:
    rate, gate = 1e5, 0.02
    counts = nonparalyzable(rate, busy / rate, gate, 4000)
    made = run(counts[:, None], np.full(4000, gate), dead_time=busy / rate)
    pulls = (made["rate"] - rate) / made["rate_sigma"]
    assert 0.95 < pulls.std() < 1.05
    assert abs(pulls.mean()) < 0.1


def test_bad_events_are_flagged_with_a_reason_and_masked() -> None:
    counts = np.array([[10.0, 10], [10, 2e6], [10, np.nan], [-1, 10], [10, 10], [10, 10], [10, 10]])
    gate = [1, 1, 1, 1, 0, np.nan, -1]
    made = run(counts, gate, dead_time=1e-6)
    reasons = made[INVALID].tolist()
    assert reasons[0] == ""
    assert reasons[1] == "channel 1: observed rate times dead time is 2, not below 1"
    assert reasons[2] == "channel 1 counted nan"
    assert reasons[3] == "channel 0 counted -1"
    assert [r.startswith("gate time is") for r in reasons[4:]] == [True] * 3
    assert np.isfinite(made["rate"][0]).all()
    assert np.isnan(made["rate"][1:]).all()
    assert np.isnan(made["rate_sigma"][1:]).all()


def test_rate_that_reaches_the_dead_time_exactly_has_no_solution() -> None:
    made = run([[8], [7]], [1, 1], dead_time=0.125)
    assert made[INVALID].tolist() == [
        "channel 0: observed rate times dead time is 1, not below 1",
        "",
    ]
    assert made["rate"][1, 0] == pytest.approx(7 / 0.125)


@given(
    counted=st.integers(1, 10**9),
    gate=st.floats(1e-6, 1e3),
    beyond=st.sampled_from([0.0, 3e-16, -3e-16, 1e-13, -1e-13, 1e-9, -1e-9, 0.5, -0.5]),
    others=st.integers(0, 2),
)
@example(counted=2865601, gate=0.0008565500968917911, beyond=0.0, others=0)
@example(counted=100_000, gate=0.1, beyond=0.0, others=0)
def test_a_counter_that_is_never_free_has_no_rate_and_a_reason(
    counted: int, gate: float, beyond: float, others: int
) -> None:
    dead_time = gate / counted * (1 + beyond)
    made = run([[counted]] + [[1]] * others, [gate] + [1e6] * others, dead_time=dead_time)
    reason = made[INVALID][0] if INVALID in made else ""
    assert bool(reason) == (beyond > -1e-10)
    assert np.isnan(made["rate"][0, 0]) == bool(reason)
    if reason:
        assert reason.startswith("channel 0: observed rate times dead time is 1")
    else:
        rate = counted / gate / -beyond
        assert made["rate"][0, 0] == pytest.approx(rate, rel=1e-5)
    assert np.isfinite(made["rate"][1:]).all()


def test_large_correction_sets_the_flag() -> None:
    made = run([[100, 400]], [1.0], dead_time=1e-3, flag_above=0.3)
    assert made["flag"].tolist() == [[0, 1]]


def test_unused_channels_cannot_spoil_an_event() -> None:
    made = run([[np.nan, 5.0, 3.0]], [1.0], channels=(2, 1))
    assert made["rate"].tolist() == [[3.0, 5.0]]
    assert INVALID not in made
    made = run([[np.nan, 5.0, np.inf]], [1.0], channels=(2, 1))
    assert made[INVALID].tolist() == ["channel 2 counted inf"]


def test_results_do_not_depend_on_how_batches_are_cut() -> None:
    rng = np.random.default_rng(2)
    counts, gate = rng.poisson(1e4, (9000, 4)).astype(np.uint16), rng.uniform(0.1, 1, 9000)
    counts[17] = 65535
    settings = {"dead_time": 1e-5, "dark": 3.0}
    whole = run(counts, gate, **settings)
    parts = [run(counts[i : i + 700], gate[i : i + 700], **settings) for i in range(0, 9000, 700)]
    for name in ("rate", "rate_sigma", "flag"):
        np.testing.assert_array_equal(whole[name], np.concatenate([p[name] for p in parts]))


def test_photon_flux_of_a_silicon_diode() -> None:
    flux = {
        "channel": 1,
        "charge_per_count": 1e-12,
        "photon_energy": 12.0,
        "absorbed_fraction": 0.5,
    }
    made = run([[1, 10_000]], [1.0], photon_flux=flux, gain=2.0, dark=100.0)
    current = 1e-12 * (10_000 - 100)  # A
    expected = current * 3.66 / (CHARGE * 12_000 * 0.5)
    assert made["flux"][0] == pytest.approx(expected, rel=1e-12)
    assert made["flux_sigma"][0] == pytest.approx(expected * 100 / 9900, rel=1e-12)
    made = run([[1, 10_000]], [0.0], photon_flux=flux)
    assert np.isnan(made["flux"][0])


def diode(energies: Any = None, constant: float | None = None, **flux: Any) -> Any:
    """Return flux and reasons of a run that says photon energies (eV), of events or configured."""
    columns: dict[str, Any] = {"diode": np.full(4, 1000), "gate": np.full(4, 0.1)}
    units = {"diode": "counts", "gate": "s", "energy": "eV"}
    roles = {"diode": "counter", "gate": "gate_time", "energy": "photon_energy"}
    if energies is not None:
        columns["energy"] = np.array(energies)
    raw = raw_run(columns, units=units, devices={"mono": {"roles": roles}} | roles)
    if constant is not None:
        key = {"source": "test", "dtype": "number", "shape": [], "units": "eV"}
        found = {"data": {"energy": constant}, "timestamps": {"energy": 0.0}}
        raw[1][1]["configuration"] = {"mono": {**found, "data_keys": {"energy": key}}}
    made = table(process(Counters(photon_flux={"charge_per_count": 1e-12, **flux}), raw))
    return made["flux"], made["invalid_reason"].tolist()


def test_photon_flux_is_that_of_the_energy_that_the_run_says() -> None:
    known, _ = diode(photon_energy=10.0)
    each, reasons = diode([10e3, 20e3, np.nan, 0])
    np.testing.assert_allclose(each[:2], known[:2] / [1, 2], rtol=1e-12)
    assert reasons == ["", "", "photon energy is nan keV", "photon energy is 0 keV"]
    assert np.isnan(each[2:]).all()
    given, reasons = diode([10e3, 17.5e3, np.nan, 0], photon_energy=10.0)
    np.testing.assert_array_equal(given, known)
    assert reasons == [""] * 4
    read, reasons = diode(constant=20e3)
    np.testing.assert_allclose(read, known / 2, rtol=1e-12)
    with pytest.raises(LookupError, match="input 'photon_energy' looked for role"):
        diode()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dead_time": -1e-6}, "greater than or equal to 0"),
        ({"gain": 0}, "greater than 0"),
        ({"model": "paralyzable"}, "nonparalyzable"),
        ({"channels": ()}, "at least 1 item"),
        ({"dark": float("nan")}, "finite"),
        ({"channels": (0, 1, 0)}, "has one twice"),
        ({"photon_flux": {"charge_per_count": 1e-12, "photon_energy": 17500}}, "equal to 1000"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Counters(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": (0, 2)}, "has channels 0 to 1, not 2"),
        ({"dead_time": (1e-6,) * 3}, "dead_time: has 3 values, but 2 channels are used"),
        (
            {
                "channels": (0,),
                "photon_flux": {"channel": 1, "charge_per_count": 1e-12, "photon_energy": 10},
            },
            "photon_flux.channel: 1 is not among the channels",
        ),
    ],
)
def test_settings_that_do_not_match_the_source_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    modality = Counters(**settings)
    with pytest.raises(ValueError, match=message):
        modality.prepare(modality.settings, bound())


def scaler(count: int, seqs: list[int] | None = None) -> list[NamedDocument]:
    """Return a run with a scaler whose counters are data keys of their own."""
    columns = {f"scaler-counter{i}": np.arange(count) * i + 7 for i in (1, 2, 3)}
    columns["scaler-counter2"][5] = -1
    gate = {"gate": np.full(count, 0.1)}
    units = dict.fromkeys(columns, "counts") | {"gate": "s"}
    roles = dict.fromkeys(columns, "counter") | {"gate": "gate_time"}
    return raw_run(columns | gate, units=units, seqs=seqs, devices={"scaler": {"roles": roles}})


def several(**settings: Any) -> Counters:
    keys = ("scaler-counter2", "primary/scaler-counter3")
    return Counters(keys=keys, inputs={"gate_time": "gate"}, **settings)


def test_data_keys_of_a_scaler_are_channels_with_columns_of_their_names() -> None:
    flux = {"channel": 1, "charge_per_count": 1e-12, "photon_energy": 10.0}
    made = table(process(several(gain=(1.0, 2.0), photon_flux=flux), scaler(8)))
    third = "primary_scaler-counter3"
    good = np.arange(8) != 5
    np.testing.assert_allclose(made["scaler-counter2"][good], 10 * (np.arange(8) * 2 + 7.0)[good])
    np.testing.assert_allclose(made[third][good], 5 * (np.arange(8) * 3 + 7.0)[good])
    factor = 1e-12 * 3.66 / (CHARGE * 1e4) * 2
    np.testing.assert_allclose(made["flux"][good], made[third][good] * factor, rtol=1e-12)
    assert made["invalid_reason"].tolist()[5] == "scaler-counter2 counted -1"
    assert np.isnan(made[third][5])
    assert {f"{third}_sigma", f"{third}_flag"} <= made.keys()


def test_several_data_keys_give_the_same_in_a_callback_and_however_batches_are_cut() -> None:
    raw = scaler(12, seqs=[1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9])
    modality = several(dead_time=1e-6)
    reference = table(process(modality, raw))
    live: list[NamedDocument] = []
    subscriber = callback(modality, lambda name, document: live.append((name, document)))
    for document in raw:
        subscriber(*document)
    for other in (table(live), table(process(modality, raw, batch_size=1))):
        for name, column in reference.items():
            np.testing.assert_array_equal(other[name], column, err_msg=name)


def test_data_keys_that_the_run_lacks_are_named() -> None:
    with pytest.raises(BindingError, match="bound to 'scaler-counter9', which is not there"):
        process(Counters(keys=("scaler-counter9",)), scaler(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": ("a", "a")}, "'a' is there twice"),
        ({"keys": ("a.b", "a_b")}, "'a_b' is there twice"),
        ({"keys": ("flux",)}, "'flux' is there twice, or makes a column of a name that is taken"),
        ({"keys": ("a",), "channels": (0,)}, "keys and channels"),
    ],
)
def test_senseless_keys_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Counters(**settings)


def test_the_check_holds_with_keys() -> None:
    modality = Counters(keys=("one", "two"), photon_flux={"charge_per_count": 1e-12})
    assert not [f for f in check(modality, made_up_columns(modality)) if f.problem]


def table(derived: Sequence[NamedDocument]) -> dict[str, Any]:
    pages = [document["data"] for name, document in derived if name == "event_page"]
    return {key: np.concatenate([page[key] for page in pages]) for key in pages[0]}
