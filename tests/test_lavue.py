"""The bridge to LaVue: what is offered and sent, to a subscriber that does as LaVue does."""

import copy
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from p06bs import process
from p06bs.adapters.lavue import PictureSocket, command, configure, frame
from p06bs.adapters.lavue_programme import Due, Programme, Show
from p06bs.callbacks.positions import Positions
from p06bs.model.maps import maps_of, pixels
from p06bs.model.picture import Picture, PictureAxis
from p06bs.server.sink.sink import Sink
from p06bs.services._pictures import Pictures, Rank
from p06bs.services.lavue import LavueDefinition, Offers
from tests.documents import raw_run, write
from tests.lavue_site import Viewer, bridge
from tests.online import beamline
from tests.techniques import Histogram

NY, NX = 3, 4
PLAN = {
    "plan_name": "grid_scan", "shape": [NY, NX], "extents": [[10.0, 12.0], [6.0, 0.0]],
    "snaking": [False, True], "motors": ["sy", "sx"], "scan_id": 7,
    "hints": {"dimensions": [[["sy"], "primary"], [["sx"], "primary"]]},
}  # fmt: skip
VALUES = np.arange(1.0, NY * NX + 1)

names = st.text(max_size=8)
shows = st.builds(
    Show,
    scan=st.sampled_from("abc"),
    began=st.sampled_from([1.0, 2.0, 3.0]),
    source=st.one_of(st.sampled_from(["xrf", "raw", "datasources", ""]), names),
    name=st.one_of(st.sampled_from(["Fe", "Fe|", "a/b", "a:b", "a,b", "datasources"]), names),
    rank=st.integers(0, 6),
)


def truth():
    """The map of `VALUES`."""
    values = np.empty(NY * NX)
    values[pixels(np.arange(NY * NX), (NY, NX), True)] = VALUES
    return values.reshape(NY, NX)


@given(st.lists(shows, max_size=20))
def test_no_topic_is_the_beginning_of_another_and_none_has_what_lavue_cannot_take(offered):
    programme = Programme()
    programme.offer(offered, 0.0)
    topics = (*programme.topics, "datasources")
    assert len(set(topics)) == len(topics)
    for topic in programme.topics:
        assert not set(topic) & set("/,:; \t\n")
        assert topic.endswith("|")
        assert not [t for t in topics if t != topic and (t.startswith(topic) or topic == t)]
        assert not [t for t in topics if t != topic and topic.startswith(t)]


@given(st.lists(shows, min_size=1, max_size=20))
def test_what_matters_most_of_the_newest_scan_comes_first(offered):
    programme = Programme()
    programme.offer(offered, 0.0)
    newest = max((one.began, one.scan) for one in offered)
    ranks = [one.rank for one in programme.shows.values()]
    assert ranks == sorted(ranks)
    assert {(one.began, one.scan) for one in programme.shows.values()} == {newest}


def test_a_list_of_nothing_is_not_sent():
    programme = Programme()
    assert programme.wake_at(0.0) == float("inf")
    assert programme.due(0.0) == Due()
    programme.offer([Show("s", 1.0, "raw", "a")], 1.0)
    assert programme.due(1.0) == Due(listing=True)


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 2.0),
            st.sampled_from(["nothing", "want", "unwant", "more", "less"]),
            st.sampled_from([b"", b"raw.a|", b"raw.b|"]),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_rates_are_kept_whatever_happens(steps):
    programme = Programme(rate=4.0, list_seconds=1.2)
    now, lists, sent, wished = 0.0, [], {}, set()
    offered = [Show("s", 1.0, "raw", name) for name in "ab"]
    programme.offer(offered, now)
    for seconds, what, beginning in steps:
        now += seconds
        if what == "want":
            programme.want(beginning)
            wished.add(beginning)
            for topic in [t for t in sent if t.encode().startswith(beginning)]:
                del sent[topic]  # whoever comes anew has it at once
        elif what == "unwant":
            programme.unwant(beginning)
            wished.discard(beginning)
        elif what in ("more", "less"):
            programme.offer(offered[: 2 if what == "more" else 1], now)
            sent = {t: at for t, at in sent.items() if t in programme.topics}
        wake = programme.wake_at(now)
        due = programme.due(now)
        assert bool(due.topics or due.listing) == (wake <= now)
        assert programme.wake_at(now) > now
        lists += [now] * due.listing
        for topic in due.topics:
            assert any(topic.encode().startswith(one) for one in wished)
            assert topic in programme.topics
            assert now - sent.get(topic, -9.0) >= 0.25 - 1e-9
            sent[topic] = now
    assert all(later - earlier >= 1.2 - 1e-9 for earlier, later in pairwise(lists))


