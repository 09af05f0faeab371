"""Random schedules of results that are late, lost, doubled or failed: always the same events.

The pipeline's decisions (leases, master, sorter) are driven without any socket,
clock or process, and must give what the reference `process` gives.
"""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p06bs import Output, process
from p06bs.bus.codec import Packed, pack_document
from p06bs.model.compute import Result, compute, invalid, make_ready
from p06bs.model.documents import NamedDocument
from p06bs.model.gather import gather
from p06bs.model.page import compose_page
from p06bs.model.revisions import Revision, settings_history
from p06bs.pipeline.batch import Batch, batch_size
from p06bs.pipeline.earlier import Earlier
from p06bs.pipeline.keeper import Keeper
from p06bs.pipeline.leases import Leases
from p06bs.pipeline.run import RunPipeline
from tests.documents import acquisition, raw_run, rows_of, validate
from tests.techniques import Fussy, Histogram, Scale, Total

SILENCE = 5.0


class World:
    """One raw run, a pipeline for it and workers that misbehave."""

    def __init__(
        self, modality: Any, raw: list[NamedDocument], chance: random.Random, size: int | None
    ) -> None:
        self.modality, self.raw, self.chance, self.size = modality, raw, chance, size
        self.log: list[NamedDocument] = []  # what was published, over all restarts
        self.now = 0.0
        self.initial: list[Revision] = []  # what the derived run began with, as it was kept
        self.newest: Revision | None = None  # the last change, as it was kept
        self.begin()

    def begin(self) -> None:
        """Start the pipeline process, or start it again after it was killed."""
        self.leases: Leases[int] = Leases(SILENCE)
        self.out: list[tuple[str, int, Batch, Result]] = []  # worker, attempt, batch, result
        self.fed = 0
        earlier = Earlier.read(self.log)
        self.run = RunPipeline(
            self.modality,
            self.raw[0][1],
            self.publish,
            lambda derived: earlier,
            lambda: self.now,
            size=self.size,
            keeper=Keeper(
                self.initial,
                begun=bool(self.initial),
                began=self.keep,
                newest=lambda: self.newest,
            ),
        )

    def keep(self, revision: Revision, derived: str) -> Revision:
        self.initial = self.initial or [revision]
        return self.initial[0]

    def publish(self, name: str, document: Any) -> None:
        plain = document.unpack() if isinstance(document, Packed) else document
        self.log.append((name, plain))

    def step(self) -> None:
        """Let something happen."""
        self.now += self.chance.random()
        act = self.chance.choice(
            [
                "feed",
                "feed",
                "join",
                "lease",
                "lease",
                "result",
                "result",
                "result",
                "double",
                "lose",
                "die",
                "hang",
                "settings",
                "restart",
            ]
        )
        workers = list(self.leases.workers)
        if act == "feed":
            self.feed()
        elif act == "join" and len(workers) < 4:
            self.leases.join(f"w{self.chance.random()}", self.chance.choice([1, 2]), self.now)
        elif act == "lease":
            self.lease(once=True)
        elif act in ("result", "double") and self.out:
            at = self.chance.randrange(len(self.out))
            self.result(*(self.out[at] if act == "double" else self.out.pop(at)))
        elif act == "lose" and self.out:
            worker, attempt, batch, _ = self.out.pop(self.chance.randrange(len(self.out)))
            if self.leases.end(batch.number, worker, attempt) and self.run.going:
                self.run.going.master.again(batch.number)
        elif act == "die" and workers and self.chance.random() < 0.5:
            self.lost(self.leases.leave(self.chance.choice(workers)))
        elif act == "hang" and self.chance.random() < 0.3:
            alive = self.chance.choice(workers) if workers else ""
            self.now += SILENCE + 1
            self.leases.heard(alive, self.now)
            for lost in self.leases.expire(self.now).values():
                self.lost(lost)
        elif act == "settings":
            settings = {
                "factor": float(self.chance.randint(3, 9)),
                "square": self.chance.random() < 0.3,
            }
            if isinstance(self.modality, Histogram) and self.chance.random() < 0.3:
                settings["wide"] = True
            number = 1 if self.newest is None else self.newest.change + 1
            valid = self.modality.validate(settings)
            self.newest = Revision(0, valid, "tester", self.now, change=number)
            # It may be killed between keeping a change and using it.
            if self.chance.random() < 0.3:
                self.begin()
            else:
                self.run.revise(self.newest)
        elif act == "restart" and self.chance.random() < 0.15:
            self.begin()

    def feed(self) -> None:
        if self.fed < len(self.raw):
            name, document = self.raw[self.fed]
            self.fed += 1
            self.run.add(name, document, document)

    def lease(self, *, once: bool) -> None:
        for worker in self.leases.idle():
            work = self.run.going
            batch = None if work is None else work.next_batch(len(self.leases.workers))
            if batch is None:
                return
            lease = self.leases.grant(batch.number, worker)
            self.out.append((worker, lease.attempt, batch, self.compute(batch)))
            if once:
                return

    def compute(self, batch: Batch) -> Result:
        settings = self.run.work.setups[batch.revision]
        setup = make_ready(self.modality, settings.settings, settings.binding)
        columns, reasons = gather(
            setup.binding, len(batch.rows), batch.rows.spans, {}, lambda where: where, no_frames
        )
        return compute(setup, columns, reasons)

    def result(self, worker: str, attempt: int, batch: Batch, result: Result) -> None:
        self.leases.end(batch.number, worker, attempt)
        work = self.run.going
        if work is None or work.master.batch_out(batch.number) is None:
            return
        if self.modality.scan is None:  # as a worker does: it composes the page
            stream, setup = (
                work.derived.stream(batch.revision),
                work.setups[batch.revision],
            )
            page = compose_page(stream, setup.outputs, batch.rows, result, self.now)
            packed = pack_document("event_page", page)
            invalid = sum(map(bool, result.reasons))
            work.composed(batch.number, len(batch.rows), invalid, packed, result.parts)
        else:
            work.result(batch.number, result)
        self.leases.forget(batch.number)

    def lost(self, batches: list[int]) -> None:
        for number in batches:
            if self.run.going is not None:
                self.run.going.master.again(number)

    def finish(self) -> None:
        """Let one good worker do the rest."""
        for worker in self.leases.workers:
            self.lost(self.leases.leave(worker))
        self.leases.join("good", 2, self.now)
        while self.fed < len(self.raw):
            self.feed()
        while not self.run.over:
            self.lease(once=False)
            assert self.out, "work is left, but nothing is leased"
            self.result(*self.out.pop(0))


