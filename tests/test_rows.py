"""Rows: joined by index and occurrence, in acquisition order, each once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs.model.binding import Binding
from p06bs.model.modality import BoundInput
from p06bs.model.rows import Rows, Source


def bound(stream: str, key: str, *, external: bool = False) -> BoundInput:
    return BoundInput(stream, key, external, (), (), "<f8")


def binding(**inputs: BoundInput) -> Binding:
    return Binding(inputs, next(iter(inputs)))


EVENTS = Source("primary")
FRAMES = Source("frames", "det")


def page(uids: list[str], seqs: list[int]) -> dict[str, Any]:
    return {"uid": uids, "seq_num": seqs, "time": [float(s) for s in seqs]}


def datum(uid: str, start: int, stop: int, *, first: int | None = None) -> dict[str, Any]:
    first = start + 1 if first is None else first
    return {
        "uid": uid,
        "stream_resource": "file",
        "indices": {"start": start, "stop": stop},
        "seq_nums": {"start": first, "stop": first + stop - start},
    }


def all_rows(rows: Rows, size: int = 3) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    while (taken := rows.take(size)) is not None:
        assert taken.first == len(found)
        found += list(zip(taken.seq.tolist(), taken.uids, strict=True))
    return found


def test_single_source_goes_through_as_it_comes():
    rows = Rows(binding(a=bound("primary", "x")))
    rows.add(EVENTS, "event_page", page(["a", "b", "c"], [1, 2, 3]))
    rows.add(EVENTS, "event", {"uid": "d", "seq_num": 4, "time": 4.0})
    assert all_rows(rows) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


def test_a_doubled_document_counts_once():
    rows = Rows(binding(a=bound("primary", "x")))
    for _ in range(2):
        rows.add(EVENTS, "event_page", page(["a", "b"], [1, 2]))
    rows.add(EVENTS, "event_page", page(["b", "c"], [2, 3]))
    assert all_rows(rows) == [(1, "a"), (2, "b"), (3, "c")]


def test_a_rewind_makes_new_rows_of_the_same_seq_num():
    rows = Rows(binding(a=bound("primary", "x")))
    seqs = [1, 2, 3, 1, 2, 3, 4, 5]
    for i, seq in enumerate(seqs):
        rows.add(EVENTS, "event", {"uid": f"e{i}", "seq_num": seq, "time": 0.0})
    assert all_rows(rows) == [(seq, f"e{i}") for i, seq in enumerate(seqs)]


def test_a_rewind_pairs_new_frames_with_new_events():
    rows = Rows(binding(frame=bound("primary", "det", external=True), x=bound("primary", "x")))
    frames = Source("primary", "det")
    steps = [(1, 0), (2, 1), (1, 2), (2, 3), (3, 4)]  # seq_num, frame
    for number, (seq, frame) in enumerate(steps):
        rows.add(frames, "stream_datum", datum(f"d{number}", frame, frame + 1, first=seq))
        rows.add(EVENTS, "event", {"uid": f"e{number}", "seq_num": seq, "time": 0.0}, (number, 1))
    pairs = []
    while (taken := rows.take(2)) is not None:
        frame_rows = [s.start + i for s in taken.spans["primary/det"] for i in range(s.count)]
        events = [s.where[0] for s in taken.spans["primary"]]
        pairs += list(zip(taken.seq.tolist(), frame_rows, events, strict=True))
    assert pairs == [(seq, frame, i) for i, (seq, frame) in enumerate(steps)]


def test_a_missing_partner_is_passed_over_and_late_ones_come_later():
    rows = Rows(binding(x=bound("primary", "x"), frame=bound("frames", "det", external=True)))
    rows.add(EVENTS, "event_page", page(list("abcd"), [1, 2, 3, 4]))
    rows.add(FRAMES, "stream_datum", datum("d1", 0, 1))
    rows.add(FRAMES, "stream_datum", datum("d3", 2, 3))
    assert all_rows(rows) == [(1, "a"), (3, "c")]
    assert rows.unpaired == 1
    rows.add(FRAMES, "stream_datum", datum("d2", 1, 2))
    rows.finish()
    assert rows.take(9).uids == ["b"]  # type: ignore[union-attr]
    assert rows.unpaired == 1  # the fourth event never got a frame
    assert rows.counts == {"primary": 4, "frames/det": 3}


@given(
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    pages=st.lists(st.integers(1, 5), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    size=st.integers(1, 9),
)
def test_any_interleaving_of_two_streams_gives_the_same_rows(cuts, pages, order, size):
    count = min(sum(cuts), sum(pages))
    documents: list[tuple[Source, str, dict[str, Any]]] = []
    streams: list[list[tuple[Source, str, dict[str, Any]]]] = [[], []]
    at = 0
    for n in cuts:
        streams[0].append((FRAMES, "stream_datum", datum(f"d{at}", at, at + n)))
        at += n
    at = 0
    for n in pages:
        seqs = list(range(at + 1, at + n + 1))
        streams[1].append((EVENTS, "event_page", page([f"e{s}" for s in seqs], seqs)))
        at += n
    while any(streams):
        stream = order.choice([s for s in streams if s])
        documents.append(stream.pop(0))
    rows = Rows(binding(x=bound("primary", "x"), frame=bound("frames", "det", external=True)))
    for source, name, document in documents:
        rows.add(source, name, document)
    rows.finish()
    assert all_rows(rows, size) == [(s, f"e{s}") for s in range(1, count + 1)]
    assert rows.available == 0


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 6)), max_size=80))
def test_rows_are_exactly_the_distinct_events_in_order_of_arrival(arrivals):
    rows = Rows(binding(a=bound("primary", "x")))
    expected: list[tuple[int, str]] = []
    for seq, version in arrivals:
        event = (seq, f"{seq}.{version}")
        if event not in expected:
            expected.append(event)
        rows.add(EVENTS, "event", {"uid": event[1], "seq_num": seq, "time": 0.0})
    assert all_rows(rows, 4) == expected


def test_times_come_from_the_events():
    rows = Rows(binding(frame=bound("frames", "det", external=True), x=bound("primary", "x")))
    rows.add(EVENTS, "event_page", page(["a", "b"], [1, 2]))
    rows.add(FRAMES, "stream_datum", datum("d", 0, 2))
    taken = rows.take(5)
    assert taken is not None
    assert taken.times == [1.0, 2.0]
    assert taken.uids == ["d/0", "d/1"]
    assert np.array_equal(taken.seq, [1, 2])


@pytest.mark.parametrize("size", [1, 7, 64])
def test_memory_of_delivered_documents_is_let_go(size):
    rows = Rows(binding(a=bound("primary", "x")))
    for start in range(0, 1000, 10):
        seqs = list(range(start + 1, start + 11))
        rows.add(EVENTS, "event_page", page([f"e{s}" for s in seqs], seqs))
        while rows.available >= size:
            rows.take(size)
    held = rows._feeds["primary"].segments
    assert len(held) <= 2 + size // 10 + 1


@pytest.mark.parametrize("lag", [0, 1, 7])
def test_memory_of_joined_documents_is_let_go_although_one_lags_or_lacks_rows(lag):
    rows = Rows(binding(x=bound("primary", "x"), frame=bound("frames", "det", external=True)))
    for number in range(1000):
        rows.add(EVENTS, "event", {"uid": f"e{number}", "seq_num": number + 1, "time": 0.0})
        frame = number - lag
        if frame >= 0 and frame % 100:  # each hundredth frame was not taken
            rows.add(FRAMES, "stream_datum", datum(f"d{frame}", frame, frame + 1))
        while rows.take(5) is not None:
            pass
    assert rows.taken >= 980 - lag
    assert len(rows._feeds["primary"].segments) <= lag + 3
    rows.add(FRAMES, "stream_datum", datum("d500", 500, 501))  # it comes after all
    rows.finish()
    taken = rows.take(5)
    assert taken is not None
    assert taken.uids == ["e500"]


def test_rows_without_a_partner_cost_the_same_each():
    """Thousands of rows that wait are not judged again with every document."""
    rows = Rows(binding(x=bound("primary", "x"), frame=bound("frames", "det", external=True)))
    judged = 0
    judge = rows._pairing._judge

    def counting(new: Any, final: bool) -> Any:
        nonlocal judged
        judged += len(new.seqs)
        return judge(new, final)

    rows._pairing._judge = counting
    for number in range(5000):
        rows.add(EVENTS, "event", {"uid": f"e{number}", "seq_num": number + 1, "time": 0.0})
    rows.add(FRAMES, "stream_datum", datum("d", 0, 5000))
    assert rows.available == 5000
    assert judged < 5000 * 1100
