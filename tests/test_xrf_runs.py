"""Detection limits, results of whole runs, bad input, and the three ways to compute them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p06bs import callback, process
from p06bs.callbacks.xrf import Fluorescence
from p06bs.model.documents import NamedDocument
from p06bs.model.maps import newest
from p06bs.model.modality import PART
from tests.documents import raw_run, rows_of
from tests.fluorescence import bind, composed, model_of, through
from tests.online import beamline

AREAS = {"Fe_K": 3000.0, "Cu_K": 400.0}


def fluorescence(**settings: Any) -> Fluorescence:
    given = {"elements": ("Fe", "Cu", "Zn"), "incident_energy": 11.0} | settings
    return Fluorescence(**given)


def drawn(
    events: int, elements: int = 1, areas: dict[str, float] = AREAS, scale: Any = 1.0, seed: int = 0
) -> np.ndarray:
    """Return counts, (events, elements, channels), of areas; `scale` is (events, elements)."""
    expected = composed(model_of(fluorescence()), areas, flat=4.0)[0]
    scales = np.broadcast_to(scale, (events, elements))
    return np.random.default_rng(seed).poisson(scales[..., None] * expected).astype(np.uint32)


# Detection limits


def test_the_detection_limit_is_three_times_the_scatter_of_a_blank() -> None:
    blanks, _ = through(fluorescence(), spectrum=drawn(3000, areas={"Fe_K": 3000.0}))
    bright, whole = through(fluorescence(), spectrum=drawn(500, areas=AREAS | {"Zn_K": 5000.0}))
    for line in ("Cu_K", "Zn_K"):
        scatter = blanks.columns[line].std()
        limit = blanks.columns[f"{line}_limit"].mean()
        assert limit == pytest.approx(3 * scatter, rel=0.06), line
        assert (blanks.columns[line] > limit).mean() < 0.005
    # What is there of an element does not raise its own limit, but sigma.
    own = bright.columns["Zn_K_limit"].mean() / blanks.columns["Zn_K_limit"].mean()
    assert own == pytest.approx(1, abs=0.12)
    assert bright.columns["Zn_K_sigma"].mean() > 4 * blanks.columns["Zn_K_sigma"].mean()
    # In the sum of a run it falls with the root of the counts.
    assert whole["Zn_K_limit"] / 500 == pytest.approx(
        bright.columns["Zn_K_limit"].mean() / np.sqrt(500), rel=0.05
    )


def test_limits_can_be_left_out() -> None:
    modality = fluorescence(detection_limits=False)
    rows, whole = through(modality, spectrum=drawn(2))
    assert not [name for name in {**rows.columns, **whole} if name.endswith("_limit")]


# Whole runs


def test_the_fit_of_the_sum_spectrum_is_the_sum_of_the_fits() -> None:
    rng = np.random.default_rng(3)
    live = rng.uniform(0.64, 0.8, (40, 3))  # dead times of 20 to 36 %
    spectrum = drawn(40, 3, scale=live * np.array([1.0, 0.5, 2.0]))
    spectrum[5, 1, 640] = spectrum[6, :, 640] = 2**32 - 1  # saturated
    rows, whole = through(
        fluorescence(), spectrum=spectrum, live_time=live, real_time=np.ones((40, 3))
    )
    assert [bool(r) for r in rows.reasons] == [k == 6 for k in range(40)]
    good = np.ones((40, 3, 1), bool)
    good[5, 1] = good[6] = False
    np.testing.assert_array_equal(whole["sum_spectrum"], (spectrum * good).sum(axis=0))
    assert whole["sum_spectrum"].dtype == np.int64
    for line in ("Fe_K", "Cu_K", "Zn_K"):
        sigma = np.sqrt((rows.columns[f"{line}_sigma"] ** 2).sum())
        assert whole[line] == pytest.approx(rows.columns[line].sum(), rel=1e-9)
        assert whole[f"{line}_sigma"] == pytest.approx(sigma, rel=0.02)
    np.testing.assert_allclose(whole["energy"], 0.01 * np.arange(1200), atol=1e-12)
    weight = np.where(good[..., 0], 1 / live, 0)
    weight[5] *= 3 / 2  # of what remains
    np.testing.assert_allclose(
        whole["total_spectrum"], np.einsum("nec,ne->c", spectrum, weight), rtol=1e-9
    )
    np.testing.assert_allclose(
        whole["element_areas"][:, 0], 40 * AREAS["Fe_K"] * np.array([1, 0.5, 2]), rtol=0.05
    )


def test_sigma_of_the_whole_run_is_honest() -> None:
    pulls = []
    for seed in range(60):
        live = np.random.default_rng(seed).uniform(0.64, 0.8, (4, 2))
        _, whole = through(
            fluorescence(),
            spectrum=drawn(4, 2, scale=live, seed=seed),
            live_time=live,
            real_time=np.ones((4, 2)),
        )
        pulls.append((whole["Cu_K"] - 8 * AREAS["Cu_K"]) / whole["Cu_K_sigma"])
    assert 0.7 < np.std(pulls) < 1.3


# Bad input


def bad(**changes: Any) -> dict[str, Any]:
    """Return a good event, and one in whose second element something is wrong."""
    columns: dict[str, Any] = {
        "spectrum": drawn(1, 2).astype(float).repeat(2, axis=0),
        "live_time": np.full((2, 2), 0.7),
        "real_time": np.ones((2, 2)),
        "input_counts": np.full((2, 2), 1e5),
        "output_counts": np.full((2, 2), 7e4),
    }
    for name, value in changes.items():
        if name == "spectrum":
            columns[name][1, 1, 640] = value
        else:
            columns[name][1, 1] = value
    return columns


TIMES, RATES = {"live_time", "real_time"}, {"input_counts", "output_counts"}


@pytest.mark.parametrize(
    ("changes", "kept", "word"),
    [
        ({"spectrum": -1.0}, TIMES, "negative"),
        ({"spectrum": np.nan}, TIMES, "not finite"),
        ({"spectrum": np.inf}, TIMES, "not finite"),
        ({"spectrum": 1e6}, TIMES, "saturated"),
        ({"live_time": 0.0}, TIMES, "live time"),
        ({"live_time": np.nan}, TIMES, "live time"),
        ({"live_time": -0.7}, TIMES, "live time"),
        ({"live_time": -0.7, "real_time": -1.0}, TIMES, "real time"),
        ({"live_time": 1.3}, TIMES, "live time above real time"),
        ({"real_time": 0.0}, TIMES, "real time"),
        ({"real_time": 0.0, "live_time": 0.0}, TIMES, "real time"),
        ({"real_time": np.inf}, TIMES, "real time"),
        ({"output_counts": 0.0}, RATES, "or output counts, not positive"),
        ({"output_counts": np.nan}, RATES, "or output counts, not positive"),
        ({"input_counts": -1e5, "output_counts": -7e4}, RATES, "or input counts, not positive"),
        ({"output_counts": 2e5}, RATES, "output counts above input counts"),
    ],
)
def test_an_element_with_bad_input_is_left_out_and_the_event_without_any_invalid(
    changes: dict[str, Any], kept: set[str], word: str
) -> None:
    columns = {k: v for k, v in bad(**changes).items() if k in kept | {"spectrum"}}
    modality = fluorescence(saturation=5e5)
    rows, whole = through(modality, **columns)
    assert rows.columns["elements_used"].tolist() == [2, 1]
    # The spectra of both are alike, so that the rest stands for all.
    assert rows.columns["Fe_K"][1] == pytest.approx(rows.columns["Fe_K"][0], rel=0.1)
    assert rows.columns["Fe_K"][0] == pytest.approx(2 * AREAS["Fe_K"] / 0.7, rel=0.1)
    assert all(np.isfinite(value).all() for value in whole.values())
    alone = {name: column[:, 1:] for name, column in columns.items()}
    rows, whole = through(modality, **alone)
    assert rows.reasons[0] == ""
    assert "detector element 0" in rows.reasons[1]
    assert word in rows.reasons[1]
    np.testing.assert_array_equal(whole["sum_spectrum"], columns["spectrum"][:1, 1])


def test_clocks_and_fast_channels_need_not_be_exact() -> None:
    columns = bad(live_time=1.004, output_counts=1.06e5)
    for kept in (TIMES, RATES):
        given = {k: v for k, v in columns.items() if k in kept | {"spectrum"}}
        rows, _ = through(fluorescence(), **given)
        assert rows.columns["elements_used"].tolist() == [2, 2]


def test_count_rates_and_times_correct_alike() -> None:
    live = np.array([[0.64, 0.8], [0.7, 0.75]])
    spectrum = drawn(2, 2)
    made = [
        through(fluorescence(), spectrum=spectrum, live_time=live, real_time=np.ones((2, 2)))[0],
        through(
            fluorescence(),
            units={"input_counts": "1/s", "output_counts": "counts/s"},
            spectrum=spectrum,
            input_counts=np.full((2, 2), 2e5),
            output_counts=2e5 * live,
        )[0],
    ]
    np.testing.assert_allclose(made[0].columns["Fe_K"], made[1].columns["Fe_K"], rtol=1e-12)
    with pytest.raises(ValueError, match="must both be counts or both be rates, not 1/s and count"):
        through(
            fluorescence(),
            units={"input_counts": "1/s", "output_counts": "counts"},
            spectrum=spectrum,
            input_counts=live,
            output_counts=live,
        )


@pytest.mark.parametrize("track", [(), ("Fe_K",)])
def test_one_time_for_all_detector_elements_is_that_of_each(track: tuple[str, ...]) -> None:
    spectrum, flux = drawn(6, 3), np.full(6, 1e5)
    live, real = np.linspace(0.6, 0.8, 18).reshape(6, 3), np.full((6, 1), 1.0)
    live[3, 1] = real[4] = 0
    units = {"incident_flux": "counts/s"}
    modality = fluorescence(track_gain=track, normalise=True)
    given = {"spectrum": spectrum, "live_time": live, "incident_flux": flux}
    one, _ = through(modality, units=units, real_time=real, **given)
    each, _ = through(modality, units=units, real_time=real.repeat(3, axis=1), **given)
    assert one.reasons == each.reasons
    assert [bool(r) for r in one.reasons] == [k == 4 for k in range(6)]
    assert one.columns["elements_used"].tolist() == [3, 3, 3, 2, 3]
    for name, column in each.columns.items():
        np.testing.assert_array_equal(one.columns[name], column, err_msg=name)
    alike, _ = through(modality, units=units, real_time=real, **given | {"live_time": real * 0.7})
    assert alike.columns["Fe_K"][0] == pytest.approx(3 * AREAS["Fe_K"] / 0.7 / 1e5, rel=0.05)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        ({"live_time": 2, "real_time": 3}, {}),
        ({"input_counts": 3, "output_counts": 2}, {}),
        ({"real_time": 2, "incident_flux": 0}, {"normalise": True}),
    ],
)
def test_times_of_other_detector_elements_are_refused(
    given: dict[str, int], settings: dict[str, Any]
) -> None:
    columns = {name: np.ones((2, n) if n else 2) for name, n in given.items()}
    with pytest.raises(ValueError, match=r"has 2 values, but .* has 3 detector elements"):
        through(
            fluorescence(**settings),
            units={"incident_flux": "A"},
            spectrum=drawn(2, 3),
            **columns,
        )


def test_currents_of_a_diode_are_averages_as_rates_are_and_charges_are_sums() -> None:
    """The same beam for 0.1 s and for 1 s, however its monitor speaks of it."""
    real = np.array([[0.1], [1.0]])
    spectrum = drawn(2, 2, scale=np.broadcast_to(real, (2, 2)))
    found = {}
    for unit, flux in {
        "counts/s": np.full(2, 5.0),
        "nA": np.full(2, 5.0),
        "V": np.full(2, 5.0),
        "counts": 5.0 * real[:, 0],
        "nC": 5.0 * real[:, 0],
    }.items():
        rows, _ = through(
            fluorescence(normalise=True),
            units={"incident_flux": unit},
            spectrum=spectrum,
            real_time=real,
            live_time=real,
            incident_flux=flux,
        )
        found[unit] = rows.columns["Fe_K"]
    for unit, areas in found.items():
        np.testing.assert_allclose(areas, found["counts/s"], rtol=1e-12, err_msg=unit)
    assert found["nA"][0] == pytest.approx(found["nA"][1], rel=0.1)


@pytest.mark.parametrize("track", [(), ("Fe_K",)])
def test_each_invalid_event_has_its_own_reason(track: tuple[str, ...]) -> None:
    spectrum = drawn(6, 3).astype(float)
    live, real, i0 = np.full((6, 3), 0.7), np.ones((6, 3)), np.full(6, 1e6)
    spectrum[1] = np.nan
    live[2] = 1.5
    live[3] = 0.0
    i0[4], i0[5] = 0.0, np.nan
    rows, whole = through(
        fluorescence(normalise=True, track_gain=track),
        units={"incident_flux": "counts"},
        spectrum=spectrum,
        live_time=live,
        real_time=real,
        incident_flux=i0,
    )
    words = [
        "",
        "not finite",
        "live time above real",
        "live time",
        "incident flux is 0",
        "flux is nan",
    ]
    assert rows.reasons[0] == ""
    for reason, word in zip(rows.reasons, words, strict=True):
        assert word in reason
        assert "Error" not in reason
    assert len(rows.columns["Fe_K"]) == 1  # the others are masked
    assert all(np.isfinite(value).all() for value in whole.values())


def test_nan_outside_the_fitted_range_spoils_nothing() -> None:
    columns = bad()
    columns["spectrum"][1, 1, 20] = np.nan
    rows, whole = through(fluorescence(), spectrum=columns["spectrum"])
    assert rows.columns["elements_used"].tolist() == [2, 2]
    assert np.isfinite(whole["sum_spectrum"]).all()


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        ({"masked": (1,)}, slice(5, None)),
        ({"calibration": (0.0, 0.0101)}, slice(5, None)),
        ({"sensitivity": (1.0, 3.0)}, slice(5, None)),
        ({"saturation": 1e6}, slice(None)),
    ],
)
def test_the_sums_of_a_run_begin_anew_with_settings_that_do_not_mix(
    change: dict[str, Any], counted: slice
) -> None:
    given = {"elements": ("Fe", "Cu", "Zn"), "incident_energy": 11.0}
    raw = raw_run({"mca": drawn(12, 2, scale=np.array([1.0, 0.5]))}, units={"mca": "counts"})
    events = [document for name, document in raw if name == "event"]
    derived = process(
        Fluorescence(**given, inputs={"spectrum": "mca"}),
        raw,
        [(events[5]["uid"], given | change)],
        batch_size=4,
    )
    rows = table(derived)["Fe_K"]
    assert len(rows) == 12
    assert last_snapshot(derived)["Fe_K"] == pytest.approx(rows[counted].sum(), rel=1e-9)


def test_a_flux_that_was_not_read_before_belongs_to_later_spectra_only() -> None:
    columns = {"spectrum": drawn(4, 2), "incident_flux": np.full(4, 1e6)}
    bound = bind(columns, {"spectrum": "counts", "incident_flux": "counts"})
    state = None
    for normalise in (False, True):
        modality = fluorescence(normalise=normalise)
        setup = modality.prepare(modality.settings, bound)
        made = modality.process(setup, **columns)
        state = modality.fold(setup, state, made[PART])
    mean = made["Fe_K"].mean()
    assert modality.snapshot(setup, state)["Fe_K"] == pytest.approx(mean, rel=1e-9)


# Three ways


def table(derived: Sequence[NamedDocument]) -> dict[str, Any]:
    pages = [document["data"] for name, document in derived if name == "event_page"]
    assert derived[-1][1]["exit_status"] == "success", derived[-1][1]["reason"]
    return {key: np.concatenate([page[key] for page in pages]) for key in pages[0]}


def last_snapshot(derived: Sequence[NamedDocument]) -> dict[str, Any]:
    found: dict[str, Any] = [document["data"] for name, document in derived if name == "event"][-1]
    assert found["final"]
    return found


def test_callback_pipeline_and_process_give_the_same(tmp_path: Path) -> None:
    count = 60
    seqs = [*range(1, 41), *range(31, 51)]  # a rewind
    columns = {
        "mca": drawn(count, 2, scale=np.full((count, 2), 0.7)),
        "live": np.full((count, 2), 0.7),
        "real": np.ones((count, 2)),
        "i0": np.linspace(1e6, 2e6, count),
    }
    columns["mca"][3, 0, 640] = 2**32 - 1
    columns["live"][17] = 0
    columns["i0"][20] = 0
    film = {"areal_density": {"Fe": 20.0}, "areas": {"Fe_K": 1e5}, "incident_flux": 1e7}
    modality = fluorescence(
        track_gain=("Fe_K",),
        standard=film,
        inputs={
            "spectrum": "mca",
            "live_time": "live",
            "real_time": "real",
            "incident_flux": "i0",
        },
    )
    units = {"mca": "counts", "live": "s", "real": "s", "i0": "counts"}
    raw = raw_run(columns, seqs=seqs, page=7, units=units)
    reference = process(modality, raw, batch_size=1)
    live: list[NamedDocument] = []
    subscriber = callback(modality, lambda name, document: live.append((name, document)))
    for document in raw:
        subscriber(*document)
    with beamline(tmp_path, [modality]) as (_, publish, listener):
        for document in raw:
            publish(*document)
        online = listener.wait(raw[0][1]["uid"], "xrf")
    keys = ("raw_seq_num", "valid", "invalid_reason", "elements_used")
    expected, results = table(reference), last_snapshot(reference)
    assert (~expected["valid"]).sum() == 2
    assert expected["elements_used"][3] == 1
    for other in (live, online):
        assert rows_of(other, *keys) == rows_of(reference, *keys)
        made, whole = table(other), last_snapshot(other)
        for name, column in expected.items():
            if column.dtype.kind == "f":
                np.testing.assert_allclose(made[name], column, rtol=1e-9, atol=1e-6, err_msg=name)
        assert whole.keys() == results.keys()
        for name, value in results.items():
            np.testing.assert_allclose(whole[name], value, rtol=1e-9, atol=1e-6, err_msg=name)
    rows = newest(expected["raw_seq_num"])
    good = rows[expected["valid"][rows]]
    assert results["Fe_K"] == pytest.approx(expected["Fe_K"][good].sum(), rel=0.01)


# How well the fit describes what is there


def test_chi_square_tells_whether_the_fit_describes_the_spectra() -> None:
    spectrum = drawn(30, 3)
    _, whole = through(fluorescence(background="linear", masked=(1,)), spectrum=spectrum)
    np.testing.assert_allclose(whole["chi_square"][[0, 2]], 1, atol=0.15)
    assert np.isnan(whole["chi_square"][1])
    inside = whole["fitted_spectrum"] > 0
    deviation = (whole["fitted_spectrum"] - whole["total_spectrum"])[inside]
    assert np.abs(deviation).max() < 6 * np.sqrt(whole["total_spectrum"].max())
    _, lacking = through(fluorescence(elements=("Fe", "Zn")), spectrum=spectrum)
    assert lacking["chi_square"].min() > 5
    _, stripped = through(fluorescence(background="snip"), spectrum=spectrum)
    assert stripped["chi_square"].max() < 5


def test_with_dead_time_chi_square_stays_about_one() -> None:
    live = np.random.default_rng(1).uniform(0.64, 0.8, (30, 2))
    spectrum = drawn(30, 2, scale=live)
    _, whole = through(
        fluorescence(background="linear"),
        spectrum=spectrum,
        live_time=live,
        real_time=np.ones((30, 2)),
    )
    np.testing.assert_allclose(whole["chi_square"], 1, atol=0.15)


def test_what_is_wrong_at_the_scatter_peaks_spoils_no_areas_elsewhere() -> None:
    """A broad Compton peak that the model has not, as every real spectrum has one."""
    channels = np.arange(1200)
    hump = 800 * np.exp(-0.5 * ((channels - 1030) / 45) ** 2)
    spectrum = np.random.default_rng(0).poisson(
        composed(model_of(fluorescence()), AREAS, flat=4.0) + hump, (20, 1, 1200)
    )
    local, _ = through(fluorescence(), spectrum=spectrum)
    spoiled, _ = through(fluorescence(background="linear"), spectrum=spectrum)
    for line in ("Fe_K", "Cu_K"):
        error = abs(local.columns[line].mean() - AREAS[line])
        assert error < 0.1 * abs(spoiled.columns[line].mean() - AREAS[line]), line
    assert local.columns["Fe_K"].mean() == pytest.approx(AREAS["Fe_K"], rel=0.05)
