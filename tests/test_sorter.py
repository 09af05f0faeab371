"""The sorter: workers share a run, their pages come shuffled and twice, and are in order."""

import asyncio
import random
import threading
from typing import Any

import numpy as np
import pytest
from bluesky.callbacks.zmq import RemoteDispatcher
from hypothesis import given, settings
from hypothesis import strategies as st

from p06bs import Publisher, process
from p06bs.bus.wire import deserialize
from p06bs.model.documents import NamedDocument
from p06bs.pipeline.inline import Worker
from p06bs.pipeline.sorter import Sorter
from p06bs.services.proxy import Proxy
from tests.documents import raw_run, rows_of, validate
from tests.techniques import Scale, Total

PATIENCE = 20


def scale(**changed: Any) -> Scale:
    return Scale(inputs={"x": "motor"}, **changed)


def shares(modality: Scale, raw: list[NamedDocument], of: int, size: int, history: Any) -> Any:
    """Return what each of several workers that share a run emits."""
    streams: list[list[NamedDocument]] = [[] for _ in range(of)]
    for number, stream in enumerate(streams):
        worker = Worker(
            modality,
            lambda n, d, stream=stream: stream.append((n, d)),
            share=(number, of),
            batch_size=size,
            history=history,
        )
        for name, document in raw:
            worker(name, document)
    return streams


KEYS = ("raw_seq_num", "raw_uid", "n", "valid", "invalid_reason")


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    of=st.integers(1, 4),
    size=st.integers(1, 9),
    double=st.floats(0, 1),
)
def test_workers_that_share_a_run_and_a_sorter_equal_process(seed, of, size, double):
    chance = random.Random(seed)
    raw = raw_run({"motor": np.arange(60)}, page=7, seqs=[*range(1, 41), *range(21, 41)])
    uids = [u for n, d in raw if n == "event_page" for u in d["uid"]]
    history = [(uids[17], {"factor": 3.0}), (uids[30], {"square": True, "flagged": [33.0]})]
    modality = scale(bad=[5.0], flagged=[20.0])
    streams = shares(modality, raw, of, size, history)
    out: list[NamedDocument] = []
    sorter = Sorter(lambda n, d: out.append((n, d)))
    while any(streams):
        chosen = chance.choice([s for s in streams if s])
        at = chance.randrange(len(chosen))  # pages overtake each other, nothing else does
        if any(n != "event_page" for n, _ in chosen[: at + 1]):
            at = 0
        item = chosen.pop(at)
        for _ in range(2 if chance.random() < double else 1):
            sorter(*item)
        if chance.random() < double / 4 and item[0] == "event_page":
            chosen.insert(min(len(chosen), chance.randrange(1, 9)), item)  # and again later
    validate([d for d in out if d[0] != "event_page"])
    reference = process(modality, raw, history, batch_size=size)
    assert rows_of(out, *KEYS) == rows_of(reference, *KEYS)
    assert out[-1][0] == "stop"
    for key in ("num_events", "num_invalid", "uid"):
        assert out[-1][1][key] == reference[-1][1][key]


def test_raw_runs_pass_the_sorter_as_they_are():
    out: list[NamedDocument] = []
    sorter = Sorter(lambda n, d: out.append((n, d)))
    raw = raw_run({"x": np.arange(5)}, page=2)
    for document in raw:
        sorter(*document)
    assert out == raw


def test_a_modality_with_a_memory_cannot_be_shared():
    with pytest.raises(ValueError, match=r"total carries state .* one worker must compute all"):
        Worker(Total(inputs={"x": "x"}), share=(0, 2))
    with pytest.raises(ValueError, match="share is"):
        Worker(scale(), share=(2, 2))
    with pytest.raises(ValueError, match="batch_size is 0"):
        Worker(scale(), batch_size=0)


def test_a_stock_dispatcher_feeds_the_sorter_through_our_proxy(tmp_path):
    """Two workers publish their shares; bluesky's own RemoteDispatcher listens."""
    raw = raw_run({"motor": np.arange(50)}, page=5)
    streams = shares(scale(), raw, 2, 4, ())
    proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    forwarding = threading.Thread(target=proxy.start)
    forwarding.start()
    dispatcher = RemoteDispatcher(proxy.out_port.removeprefix("tcp://"), deserializer=deserialize)
    out: list[NamedDocument] = []
    heard = threading.Condition()

    def take(name: str, document: Any) -> None:
        with heard:
            out.append((name, document))
            heard.notify_all()

    def listen() -> None:
        with pytest.raises(asyncio.CancelledError):
            dispatcher.start()

    def there(uid: str) -> bool:
        return any(d["uid"] == uid for _, d in out)

    dispatcher.subscribe(Sorter(take))
    listening = threading.Thread(target=listen)
    listening.start()
    logs = tmp_path / "one", tmp_path / "two"
    with Publisher(proxy.in_port, logs[0]) as one, Publisher(proxy.in_port, logs[1]) as two:
        for number, publish in enumerate((one, two)):
            for attempt in range(1000):  # it hears only what comes after it has subscribed
                uid = f"probe-{number}-{attempt}"
                publish("start", {"uid": uid})
                with heard:
                    if heard.wait_for(lambda uid=uid: there(uid), 0.02):
                        break
        for publish, stream in zip((two, one), reversed(streams), strict=True):
            for document in stream:
                publish(*document)
        with heard:
            assert heard.wait_for(lambda: out[-1][0] == "stop", PATIENCE)
    dispatcher.loop.call_soon_threadsafe(dispatcher._task.cancel)
    listening.join()
    proxy.stop()
    forwarding.join()
    mine = [d for d in out if not str(d[1]["uid"]).startswith("probe")]
    reference = process(scale(), raw, batch_size=4)
    assert [n for n, _ in mine] == [n for n, _ in reference]
    assert rows_of(mine, *KEYS) == rows_of(reference, *KEYS)
