"""Frames that no document announces, of points that were measured again: nobody shows them."""

from urllib.parse import urlparse

import h5py
import hdf5plugin
import numpy as np
import pytest
from bluesky import RunEngine
from nexusformat.nexus import nxload
from tiled.client import from_uri

from p06bs import process
from p06bs.bus.frames import Frames
from p06bs.callbacks.xrf import RegionSums
from p06bs.plans.maps import step_map
from p06bs.server.sink.sink import Sink
from p06bs.sim.beamline import Beamline
from p06bs.sim.devices import connect
from p06bs.sim.phantom import Phantom
from tests.archives import KEY, place
from tests.engines import end
from tests.nexus_runs import frames, run_with_frames, write
from tests.test_plans_rewound import Interruptions
from tests.test_run_maps import Both

assert hdf5plugin.PLUGIN_PATH  # registers the compression of the files


@pytest.fixture(scope="module")
def rewound(tmp_path_factory):
    """Give a map interrupted within exposures, and by data key the rows that it announced."""
    engine, documents = RunEngine({}), []
    try:
        devices = connect(Beamline(Phantom.default((3, 4)), 3), tmp_path_factory.mktemp("rewound"))
        detectors = devices.xspress3, devices.eiger
        engine.subscribe(lambda *document: documents.append(document))
        axes = devices.samy, -16, 16, 3, devices.samx, -18, 18, 4
        plan = step_map([devices.scaler, *detectors], *axes)
        Interruptions(engine, detectors, seed=4).take(plan)
    finally:
        end(engine)
    rows = {}
    for _, resource in (one for one in documents if one[0] == "stream_resource"):
        datums = [d for n, d in documents if n == "stream_datum"]
        indices = [d["indices"] for d in datums if d["stream_resource"] == resource["uid"]]
        with h5py.File(urlparse(resource["uri"]).path) as file:
            dataset = file[resource["parameters"]["dataset"]]
            rows[resource["data_key"]] = np.stack([dataset[one["start"]] for one in indices])
            assert len(dataset) > len(indices)
    assert {len(one) for one in rows.values()} == {sum(n == "event" for n, _ in documents)}
    return documents, rows


def test_live_and_archive_show_the_announced_rows(rewound, tmp_path):
    documents, rows = rewound
    here, sink = place("sqlite", tmp_path, None), Sink(100_000_000)
    uid = here.write(documents)
    here.ingest()
    for one in documents:
        sink(*one)
    with here.served(sink=sink) as url:
        client = from_uri(url, api_key=KEY)
        for tree in "live", "archive":
            stream = client[tree][uid]["primary"]
            for key, expected in rows.items():
                np.testing.assert_array_equal(stream[key].read()[:, 0], expected)
                np.testing.assert_array_equal(stream[key][3:9, 0], expected[3:9])
        client.context.close()


def test_analysis_has_one_row_of_each_event(rewound):
    documents, rows = rewound
    roi = RegionSums(regions={"all": (0, 4095)}, inputs={"spectrum": "xspress3-spectrum"})
    pages = [d for n, d in process(roi, documents) if n == "event_page"]
    numbers = [one for page in pages for one in page["data"]["raw_seq_num"]]
    assert numbers == [d["seq_num"] for n, d in documents if n == "event"]
    sums = [one for page in pages for one in page["data"]["all"]]
    np.testing.assert_array_equal(sums, rows["xspress3-spectrum"].sum((1, 2)))


def test_a_nexus_file_shows_the_announced_rows(rewound, tmp_path):
    documents, rows = rewound
    path = write(documents, tmp_path)
    with h5py.File(path) as file:
        instrument = file["entry/instrument"]
        for key, expected in rows.items():
            device = key.split("-")[0]
            shown = instrument[device]["columns"][key.replace("-", "_")]
            np.testing.assert_array_equal(shown[...], expected)
    for device, key in ("eiger", "eiger"), ("xspress3", "xspress3-spectrum"):
        with nxload(path) as root:  # as NeXpy does
            data = root[f"entry/instrument/{device}/data"].nxvalue
        np.testing.assert_array_equal(data, rows[key])


