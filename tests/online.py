"""A proxy, pipelines, a publisher before and a listener behind them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from p06bs import Follower, Keys, Modality, Publisher, process
from p06bs.model.documents import NamedDocument
from p06bs.model.revisions import settings_history
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.elastic import ElasticPool
from p06bs.pipeline.pipeline import Pipelines
from p06bs.services._recorder import Recorder
from p06bs.services.proxy import Proxy
from tests.documents import rows_of, validate

PATIENCE = 60.0


@contextmanager
def proxy(folder: Path, keys: Keys | None = None) -> Iterator[tuple[str, str]]:
    addresses = (f"ipc://{folder}/in", f"ipc://{folder}/out")
    forwarder = Proxy(*addresses, keys)
    thread = threading.Thread(target=forwarder.start)
    thread.start()
    try:
        yield addresses
    finally:
        forwarder.stop()
        thread.join()


@contextmanager
def running(pipelines: Pipelines) -> Iterator[Pipelines]:
    thread = threading.Thread(target=pipelines.run)
    thread.start()
    try:
        yield pipelines
    finally:
        pipelines.stop()
        thread.join()


def elastic_of(pipelines: Pipelines) -> ElasticPool:
    """Return the pool of pipelines that have one."""
    (only,) = pipelines.pools
    return only


class Listener:
    """Follow everything, and wait for rows or the stop document of a derived run."""

    def __init__(self, address: str, log: Path, keys: Keys | None = None) -> None:
        self.recorder = Recorder(Follower(address, log, keys=keys))

    def derived(self, raw: str, modality: str) -> list[NamedDocument]:
        uid = self.recorder.derived(raw).get(modality)
        return [] if uid is None else list(self.recorder.runs[uid].documents)

    def wait(self, raw: str, modality: str, *, rows: int | None = None) -> list[NamedDocument]:
        """Wait for so many rows, or for the stop document."""

        def there() -> bool:
            if rows is not None:
                return len(rows_of(self.derived(raw, modality))) >= rows
            return self.recorder.stopped(raw, [modality])

        come = self.recorder.wait(there, PATIENCE)
        documents = self.derived(raw, modality)
        assert come, f"{modality}: {len(rows_of(documents))} rows, no stop"
        return documents

    def __enter__(self) -> "Listener":
        self.recorder.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self.recorder.__exit__()


@contextmanager
def beamline(
    folder: Path,
    pipelines: list[Modality | Pipeline],
    *,
    keys: Keys | None = None,
    **options: Any,
) -> Iterator[tuple[Pipelines, Publisher, Listener]]:
    """Run a proxy and pipelines, with a publisher before and a listener behind them."""
    log = folder / "log"
    with (
        proxy(folder, keys) as (inbound, outbound),
        running(Pipelines(inbound, outbound, log, pipelines, keys=keys, **options)) as served,
        Publisher(inbound, log, keys=keys) as publish,
        Listener(outbound, log, keys) as listener,
    ):
        yield served, publish, listener


def assert_equal(
    online: list[NamedDocument],
    modality: Modality,
    raw: list[NamedDocument],
    upstream: Sequence[NamedDocument] = (),
) -> None:
    """Compare with what a fresh computation of the raw documents gives."""
    validate(online)
    initial, history = settings_history(online)
    again = type(modality)(inputs=modality.inputs, **initial)
    made = online[0][1]["process"]
    reference = process(
        again,
        raw,
        history,
        reprocessing=made["reprocessing"],
        rows=made.get("rows"),
        upstream=upstream,
    )
    assert online[0][1]["uid"] == reference[0][1]["uid"]
    assert online[0][1]["derived_from"] == reference[0][1]["derived_from"]
    described = [d for n, d in reference if n == "descriptor" and d["configuration"]]
    keys = [k for d in described for k in d["data_keys"]]
    for key in dict.fromkeys(keys):
        streams = {d["name"] for d in described if key in d["data_keys"]}
        ours = [r for r in rows_of([x for x in online if _has(x, key)], key) if r[0] in streams]
        theirs = rows_of([x for x in reference if _has(x, key)], key)
        assert [r[:3] for r in ours] == [r[:3] for r in theirs]
        a, b = (np.array([r[3] for r in rows]) for rows in (ours, theirs))
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), key
    stop, expected = online[-1][1], reference[-1][1]
    for key in ("num_invalid", "exit_status"):
        assert stop[key] == expected[key]
    for stream in stop["num_invalid"]:
        assert stop["num_events"][stream] == expected["num_events"][stream]
    ours, theirs = ([d["data"] for n, d in x if n == "event"][-1:] for x in (online, reference))
    for snapshot, other in zip(ours, theirs, strict=True):
        assert snapshot["final"]
        assert {k: np.asarray(v).tolist() for k, v in snapshot.items()} == {
            k: np.asarray(v).tolist() for k, v in other.items()
        }


def _has(item: NamedDocument, key: str) -> bool:
    return item[0] != "event_page" or key in item[1]["data"]