def test_many_topics_are_sent_evenly_over_time():
    programme = Programme(rate=4.0, list_seconds=9.0)
    programme.offer([Show("s", 1.0, "raw", str(n)) for n in range(100)], 0.0)
    programme.want(b"")
    assert len(programme.due(0.0).topics) == 100
    sent, now = Counter(), 0.0
    while (now := programme.wake_at(now)) < 8.0:
        due = programme.due(now)
        assert len(due.topics) <= 3
        sent.update(due.topics)
    assert set(sent.values()) <= {30, 31, 32}


def test_the_scan_before_stays_until_there_is_something_of_the_next():
    old = [Show("old", 1.0, "xrf", "Fe"), Show("old", 1.0, "raw", "i0", 2)]
    raw = Show("new", 2.0, "raw", "i0", 2)
    programme = Programme(patience=30.0)
    programme.offer(old, 0.0)
    assert programme.topics == ("xrf.Fe|", "raw.i0|")
    programme.offer([*old, raw], 10.0)
    assert programme.topics == ("raw.i0|", "xrf.Fe|")  # iron does not vanish meanwhile
    assert programme.shows["raw.i0|"] is raw
    assert programme.shows["xrf.Fe|"] is old[0]
    iron = Show("new", 2.0, "xrf", "Fe")
    programme.offer([*old, raw, iron], 11.0)
    assert programme.topics == ("xrf.Fe|", "raw.i0|")
    assert programme.shows["xrf.Fe|"] is iron


def test_what_nobody_makes_any_more_leaves_the_list():
    old = [Show("old", 1.0, "xrf", "Fe"), Show("old", 1.0, "raw", "i0")]
    programme = Programme(patience=30.0)
    programme.offer(old, 0.0)
    programme.offer([*old, Show("new", 2.0, "raw", "i0")], 10.0)
    programme.offer([*old, Show("new", 2.0, "raw", "i0")], 40.0)
    assert programme.topics == ("raw.i0|",)


def test_axes_of_one_pixel_and_running_backwards():
    y, x = PictureAxis("y", None, 1.0, 1.0), PictureAxis("x", "um", 3.0, -3.0)
    picture = Picture("map", np.zeros((1, 7)), None, y, x, 7)
    topic, data, said, kind = frame("t|", picture, "n", ["t|"])
    assert (topic, kind, len(data)) == (b"t|", b"JSON", 56)
    assert b'"axisscales": [3.0, 1.0, -1.0, 1.0], "axislabels": ["x", "y", "um", null]' in said


def test_only_addresses_that_lavue_knows_and_nobody_else_reaches(tmp_path):
    for address in (f"ipc://{tmp_path}/x", "tcp://0.0.0.0:5590", "tcp://192.0.2.1:5590"):
        with pytest.raises(ValueError, match=r"tcp|loopback|keys|host"):
            PictureSocket(LavueDefinition(kind="lavue", address=address).address).close()
    with (
        PictureSocket("tcp://127.0.0.1:*") as first,
        pytest.raises(zmq.ZMQError, match="in use"),
    ):
        PictureSocket(first.address)


def test_the_command_and_the_configuration_that_is_kept(tmp_path):
    configure(tmp_path)
    file = tmp_path / "DESY" / "LaVue.conf"
    assert "AutoZMQStreamTopics=true" in file.read_text()
    file.write_text("[Configuration]\nAutoZMQStreamTopics=true\nRefreshRate=0.1\n")
    configure(tmp_path)
    assert "RefreshRate" in file.read_text()
    assert command("tcp://127.0.0.1:5590", tmp_path) == (
        f"lavue --configuration-path {tmp_path} -s zmq -c '127.0.0.1:5590/first|' -i linear -x"
    )


def test_a_running_scan_its_settings_and_the_scan_after_it(tmp_path):
    raw = raw_run({"x": VALUES, "i0": VALUES * 10}, units={"i0": "counts"}, **PLAN)
    after = raw_run({"x": VALUES * 2}, **{**PLAN, "scan_id": 8})
    head, halfway, rest, stop = raw[:2], raw[2:8], raw[8:-1], raw[-1]
    with (
        beamline(tmp_path, [Histogram(inputs={"x": "x"})]) as (served, publish, _),
        bridge(f"ipc://{tmp_path}/out", tmp_path / "log") as service,
        Viewer(service.addresses["lavue"], "histogram.y|", "histogram.square|") as viewer,
    ):
        for document in (*head, *halfway):
            publish(*document)
        viewer.until(lambda: (~np.isnan(viewer.pictures.get("histogram.y|", np.nan))).sum() == 6)
        about = viewer.abouts["histogram.y|"]
        assert about["axisscales"] == [6.0, 10.0, -2.0, 1.0]
        assert about["axislabels"] == ["sx", "sy", None, None]
        assert about["shape"] == [NX, NY]
        assert "scan 7, 6 points" in about["name"]
        assert viewer.topics[0] == "histogram.y|"
        assert "raw.i0|" in viewer.topics
        assert "histogram.square|" not in viewer.topics

        served.change("histogram", {"square": True}, "Ada")
        for document in rest:
            publish(*document)
        viewer.until(lambda: "histogram.square|" in viewer.topics)
        publish(*stop)
        viewer.until(lambda: (~np.isnan(viewer.pictures["histogram.y|"])).sum() == 12)
        np.testing.assert_array_equal(viewer.pictures["histogram.y|"], 2 * truth())
        with Viewer(service.addresses["lavue"], "histogram.counts|") as late:
            late.until(lambda: np.nansum(late.pictures.get("histogram.counts|", 0)) == 12)
            assert late.abouts["histogram.counts|"]["axislabels"][0] == "bin"
            assert late.abouts["histogram.counts|"]["shape"][1] == 1
            # What snapshots say of themselves is no map.
            assert not {"histogram.rows|", "histogram.final|"} & set(late.topics)

        for document in after:
            publish(*document)
        viewer.until(lambda: np.nanmax(viewer.pictures["histogram.y|"]) == 48)
        viewer.until(lambda: "histogram.square|" in viewer.topics)
        np.testing.assert_array_equal(viewer.pictures["histogram.y|"], 4 * truth())
        assert len(set(viewer.names)) == len(viewer.names)


