"""Publisher and consumer, in processes of their own."""

import multiprocessing
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from p06bs import DocumentLog, Follower, Publisher
from p06bs.model.documents import NamedDocument

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 120.0
Run = Callable[[str], Iterable[NamedDocument]]
"""Returns the documents of a raw run with the uid that it is given; must be picklable."""


class BenchmarkError(RuntimeError):
    """A benchmark did not measure what it should have."""


class Child:
    """A process that says when it is ready, goes when told to, and gives a result.

    It gets a fresh interpreter: what a fork inherits (threads, sockets) would
    take part in the measurement.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._name = target.__name__
        self._process = context.Process(target=target, args=(theirs, *args), name=self._name)
        self._process.start()
        theirs.close()

    def receive(self, seconds: float = PATIENCE) -> Any:
        """Return what the process sends next.

        Raises
        ------
        BenchmarkError
            If it ends, or sends nothing for so long.
        """
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv()
        except EOFError:
            self._process.join()
            raise BenchmarkError(
                f"process {self._name} ended with status {self._process.exitcode}"
            ) from None
        raise BenchmarkError(f"process {self._name} said nothing for {seconds:g} s")

    def go(self) -> None:
        """Let it begin."""
        self._pipe.send("go")

    def close(self) -> None:
        """Give it a second to end, then end it."""
        self._pipe.close()
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Arrivals:
    """The rows of one derived run as the consumer got them; times of ``time.monotonic``, s."""

    began: float
    times: npt.NDArray[np.float64]
    raw_seq_num: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    @property
    def seconds(self) -> float:
        """From the first document published to the last row consumed."""
        return float(self.times[-1]) - self.began

    def check(self, events: int) -> None:
        """Check that every event came once and in order.

        Raises
        ------
        BenchmarkError
            If not.
        """
        if not np.array_equal(self.raw_seq_num, np.arange(1, events + 1)):
            raise BenchmarkError(
                f"{len(self.raw_seq_num)} rows of {events} events came, "
                f"{len(np.unique(self.raw_seq_num))} different ones"
            )


def publish(pipe: Connection, inbound: str, log: Path, run: Run, uid: str, every: float) -> None:
    """Publish a run, a document every so many seconds (0: at full speed)."""
    with Publisher(inbound, log) as publisher:
        pipe.send("ready")
        pipe.recv()
        began = due = time.monotonic()
        for document in run(uid):
            publisher(*document)
            if every:
                due += every
                time.sleep(max(0.0, due - time.monotonic()))
        pipe.send(began)


def consume(
    pipe: Connection, outbound: str, log: Path, raw: str, derived: bool, value: str
) -> None:
    """Follow the raw run `raw`, or what is derived from it, and note when its rows come."""
    times: list[tuple[float, int]] = []
    seqs: list[Any] = []
    values: list[Any] = []
    documents = DocumentLog(log)

    def wanted(run: str) -> bool:
        if not derived:
            return run == raw
        first, _ = documents.ends(run)
        return first is not None and first.document.get("derived_from") == [raw]

    with Follower(outbound, documents, runs=wanted) as follower:
        pipe.send("ready")
        for name, document in follower:
            now = time.monotonic()
            if name in ("event", "event_page"):
                data = document["data"]
                seq = np.atleast_1d(data["raw_seq_num"] if derived else document["seq_num"])
                times.append((now, len(seq)))
                seqs.append(seq.copy())
                if value:
                    values.append(np.array(data[value], ndmin=1))
            elif name == "stop":
                break
    instants, counts = np.array(times).T
    pipe.send(
        Arrivals(
            0.0,
            np.repeat(instants, counts.astype(int)),
            np.concatenate(seqs),
            np.concatenate(values) if value else np.array([]),
        )
    )
