"""A real RunEngine: rewinds are as if nothing had happened; the notebook callback."""

from collections.abc import Iterator
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.callbacks import LiveTable
from bluesky.suspenders import SuspendBoolHigh
from bluesky.utils import RunEngineInterrupted
from ophyd import Signal
from ophyd.sim import det, motor

from p06bs import callback, process
from p06bs.model.documents import NamedDocument
from tests.documents import raw_run, rows_of, validate
from tests.engines import end
from tests.techniques import Scale

POINTS = 8
PATIENCE = 20


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    made = RunEngine({}, context_managers=[])
    yield made
    end(made)


@bpp.stage_decorator([det, motor])
@bpp.run_decorator(md={"plan_name": "points"})
def points(after_third: Any = bps.null) -> Iterator[Any]:
    """Scan a motor with one checkpoint at the beginning; do something after the third point."""
    yield from bps.checkpoint()
    for number in range(POINTS):
        yield from bps.mv(motor, number)
        yield from bps.create()
        yield from bps.read(motor)
        yield from bps.read(det)
        yield from bps.save()
        if number == 2:
            yield from after_third()


def newest(documents: list[NamedDocument], *keys: str) -> dict[int, tuple[Any, ...]]:
    """Return the newest row of each raw seq_num."""
    return {row[3]: row[4:] for row in rows_of(documents, "raw_seq_num", *keys)}


def scale(**changed: Any) -> Scale:
    return Scale(inputs={"x": "motor"}, **changed)


def check_rewind(documents: list[NamedDocument]) -> None:
    """Compare the final rows with those of a run that was not interrupted."""
    seqs = [d["seq_num"] for n, d in documents if n == "event"]
    before = len(seqs) - POINTS
    assert before >= 3, "the RunEngine did not go back"
    assert seqs == [*range(1, before + 1), *range(1, POINTS + 1)]
    derived = process(scale(), documents, batch_size=4)
    validate(derived)
    assert [r[3] for r in rows_of(derived, "raw_seq_num")] == seqs
    uninterrupted = raw_run({"motor": np.arange(POINTS)})
    reference = process(scale(), uninterrupted)
    assert newest(derived, "y", "n", "valid") == newest(reference, "y", "n", "valid")
    events = {d["seq_num"]: d["uid"] for n, d in documents if n == "event"}
    assert newest(derived, "raw_uid") == {seq: (uid,) for seq, uid in events.items()}
    assert derived[-1][1]["exit_status"] == "success"


def test_a_run_resumed_behind_its_checkpoint_equals_an_uninterrupted_one(engine):
    documents: list[NamedDocument] = []
    engine.subscribe(lambda n, d: documents.append((n, d)))
    with pytest.raises(RunEngineInterrupted):
        engine(points(bps.pause))
    engine.resume()
    check_rewind(documents)


def test_a_suspended_run_equals_an_uninterrupted_one(engine):
    shutter = Signal(name="shutter", value=0)

    documents: list[NamedDocument] = []

    def beam_back() -> Iterator[Any]:
        shutter.put(0)
        yield from bps.null()

    def take(name: str, document: Any) -> None:
        documents.append((name, document))
        if [n for n, _ in documents].count("event") == 3 and name == "event":
            shutter.put(1)

    engine.install_suspender(SuspendBoolHigh(shutter, pre_plan=beam_back))
    engine.subscribe(take)
    engine(points())
    engine.clear_suspenders()
    check_rewind(documents)


@pytest.mark.logs_errors  # bluesky's own, about the abort
def test_an_aborted_run_ends_its_derived_run_alike(engine):
    documents: list[NamedDocument] = []
    derived: list[NamedDocument] = []
    engine.subscribe(lambda n, d: documents.append((n, d)))
    engine.subscribe(callback(scale(), lambda n, d: derived.append((n, d))))
    with pytest.raises(RunEngineInterrupted):
        engine(points(bps.pause))
    engine.abort("enough")
    validate(derived)
    assert derived[-1][1]["exit_status"] == documents[-1][1]["exit_status"] == "abort"
    assert derived[-1][1]["reason"] == documents[-1][1]["reason"]
    assert [r[3] for r in rows_of(derived, "y")] == [0.0, 2.0, 4.0]


def test_the_callback_feeds_live_callbacks_and_equals_process(engine):
    lines: list[str] = []
    raw: list[NamedDocument] = []
    derived: list[NamedDocument] = []
    seen: list[int] = []  # rows that were derived when an event was over

    def look(name: str, _: Any) -> None:
        if name == "event":
            seen.append(len(rows_of(derived)))

    engine.subscribe(lambda n, d: raw.append((n, d)))
    table = LiveTable(["y"], out=lines.append)
    engine.subscribe(callback(scale(), lambda n, d: derived.append((n, d)), table))
    engine.subscribe(look)
    engine(bp.scan([det], motor, 0, 4, 5))
    assert seen == [1, 2, 3, 4, 5]
    shown = [line for line in lines if line.startswith("|") and ":" in line]
    assert [float(line.split("|")[3]) for line in shown] == [0.0, 2.0, 4.0, 6.0, 8.0]
    assert any("generator scan" in line for line in lines)  # its last line was reached, too
    reference = process(scale(), raw, batch_size=1)
    keys = ("raw_seq_num", "raw_uid", "y", "n", "valid", "invalid_reason")
    assert rows_of(derived, *keys) == rows_of(reference, *keys)
    assert [n for n, _ in derived] == [n for n, _ in reference]


@pytest.mark.logs_errors
def test_an_error_in_a_subscriber_stops_neither_the_plan_nor_the_others(engine, caplog):
    derived: list[NamedDocument] = []

    def broken(name: str, document: Any) -> None:
        raise RuntimeError(f"cannot show {name}")

    engine.subscribe(callback(scale(), broken, lambda n, d: derived.append((n, d))))
    engine(points())
    assert [r[3] for r in rows_of(derived, "y")] == [2.0 * n for n in range(POINTS)]
    assert derived[-1][0] == "stop"
    assert "cannot show event_page" in caplog.text


@pytest.mark.logs_errors
def test_a_modality_that_refuses_the_run_leaves_it_and_takes_the_next(engine, caplog):
    class Picky(Scale):
        def prepare(self, settings: Any, bound: Any) -> Any:
            raise ValueError("no such energy")

    derived: list[NamedDocument] = []
    engine.subscribe(callback(Picky(inputs={"x": "motor"}), lambda n, d: derived.append((n, d))))
    for _ in range(2):
        engine(points())
    assert [n for n, _ in derived] == ["start", "stop"] * 2
    assert derived[1][1]["reason"] == "ValueError: no such energy"
    assert derived[1][1]["exit_status"] == "fail"
    assert caplog.text.count("Traceback") == 2  # once per run


def test_a_run_without_the_input_is_left_with_one_warning(engine, caplog):
    derived: list[NamedDocument] = []
    engine.subscribe(callback(scale(), lambda n, d: derived.append((n, d))))
    engine(bp.count([det], 3))
    engine(bp.scan([det], motor, 0, 1, 2))
    (said,) = [r.getMessage() for r in caplog.records if r.name.startswith("p06bs")]
    assert "input 'x' is bound to 'motor', which is not there. The run has: primary/det" in said
    assert len(rows_of(derived)) == 2
