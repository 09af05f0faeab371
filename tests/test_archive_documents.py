"""Completeness: what comes back through ``run.documents()`` equals the log."""

import json
import math

import event_model
import numpy as np
import pytest
from suitcase.utils.tests.conftest import (  # noqa: F401 -- fixtures
    RE,
    detector_list,
    event_type,
    example_data,
    generate_data,
    plan_type,
)

from p06bs.server.tree.documents import json_seq, portable
from tests.archives import DATABASES, connected, place, running_postgres  # noqa: F401
from tests.documents import raw_run
from tests.malformed import packed


@pytest.fixture(scope="module", params=DATABASES)
def served(request, tmp_path_factory, running_postgres):  # noqa: F811
    here = place(request.param, tmp_path_factory.mktemp("documents"), running_postgres)
    here.ingest()
    with here.served() as url, connected(url) as client:
        yield here, client


def plain(value):
    """Return what event-model calls equivalent in one form: lists and plain numbers."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def equivalent(documents):
    """Return documents with pages unpacked: event-model calls both the same."""
    found = []
    for name, document in documents:
        if name == "bulk_events":
            for page in event_model.bulk_events_to_event_pages(document):
                found += [("event", event) for event in event_model.unpack_event_page(page)]
        elif name == "event_page":
            found += [("event", event) for event in event_model.unpack_event_page(document)]
        elif name == "datum_page":
            found += [("datum", datum) for datum in event_model.unpack_datum_page(document)]
        else:
            found.append((name, document))
    return [(name, plain(document)) for name, document in found]


def test_document_sets_of_suitcase_come_back(served, example_data):  # noqa: F811
    here, client = served
    documents = example_data()
    uid = here.write(documents)
    assert here.ingest()[uid].state == "complete"
    back = list(client[uid].documents())
    assert equivalent(back) == equivalent(documents)
    if "bulk_events" not in dict(documents):
        assert [name for name, _ in back] == [name for name, _ in documents]
    stream = client[uid].primary.read()
    truth = [doc for name, doc in equivalent(documents) if name == "event"]
    in_primary = {d["uid"] for n, d in documents if n == "descriptor" and d["name"] == "primary"}
    truth = [event for event in truth if event["descriptor"] in in_primary]
    # (One of the sets has the events of all streams in one page, of the baseline's descriptor.)
    for key in truth[0]["data"] if truth else ():
        assert np.array_equal(stream[key], [event["data"][key] for event in truth]), key


def test_values_that_are_no_json_come_back(served):
    here, client = served
    documents = raw_run(
        {"x": [1.0, math.nan, math.inf]}, note="é\n\x00", nothing=None, nan=math.nan
    )
    uid = here.write(documents)
    here.ingest()
    back = list(client[uid].documents())
    assert str(equivalent(back)) == str(equivalent(documents))  # NaN is not equal to itself
    assert client[uid].metadata["start"]["nan"] is None


def test_documents_of_old_come_back_as_pages(tmp_path, served):
    here, client = served
    run = event_model.compose_run()
    resource = run.compose_resource(
        spec="AD_HDF5", root="/", resource_path="a.h5", resource_kwargs={"frame_per_point": 1}
    )
    datum = resource.compose_datum(datum_kwargs={"point_number": 0})
    described = run.compose_descriptor(
        name="primary",
        data_keys={
            "img": {"source": "x", "dtype": "array", "shape": [2, 2], "external": "FILESTORE:"}
        },
    )
    event = described.compose_event(
        data={"img": datum["datum_id"]}, timestamps={"img": 1.0}, filled={"img": False}
    )
    documents = [
        ("start", run.start_doc),
        ("descriptor", described.descriptor_doc),
        ("resource", resource.resource_doc),
        ("datum", datum),
        ("event", event),
        ("stop", run.compose_stop()),
    ]
    uid = here.write(documents)
    here.ingest()
    assert equivalent(client[uid].documents()) == equivalent(documents)
    assert client[uid].primary["img"].read().tolist() == [datum["datum_id"]]


def test_malformed_datums_break_nothing_off(served):
    here, client = served
    documents = raw_run({"x": [1, 2]})
    resource = {"uid": f"{documents[0][1]['uid']}-r", "run_start": documents[0][1]["uid"]}
    malformed = [
        {"resource": resource["uid"]},
        {"resource": resource["uid"], "datum_id": "a", "datum_kwargs": 5},
    ]
    documents[2:2] = [("resource", resource), *(("datum", datum) for datum in malformed)]
    uid = documents[0][1]["uid"]
    here.write([*documents[:3], packed(uid, "datum", {"uid": "q"}), *documents[3:]])
    here.ingest()
    back = list(client[uid].documents())
    names = [name for name, _ in documents]
    assert [name.removesuffix("_page") for name, _ in back] == [*names[:3], "datum", *names[3:]]
    assert [dict(document) for name, document in back if name == "datum_page"] == [
        {"uid": ["q"]},
        {"resource": resource["uid"]},
        {"resource": resource["uid"], "datum_id": ["a"], "datum_kwargs": [5]},
    ]


def test_a_record_is_a_document_and_frames_are_rfc_7464(tmp_path):
    here = place("sqlite", tmp_path, None)
    uid = here.write(raw_run({"x": [1, 2]}))
    records = list(json_seq(here.logs / f"{uid}.doclog"))
    assert all(one.startswith(b"\x1e") and one.endswith(b"\n") for one in records)
    assert [json.loads(one[1:])["name"] for one in records] == [
        "start", "descriptor", "event", "event", "stop"
    ]  # fmt: skip
    assert portable("event", {"a": 1}) == ("event", {"a": 1})
