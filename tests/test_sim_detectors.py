"""Files of the simulated detectors, and how a real RunEngine announces them."""

import threading
from urllib.parse import unquote, urlparse

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
import event_model
import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine
from ophyd_async.core import (
    DetectorTrigger,
    StaticPathProvider,
    TriggerInfo,
    UUIDFilenameProvider,
    init_devices,
)

from p06bs.plans.maps import fly_map, grid
from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import AreaDetector
from p06bs.sim.diffraction import Geometry, PowderRings
from p06bs.sim.rows_file import Recording
from p06bs.sim.stage import TriggerBox
from tests.engines import end

assert hdf5plugin.PLUGIN_PATH  # registers the compression of the files

POINTS = 6 * 5
RINGS = PowderRings(
    Beamline().phantom, geometry=Geometry((40, 48), (6e-4, 6e-4)), gap=(20, 22), bits=16
)


@pytest.fixture
def run_engine():
    engine = RunEngine({})
    yield engine
    end(engine)


def scan(run_engine, tmp_path, recording, rate=np.inf, look=None):
    """Fly over 6 by 5 points; return the documents by name, and the box."""
    documents = []
    with init_devices():
        box = TriggerBox(Beamline(), name="panda")
        eiger = AreaDetector(
            RINGS, box, StaticPathProvider(UUIDFilenameProvider(), tmp_path), recording, "eiger"
        )
    token = run_engine.subscribe(lambda name, doc: documents.append((name, doc)))
    if look is not None:
        run_engine.subscribe(look)
    run_engine(fly_map([eiger], box, nx=6, ny=5, rate=rate, gate_time=0.005, collect_every=0.02))
    run_engine.unsubscribe(token)
    for name, document in documents:
        event_model.schema_validators[event_model.DocumentNames[name]].validate(document)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("sim-")]
    named = {name: [d for n, d in documents if n == name] for name, _ in documents}
    return named, box.flyable_logic.prepared


def path_of(resource):
    return unquote(urlparse(resource["uri"]).path)


def announced(named):
    """Return the frames in the order of their seq_nums, read as a consumer would."""
    resources = {r["uid"]: r for r in named["stream_resource"]}
    rows = {}
    for datum in named["stream_datum"]:
        resource = resources[datum["stream_resource"]]
        with h5py.File(path_of(resource), "r", swmr=True) as file:
            dataset = file[resource["parameters"]["dataset"]]
            indices = range(datum["indices"]["start"], datum["indices"]["stop"])
            for index in indices:
                seq_num = datum["seq_nums"]["start"] + index - indices.start
                assert seq_num not in rows
                rows[seq_num] = dataset[index]
    assert sorted(rows) == list(range(1, len(rows) + 1))
    return np.array([rows[k] for k in sorted(rows)])


@pytest.mark.parametrize("compression", ["bslz4", "gzip", "none"])
def test_frames_come_in_one_file(run_engine, tmp_path, compression):
    named, path = scan(run_engine, tmp_path, Recording(compression))
    np.testing.assert_array_equal(announced(named), RINGS.rows(path, range(POINTS))["data"])
    (resource,) = named["stream_resource"]
    assert resource["parameters"]["chunk_shape"] == (1, 40, 48)
    with h5py.File(path_of(resource)) as file:
        dataset = file["/entry/instrument/diffraction/data"]
        filters = dataset.id.get_create_plist()
        codes = [filters.get_filter(k)[0] for k in range(filters.get_nfilters())]
        assert codes == {"bslz4": [hdf5plugin.BSHUF_ID], "gzip": [1], "none": []}[compression]
    (descriptor,) = [d for d in named["descriptor"] if d["name"] == "eiger"]
    key = descriptor["data_keys"]["eiger"]
    assert key["dtype_numpy"] == "<u2"
    assert key["dims"] == ["exposure", "y", "x"]
    assert key["shape"] == [1, 40, 48]
    assert key["external"] == "STREAM:"
    (start,) = named["start"]
    assert start["devices"]["eiger"]["roles"] == {"eiger": "diffraction"}
    configuration = descriptor["configuration"]["eiger"]
    assert configuration["data"]["eiger-distance"] == 0.05
    assert configuration["data_keys"]["eiger-distance"]["units"] == "m"


@pytest.mark.parametrize("rate", [np.inf, 200.0])
@pytest.mark.parametrize("join", ["resources", "virtual"])
@pytest.mark.parametrize("offset", [0, 3])
def test_frames_come_in_several_files(run_engine, tmp_path, rate, join, offset):
    recording = Recording(rows_per_file=7, join=join, offset=offset)
    named, path = scan(run_engine, tmp_path, recording, rate)
    np.testing.assert_array_equal(announced(named), RINGS.rows(path, range(POINTS))["data"])
    assert len(named["stream_resource"]) == {"resources": 5, "virtual": 1}[join]
    assert len(list(tmp_path.glob("*.h5"))) == {"resources": 5, "virtual": 6}[join]


def test_rows_before_the_first_trigger_are_not_announced(run_engine, tmp_path):
    named, path = scan(run_engine, tmp_path, Recording(offset=4))
    np.testing.assert_array_equal(announced(named), RINGS.rows(path, range(POINTS))["data"])
    assert min(d["indices"]["start"] for d in named["stream_datum"]) == 4
    (resource,) = named["stream_resource"]
    with h5py.File(path_of(resource)) as file:
        assert (file[resource["parameters"]["dataset"]][:4] == 1).all()