def no_frames(*_: Any) -> Any:
    raise AssertionError("there are no frames here")


rewinds = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), min_size=1, max_size=5)


def rows_counted(stop: Any) -> dict[str, int]:
    return {s: n for s, n in stop["num_events"].items() if not s.startswith("snapshots")}


def last_snapshots(documents: list[NamedDocument]) -> list[Any]:
    found = [d["data"] for n, d in documents if n == "event" and d["data"]["final"]]
    assert len({d["uid"] for n, d in documents if n == "event"}) == len(
        [d for n, d in documents if n == "event"]
    )
    return found


@given(
    legs=rewinds,
    seed=st.integers(0, 10**9),
    page=st.sampled_from([0, 1, 4]),
    size=st.sampled_from([None, 1, 3, 7]),
    steps=st.integers(0, 150),
    kind=st.sampled_from([Scale, Total, Histogram]),
)
def test_any_schedule_gives_the_reference(legs, seed, page, size, steps, kind):
    seqs = acquisition(legs)
    x = np.arange(len(seqs), dtype=float)
    raw = raw_run({"x": x}, seqs=seqs, page=page)
    settings: dict[str, Any] = {} if kind is Total else {"bad": [3.0], "flagged": [5.0]}
    world = World(kind(inputs={"x": "x"}, **settings), raw, random.Random(seed), size)
    for _ in range(steps):
        world.step()
    world.finish()

    validate([document for document in world.log if document[0] != "event"])
    initial, history = settings_history(world.log)
    reference = process(kind(inputs={"x": "x"}, **initial), raw, history)
    keys = ("raw_seq_num", "raw_uid", "valid", "invalid_reason")
    assert rows_of(world.log, *keys) == rows_of(reference, *keys)
    column = "total" if kind is Total else "y"
    assert np.array_equal(
        np.array([r[3] for r in rows_of(world.log, column)]),
        np.array([r[3] for r in rows_of(reference, column)]),
        equal_nan=True,
    )
    assert [r[3] for r in rows_of(world.log, "raw_seq_num")] == seqs
    changes = [
        d["configuration"][kind.name]["data"]["change"]
        for n, d in world.log
        if n == "descriptor" and kind.name in d["configuration"]
    ]
    assert changes == sorted(set(changes)), "a change is applied once, or overtaken"
    stop, expected = world.log[-1][1], reference[-1][1]
    for key in ("num_invalid", "exit_status", "uid"):
        assert stop[key] == expected[key]
    assert rows_counted(stop) == rows_counted(expected)
    for ours, theirs in zip(last_snapshots(world.log), last_snapshots(reference), strict=True):
        assert ours["counts"].tolist() == theirs["counts"].tolist()
        assert ours["total"] == pytest.approx(theirs["total"], rel=1e-9)
        for key in ("raw_seq_num", "rows"):
            assert ours[key] == theirs[key]
    # Nothing is left: no batch is out, none is leased, no page waits.
    assert world.run.work is None or world.run.work.master.queued == 0
    assert world.leases.leased == 0
    assert world.run.work is None or world.run.work.fan_in.waiting == 0


