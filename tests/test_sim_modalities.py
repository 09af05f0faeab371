"""One simulated fly scan, its derived runs, and the truth that each must meet."""

from pathlib import Path

import numpy as np
import pytest
from bluesky import RunEngine

from p06bs import process
from p06bs.callbacks.encoders import Encoders
from p06bs.callbacks.interferometers import Interferometers
from p06bs.callbacks.xrd import PowderDiffraction
from p06bs.callbacks.xrf import Fluorescence
from p06bs.plans.maps import fly_map
from p06bs.sim.beamline import Beamline
from p06bs.sim.devices import connect
from p06bs.sim.lines import Lines
from p06bs.sim.metrology import AXES, Metrology
from p06bs.sim.phantom import Phantom
from tests.engines import end

NX, NY = 41, 12


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """The documents of a fly scan over 41 by 12 points, its path, and the devices."""
    engine = RunEngine({})
    directory: Path = tmp_path_factory.mktemp("scan")
    metrology = Metrology(empty_gates=frozenset({7}))
    beamline = Beamline(Phantom.default((NY, NX)), 5, emission=Lines(), metrology=metrology)
    devices = connect(beamline, directory)
    documents = []
    detectors = [devices.xspress3, devices.eiger]
    plan = fly_map(detectors, devices.panda, nx=NX, ny=NY, rate=np.inf, gate_time=0.02)
    engine(plan, lambda name, document: documents.append((name, document)))
    path = devices.panda.flyable_logic.prepared
    end(engine)
    return documents, path, devices


def columns(documents):
    """Return the columns of a derived run, leading axis = raw events."""
    pages = [d for name, d in documents if name == "event_page"]
    keys = pages[0]["data"]
    return {key: np.concatenate([np.asarray(p["data"][key]) for p in pages]) for key in keys}


def derived(modality, documents):
    """Return the columns of the derived run of the scan."""
    found = columns(process(modality, documents))
    np.testing.assert_array_equal(found["raw_seq_num"], np.arange(NX * NY) + 1)
    return found


def test_encoders_are_what_the_stage_believes(scan):
    documents, path, _ = scan
    metrology = path.beamline.metrology
    scale = metrology.encoder_resolution
    axes = {axis: {"scale": scale, "origin": int(metrology.origin(axis))} for axis in AXES}
    found = derived(Encoders(axes=axes), documents)
    assert np.flatnonzero(~found["valid"].astype(bool)).tolist() == [7]
    captured = path.capture()
    for axis in AXES:
        # The others that are not known are gates within which a word wrapped.
        largest = captured[f"encoder_{axis}_max"].astype(float)
        wrapped = largest - captured[f"encoder_{axis}_min"] > 2**31
        wrapped[7] = True
        np.testing.assert_array_equal(np.isnan(found[axis]), wrapped)
        error = (found[axis] - path.readback()[axis])[~wrapped]
        assert np.sqrt((error**2).mean()) < 0.0015  # a count is 1 nm, and its noise as much


def test_interferometers_are_where_the_sample_is(scan):
    documents, path, _ = scan
    metrology = path.beamline.metrology
    air = metrology.air
    found = derived(
        Interferometers(
            axes={axis: {"resolution": metrology.count * 1e3} for axis in AXES},
            wavelength=metrology.wavelength,
            temperature=air.temperature,
            pressure=air.pressure,
            humidity=air.humidity,
        ),
        documents,
    )
    for axis in AXES:
        sample = path.sample()[axis]
        lost = metrology.blocked(axis, range(len(path)))
        np.testing.assert_array_equal(np.isnan(found[axis]), lost)
        error = found[axis][~lost] - sample[~lost] * 1e3
        assert np.sqrt((error**2).mean()) == pytest.approx(0.5, rel=0.1)  # nm, as put in


def test_areas_have_slope_1_against_the_phantom(scan):
    documents, path, _ = scan
    emission = path.beamline.emission
    found = derived(
        Fluorescence(
            elements=("Ar-K", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Se", "Sr"),
            incident_energy=path.beamline.energy,
            calibration=emission.calibration,
            energy_range=(2.6, 18.2),
            noise=0.08,
            fano=emission.fano,
        ),
        documents,
    )
    at = path.exposed()
    truth = path.beamline.line_counts(range(len(path)), at["x"], at["y"], path.gate_time)
    for line in ("Cr_K", "Fe_K", "Cu_K", "Zn_K", "Se_K", "Sr_K"):
        slope = np.polyfit(truth[line].sum(axis=1), found[line], 1)[0]
        assert slope == pytest.approx(1, abs=0.02), line


def test_points_without_beam_are_invalid_and_the_others_as_if_nothing_had_happened(tmp_path):
    """The ring is lost in mid-flight: I0 is 0, and no technique divides by it."""
    engine = RunEngine({})
    runs = []
    for outages in ((), ((11, 19),)):
        beamline = Beamline(Phantom.default((4, 8)), 5, emission=Lines(), outages=outages)
        devices = connect(beamline, tmp_path)
        documents = []
        detectors = [devices.xspress3, devices.eiger]
        engine(
            fly_map(detectors, devices.panda, nx=8, ny=4, rate=np.inf, gate_time=0.02),
            lambda name, document, to=documents: to.append((name, document)),
        )
        runs.append(documents)
    end(engine)
    rings = devices.eiger.instrument
    for modality, key in (
        (Fluorescence(elements=("Fe", "Cu"), incident_energy=17.5, normalise=True), "Fe_K"),
        (PowderDiffraction(poni=rings.poni(), bins=50, normalise=True), "intensity"),
    ):
        whole, lossy = (columns(process(modality, documents)) for documents in runs)
        i0 = np.concatenate([d["data"]["panda-i0"] for n, d in runs[1] if n == "event_page"])
        lost = i0 == 0
        assert np.flatnonzero(lost).tolist() == list(range(11, 19))
        assert (lossy["valid"] == ~lost).all()
        assert {*lossy["invalid_reason"][lost]} == {"incident flux is 0"}
        assert np.isnan(lossy[key][lost]).all()
        np.testing.assert_allclose(lossy[key][~lost], whole[key][~lost], rtol=1e-9)


def test_ring_sums_follow_the_layers(scan):
    documents, path, devices = scan
    rings = devices.eiger.instrument
    first = float(np.rad2deg(rings.ring_angles("austenite")[0]))
    alone = float(np.rad2deg(rings.ring_angles("LaB6")[0]))
    sums = {
        "steel": {"low": first - 0.4, "high": first + 0.4},
        "powder": {"low": alone - 0.6, "high": alone + 0.6},
    }
    found = derived(
        PowderDiffraction(poni=rings.poni(), unit="2th_deg", bins=400, rings=sums), documents
    )
    assert found["valid"].all()
    np.testing.assert_array_equal(found["n_invalid"], rings.mask.sum())
    at = path.exposed()
    weights = path.beamline.phantom.weights(at["x"], at["y"])
    for ring, name in (("steel", "Steel"), ("powder", "XRFSpectrum")):
        assert np.corrcoef(found[ring], weights[name])[0, 1] > 0.99