def test_documents_that_say_odd_things_take_nothing_from_others(caplog):
    raw = raw_run({"x": VALUES}, **PLAN)
    odd = copy.deepcopy(process(Histogram(inputs={"x": "x"}), raw))
    for name, document in odd:
        if name == "descriptor" and document["name"] == "snapshots":
            document["data_keys"]["counts"]["dims"] = 5
    sink = Sink(100_000_000)
    offers = Offers(sink, Pictures(sink))
    for document in (*raw, *odd):
        sink(*document)
    for _ in range(2):
        assert [one.name for one in offers.look()] == ["x"]
    assert caplog.text.count("nothing can be shown of run") == 1


def test_maps_lie_where_the_positions_of_the_scan_say_whenever_these_come_or_fail():
    sy, sx = np.divmod(np.arange(12.0), NX)
    raw = raw_run(
        {"sx": sx, "sy": sy, "i0": VALUES},
        units={"sx": "um", "sy": "um", "i0": "counts"},
        devices={"sx": "position_x", "sy": "position_y"},
        **{**PLAN, "extents": [[0.0, 2.0], [0.0, 3.0]], "snaking": [False, False]},
    )
    positions = process(Positions(lag=1.0), raw)
    alone, both = (maps_of(of)["raw.i0"].values for of in (raw, [*raw, *positions]))
    assert not np.array_equal(alone, both, equal_nan=True)
    sink = Sink(100_000_000)
    offers = Offers(sink, Pictures(sink))

    def shown():
        (one,) = [show.key[0] for show in offers.look() if show.name == "i0"]
        looks.append(one.look)
        return one.look().values

    looks = []
    for document in raw:
        sink(*document)
    np.testing.assert_array_equal(shown(), alone)
    for document in positions[:-1]:
        sink(*document)
    np.testing.assert_array_equal(shown(), both)
    sink("stop", {**positions[-1][1], "exit_status": "fail"})
    for look in looks:  # until it is looked for what became new
        np.testing.assert_array_equal(look().values, alone)
    np.testing.assert_array_equal(shown(), alone)


@pytest.mark.parametrize(
    ("unit", "rank"),
    [*((unit, Rank.RAW) for unit in ("counts", "arb.", "a.u.", "none")), ("nm", Rank.POSITION)],
)
def test_only_what_has_a_unit_of_length_is_taken_for_a_position(unit, rank):
    sink = Sink(100_000_000)
    for name, document in raw_run({"i0": VALUES}, units={"i0": unit}, **PLAN):
        hints = {"hints": {"i0": {"fields": ["i0"]}}} if name == "descriptor" else {}
        sink(name, {**document, **hints})
    (run,) = sink.runs()
    assert [(one.name, one.rank) for one in Pictures(sink).of(run)] == [("i0", rank)]


def test_a_bridge_that_comes_late_shows_the_last_scan_and_nothing_is_asked_for_in_vain(tmp_path):
    write(tmp_path / "log", raw_run({"i0": VALUES}, **PLAN))
    with bridge(f"ipc://{tmp_path}/out", tmp_path / "log", rate=4.0) as service:
        with Viewer(service.addresses["lavue"], "raw.i0|") as viewer:
            viewer.until(lambda: len(viewer.names) == 3)
            np.testing.assert_array_equal(viewer.pictures["raw.i0|"], truth())
        (sent,) = [m.read for m in service.measures if m.name == "lavue_frames"]
        with Viewer(service.addresses["lavue"]) as viewer:
            viewer.receive()
            before = sent()
            for _ in range(2):
                assert viewer.receive()[0] == "datasources"
            assert sent() == before