def test_a_batch_that_kills_its_workers_is_halved_until_one_event_is_invalid():
    raw = raw_run({"x": np.arange(8.0)}, page=8)
    world = World(Scale(inputs={"x": "x"}), raw, random.Random(0), 8)
    while world.fed < len(raw):
        world.feed()
    deaths = 0
    while not world.run.over:
        world.leases.join(f"w{deaths}", 1, 0.0)
        for worker in world.leases.idle():
            batch = world.run.going.next_batch(1)
            assert batch is not None
            lease = world.leases.grant(batch.number, worker)
            if world.raw[2][1]["uid"][5] in batch.rows.uids:
                deaths += 1
                for number in world.leases.leave(worker):
                    world.run.work.lost(number)
            else:
                world.result(worker, lease.attempt, batch, world.compute(batch))
            break
    rows = rows_of(world.log, "raw_seq_num", "valid", "invalid_reason")
    assert [r[4] for r in rows] == [i != 5 for i in range(8)]
    assert "workers died" in rows[5][5]
    assert deaths < 12


@pytest.mark.parametrize("size", [None, 64])
def test_a_backlog_costs_names_only(size):
    world = World(
        Scale(inputs={"x": "x"}), raw_run({"x": np.arange(500.0)}), random.Random(1), size
    )
    while world.fed < len(world.raw):
        world.feed()
    assert world.run.work is not None
    assert world.run.work.master.queued == 500
    world.finish()
    assert world.log[-1][1]["num_events"] == {"primary": 500}


def test_batches_are_as_large_as_they_are_worth():
    """What takes no time is not cut; what takes long is shared."""
    assert [batch_size(n, 2) for n in (1, 4, 8, 100, 10**6)] == [1, 1, 2, 16, 1024]
    assert batch_size(16, 2, row_seconds=1e-6) == 1024
    assert batch_size(16, 2, row_seconds=0.001) == 4
    assert batch_size(16, 2, row_seconds=10.0) == 4
    assert batch_size(16, 2, largest=100, row_seconds=0.0) == 64
    world = World(Scale(inputs={"x": "x"}), raw_run({"x": np.arange(64.0)}), random.Random(1), None)
    while world.fed < len(world.raw):
        world.feed()
    first = world.run.going.next_batch(2)
    assert first is not None
    assert len(first.rows) == 16
    assert world.run.work is not None
    for _ in range(20):
        world.run.work.master.took(16, 16e-5)
    second = world.run.going.next_batch(2)
    assert second is not None
    assert len(second.rows) == 48  # all there is
    world.run.work.master.again(first.number)
    world.run.work.master.again(second.number)
    world.finish()