def announcing(documents, uri, ranges):
    """Return the documents with other ranges of rows announced: of their file, or of another."""
    made = [one for one in documents if one[0] != "stream_datum"]
    at, resource = next((i, d) for i, (n, d) in enumerate(made) if n == "stream_resource")
    *_, datum = (d for n, d in documents if n == "stream_datum")
    other = {**resource, "uid": "other", "uri": uri}
    news = [("stream_resource", other)]
    for number, (file, start, stop) in enumerate(ranges):
        numbers = {"start": number + 1, "stop": number + 1 + stop - start}
        changed = {"indices": {"start": start, "stop": stop}, "seq_nums": numbers}
        named = {"uid": f"datum {number}", "stream_resource": file or resource["uid"]}
        news.append(("stream_datum", {**datum, **changed, **named}))
    return [*made[: at + 1], *news, *made[at + 1 :]]


@pytest.mark.parametrize("single", [0, 10])
def test_rows_of_several_files_are_in_their_order_and_lost_ones_are_no_zeros(
    tmp_path, monkeypatch, single
):
    monkeypatch.setattr("p06bs.writers._external.MOST_SINGLE", single)
    one, other = (
        frames(tmp_path / "raw", count=9),
        frames(tmp_path / "raw", "other.h5", count=9) + 1,
    )
    with h5py.File(tmp_path / "raw" / "other.h5", "r+") as file:
        file["entry/data"][...] = other
    uris = [(tmp_path / "raw" / name).as_uri() for name in ("det.h5", "other.h5")]
    ranges = ("", 0, 1), ("", 1, 2), ("", 4, 5), ("", 5, 5), ("other", 2, 3), ("other", 3, 5)
    documents = announcing(run_with_frames(uris[0]), uris[1], ranges)
    path = write(documents, tmp_path / "nexus", tree=tmp_path)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    try:
        with h5py.File(moved / "nexus" / path.name) as file:
            shown = file["entry/instrument/cam/data"]
            assert shown.attrs["units"] == "counts"
            np.testing.assert_array_equal(shown[...], [*one[[0, 1, 4]], *other[[2, 3, 4]]])
        (moved / "raw" / "other.h5").unlink()
        with h5py.File(moved / "nexus" / path.name) as file:
            shown = file["entry/instrument/cam/data"]
            np.testing.assert_array_equal(shown[:3], one[[0, 1, 4]])
            assert (shown[3:] == 65535).all()
    finally:
        moved.rename(tmp_path)


def test_a_file_that_holds_more_than_the_run_and_one_that_holds_nothing_of_it(tmp_path):
    images, uri = frames(tmp_path, count=9), (tmp_path / "det.h5").as_uri()
    for ranges, expected in ([("", 0, 4)], images[:4]), ([("", 3, 9)], images[3:]):
        documents = announcing(run_with_frames(uri), uri, ranges)
        with h5py.File(write(documents, tmp_path / f"from {ranges}")) as file:
            np.testing.assert_array_equal(file["entry/instrument/cam/data"][...], expected)
    documents = announcing(run_with_frames(uri), uri, [("", 0, 0)])
    with h5py.File(write(documents, tmp_path / "nothing")) as file:
        assert "data" not in file["entry/instrument/cam"]


def test_maps_of_numbers_in_files_are_of_the_announced_rows(rewound, tmp_path):
    """A number of each frame, its index, is mapped from a file as from events."""
    documents, path = [], tmp_path / "numbers.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["numbers"] = np.arange(1000.0)[:, None]
    number = {"dtype": "number", "dtype_numpy": "<f8", "source": "test"}
    uids, index = {}, None
    for name, original in rewound[0]:
        document = original
        if name == "descriptor":
            keys = {
                "in_events": {**number, "shape": []},
                "in_file": {**number, "shape": [1], "external": "STREAM:"},
            }
            document = {**original, "data_keys": {**original["data_keys"], **keys}}
        elif name == "stream_resource" and document["data_key"] == "eiger":
            uids[document["uid"]] = uid = "numbers"
            place_of = {"uri": path.as_uri(), "parameters": {"dataset": "numbers"}}
            documents.append((name, {**document, "uid": uid, "data_key": "in_file", **place_of}))
        elif name == "stream_datum" and document["stream_resource"] in uids:
            index = document["indices"]["start"]
            changed = {"uid": f"{document['uid']}/number", "stream_resource": "numbers"}
            documents.append((name, {**document, **changed}))
        elif name == "event":
            data = {**document["data"], "in_events": float(index)}
            stamps = {**document["timestamps"], "in_events": 0.0}
            document = {**original, "data": data, "timestamps": stamps}
        documents.append((name, document))
    with Frames(final=True) as read:
        both = Both(read=read)
        for one in documents:
            both(*one)
        found = both.check(documents[0][1]["uid"])
    assert np.isfinite(found["in_file"].values).all()
    np.testing.assert_array_equal(found["in_file"].values, found["in_events"].values)