def test_a_missing_frame_has_no_chunk_and_reads_zero(run_engine, tmp_path):
    named, path = scan(run_engine, tmp_path, Recording(missing=frozenset({2, 11})))
    frames, expected = announced(named), RINGS.rows(path, range(POINTS))["data"]
    missing = np.isin(np.arange(POINTS), [2, 11])
    np.testing.assert_array_equal(frames[~missing], expected[~missing])
    assert not frames[missing].any()
    (resource,) = named["stream_resource"]
    with h5py.File(path_of(resource)) as file:
        chunks = file[resource["parameters"]["dataset"]].id
        there = {chunks.get_chunk_info(k).chunk_offset[0] for k in range(chunks.get_num_chunks())}
    assert there == set(range(POINTS)) - {2, 11}


def test_dropped_and_extra_frames_change_the_count(run_engine, tmp_path):
    recording = Recording(dropped=frozenset({0, 9}), extra=(4, POINTS - 1, POINTS - 1))
    named, path = scan(run_engine, tmp_path, recording)
    expected = RINGS.rows(path, range(POINTS))["data"]
    one, last = (RINGS.extra_row(path, k)["data"] for k in (4, POINTS - 1))
    rows = [*expected[1:5], one, *expected[5:9], *expected[10:], last, last]
    np.testing.assert_array_equal(announced(named), rows)
    (stop,) = named["stop"]
    assert stop["num_events"] == {"primary": POINTS, "eiger": POINTS + 1}


def test_a_lagging_file_is_announced_before_it_is_written(run_engine, tmp_path):
    behind = []
    resources = {}

    def look(name, document):
        if name == "stream_resource":
            resources[document["uid"]] = document
        if name == "stream_datum":
            resource = resources[document["stream_resource"]]
            with h5py.File(path_of(resource), "r", swmr=True) as file:
                there = file[resource["parameters"]["dataset"]].shape[0]
                behind.append(there < document["indices"]["stop"])

    named, path = scan(run_engine, tmp_path, Recording(lag=0.3), look=look)
    assert any(behind)
    np.testing.assert_array_equal(announced(named), RINGS.rows(path, range(POINTS))["data"])


def test_triggers_before_the_kickoff_are_not_lost(run_engine, tmp_path):
    """Whichever of box and detector is kicked off first."""
    seen = []
    with init_devices():
        box = TriggerBox(Beamline(), name="panda")
        paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
        eiger = AreaDetector(RINGS, box, paths, Recording(lag=0.01), "eiger")

    @bpp.stage_decorator([eiger, box])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(box, grid((0, 1), 5, (0, 1), 2, rate=np.inf), wait=True)
        trigger = DetectorTrigger.EXTERNAL_EDGE
        yield from bps.prepare(
            eiger, TriggerInfo(trigger=trigger, livetime=0.005, number_of_events=10), wait=True
        )
        yield from bps.declare_stream(eiger, name="eiger", collect=True)
        yield from bps.kickoff(box, wait=True)
        yield from bps.sleep(0.2)
        yield from bps.kickoff(eiger, wait=True)
        yield from bps.complete_all(eiger, box, wait=True)
        yield from bps.collect(eiger, name="eiger")

    run_engine(plan(), lambda name, document: seen.append((name, document)))
    (stop,) = [document for name, document in seen if name == "stop"]
    assert stop["num_events"] == {"eiger": 10}


def test_a_detector_that_is_prepared_twice_records_every_trigger(run_engine, tmp_path):
    """As a pause between its preparation and the kickoff has it."""
    seen = []
    with init_devices():
        box = TriggerBox(Beamline(), name="panda")
        paths = StaticPathProvider(UUIDFilenameProvider(), tmp_path)
        eiger = AreaDetector(RINGS, box, paths, name="eiger")
    trigger = TriggerInfo(
        trigger=DetectorTrigger.EXTERNAL_EDGE, livetime=0.005, number_of_events=10
    )

    @bpp.stage_decorator([eiger, box])
    @bpp.run_decorator()
    def plan():
        yield from bps.prepare(box, grid((0, 1), 5, (0, 1), 2, rate=20.0), wait=True)
        yield from bps.prepare(eiger, trigger, wait=True)
        yield from bps.prepare(eiger, trigger, wait=True)
        yield from bps.declare_stream(eiger, name="eiger", collect=True)
        yield from bps.kickoff_all(eiger, box, wait=True)
        yield from bps.complete(eiger, wait=True)
        yield from bps.collect(eiger, name="eiger")
        yield from bps.complete(box, wait=True)

    run_engine(plan(), lambda name, document: seen.append((name, document)))
    (stop,) = [document for name, document in seen if name == "stop"]
    assert stop["num_events"] == {"eiger": 10}


def test_impossible_recordings_are_refused():
    with pytest.raises(ValueError, match="1 row or more"):
        Recording(rows_per_file=0)
    with pytest.raises(ValueError, match="must not be negative"):
        Recording(lag=-1.0)
    with pytest.raises(ValueError, match="compression is bslz4, gzip, none"):
        Recording(compression="zip")