def test_rows_that_were_published_as_invalid_stay_so_after_a_restart():
    raw = raw_run({"x": np.ones(8)}, page=4)
    world = World(Total(inputs={"x": "x"}), raw, random.Random(0), 4)
    for name, document in raw[:3]:
        world.run.add(name, document, document)
    first = world.run.going.next_batch(1)
    assert first is not None
    world.run.work.result(first.number, invalid(4, "its file was late"))
    world.begin()  # now the rows are there
    world.finish()
    rows = rows_of(world.log, "valid", "invalid_reason", "total")
    assert [r[3] for r in rows] == [False] * 4 + [True] * 4
    assert [r[5] for r in rows[4:]] == [1, 2, 3, 4]
    assert world.log[-1][1]["num_invalid"] == {"primary": 4}


def test_settings_after_a_restart_begin_behind_what_was_published():
    raw = raw_run({"x": np.ones(12)}, page=4)
    world = World(Total(inputs={"x": "x"}), raw, random.Random(0), 4)
    for name, document in raw[:3]:
        world.run.add(name, document, document)
    world.leases.join("w", 2, 0.0)
    world.lease(once=False)
    world.result(*world.out.pop())
    world.newest = Revision(0, Total.validate({"factor": 100.0}), "Ada", 1.0, change=1)
    world.begin()
    world.finish()
    assert [r[3] for r in rows_of(world.log, "total")] == [1, 2, 3, 4] + [
        4 + 100 * n for n in range(1, 9)
    ]
    _, history = settings_history(world.log)
    assert history == [(raw[3][1]["uid"][0], {"factor": 100.0, "square": False})]


def test_new_settings_with_large_outputs_make_smaller_batches():
    class Images(Scale):
        def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
            made = super().outputs(settings, bound)
            return {**made, "image": Output(shape=(1024, 1024))} if settings.square else made

    raw = raw_run({"x": np.ones(400)}, page=100)
    world = World(Images(inputs={"x": "x"}), raw, random.Random(0), 50)
    for name, document in raw[:-1]:
        world.run.add(name, document, document)
    sizes = []
    for square in (False, True, False):
        world.run.revise(Revision(0, Images.validate({"square": square}), "", 1.0))
        batch = world.run.going.next_batch(1)
        assert batch is not None
        sizes.append(len(batch.rows))
    assert sizes == [50, 3, 50]  # an image has 8 MiB, a batch 32 at most


def test_a_held_document_that_is_malformed_costs_itself_only(caplog):
    raw = raw_run({"x": np.arange(6.0)}, aligned_streams=["primary", "late"])
    other = {**raw[1][1], "uid": "late", "name": "late", "data_keys": {}}
    bad = {k: v for k, v in raw[3][1].items() if k != "time"}
    world = World(
        Scale(inputs={"x": "x"}),
        [*raw[:3], ("event", bad), *raw[4:6], ("descriptor", other), *raw[6:]],
        random.Random(0),
        2,
    )
    world.finish()
    assert [r[3] for r in rows_of(world.log, "raw_seq_num")] == [1, 3, 4, 5, 6]
    assert "leaves out a document (event)" in caplog.text


test_a_held_document_that_is_malformed_costs_itself_only = pytest.mark.logs_errors(
    test_a_held_document_that_is_malformed_costs_itself_only
)


@pytest.mark.logs_errors
def test_a_run_begins_with_the_newest_settings_that_fit_it():
    asked = [Revision(0, Fussy.validate(s), "", 1.0) for s in ({"start": 5.0}, {"start": -1.0})]
    unfit: list[Revision] = []
    raw = raw_run({"x": np.ones(6)}, page=3)
    log: list[NamedDocument] = []
    run = RunPipeline(
        Fussy(inputs={"x": "x"}),
        raw[0][1],
        lambda n, d: log.append((n, d)),
        lambda derived: None,
        lambda: 0.0,
        keeper=Keeper(
            [*reversed(asked), Revision(0, Fussy.validate({}))],
            judged=lambda revision, problem: unfit.append(revision) if problem else None,
        ),
    )
    for name, document in raw:
        run.add(name, document, document)
    assert unfit == asked[1:]
    while run.going is not None:
        batch = run.going.next_batch(1)
        assert batch is not None
        run.going.result(
            batch.number, Result([""] * len(batch.rows), {"x": np.ones(len(batch.rows))})
        )
    assert [r[3] for r in rows_of(log, "total")] == [6, 7, 8, 9, 10, 11]
