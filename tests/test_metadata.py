"""What goes into the documents of every run beside the scan: real RunEngines, devices, files."""

import asyncio
import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import bluesky.plan_stubs as bps
import bluesky.plans as bp
import bluesky.preprocessors as bpp
import numpy as np
import pytest
from bluesky import RunEngine
from bluesky.run_engine import call_in_bluesky_event_loop
from bluesky.utils import RunEngineInterrupted
from hypothesis import given, settings
from hypothesis import strategies as st
from ophyd import Component, Device, Signal
from ophyd.sim import SynAxis
from ophyd_async.core import Device as AsyncDevice
from ophyd_async.core import StandardReadable, soft_signal_rw
from pydantic import ValidationError

from p06bs import Publisher
from p06bs.metadata import INDEXED
from p06bs.metadata.beamtime import Beamtime, BeamtimeError
from p06bs.metadata.patience import Patience
from p06bs.metadata.quantity import UNITS, Energy, Flux, Length
from p06bs.metadata.recorder import MetadataRecorder
from p06bs.metadata.records import MODELS, Beam, Sample, checked
from p06bs.metadata.size import LARGEST, fitted, size
from p06bs.plans.maps import fly_map
from p06bs.sim.beamline import Beamline
from p06bs.sim.devices import connect
from p06bs.sim.phantom import Phantom
from tests import documents
from tests.device_inventory import AT_REST, OF_A_SCAN, inventory, signals
from tests.engines import end

# As DESY writes it; names are made up, the shape is that of scingestor's own tests.
PERSON = {"email": "a@b.de", "institute": "DESY", "lastname": "Muster", "userId": "990123"}
BEAMTIME = {
    "applicant": PERSON | {"username": "amuster"},
    "beamline": "p06",
    "beamlineAlias": "P06",
    "beamlineSetup": "Microprobe",
    "beamtimeId": "11012345",
    "contact": "Local Contact",
    "corePath": "/asap3/petra3/gpfs/p06/2026/data/11012345",
    "eventEnd": "2026-12-01 09:00:00",
    "eventStart": "2026-11-26 09:00:00",
    "facility": "PETRA III",
    "generated": "2026-11-26 08:54:29",
    "leader": PERSON | {"username": "lmuster"},
    "onlineAnalysis": {
        "asapoBeamtimeTokenPath": "/shared/asapo_token",
        "reservedNodes": ["max-p3a001"],
        "slurmPartition": "petra4",
        "slurmReservation": "p06_11012345",
        "sshPrivateKeyPath": "shared/rsa-key.pem",
        "sshPublicKeyPath": "shared/rsa-key.pub",
        "userAccount": "bttest06",
    },
    "pi": PERSON | {"username": "pmuster"},
    "proposalId": "20260042",
    "proposalType": "I",
    "title": "Leaves",
    "unixId": "None",
    "users": {"doorDb": ["amuster", "bmuster"], "special": [], "unknown": []},
}


class Recorded(documents.Recorded):
    @property
    def start(self):
        return self.named("start")[-1]

    @property
    def baseline(self):
        (descriptor,) = [d for d in self.named("descriptor") if d["name"] == "baseline"]
        events = [d["data"] for d in self.named("event") if d["descriptor"] == descriptor["uid"]]
        return descriptor, events

    def held(self, what, event=-1):
        return json.loads(self.baseline[1][event][f"metadata-{what}"])


@pytest.fixture
def engine() -> Iterator[RunEngine]:
    made = RunEngine({})
    yield made
    end(made)


@pytest.fixture
def recorded(engine) -> Recorded:
    made = Recorded()
    engine.subscribe(made)
    return made


@pytest.fixture
def beamtime_file(tmp_path) -> Path:
    file = tmp_path / "beamtime-metadata-11012345.json"
    file.write_text(json.dumps(BEAMTIME))
    return file


def record(engine, *devices, **options) -> MetadataRecorder:
    made = MetadataRecorder(devices, **options)
    made.install(engine)
    return made


def interrupted(plan, engine, number, how):
    """Return a plan with an interruption before its message of a number."""
    engine.calls = 0

    def insert(msg):
        engine.calls += 1
        # Bluesky fails where it is suspended by the last message of all.
        if engine.calls != number or (how == "suspend" and msg.command == "unstage"):
            return None, None
        if how == "pause":
            return bpp.pchain(bps.pause(), bpp.single_gen(msg)), None
        engine.request_suspend(lambda: asyncio.sleep(0.001))
        return None, None

    return bpp.plan_mutator(plan, insert)


# Every value is there


def test_every_value_of_every_device_is_in_the_documents(engine, recorded, tmp_path):
    made = connect(Beamline(Phantom.default((9, 9)), seed=3), tmp_path)
    devices = {f.name: getattr(made, f.name) for f in dataclasses.fields(made)}
    record(engine, *devices.values())

    def plan():
        yield from bp.count([made.scaler])
        yield from fly_map([made.xspress3, made.eiger], made.panda, nx=3, ny=2, rate=np.inf)

    engine(plan())
    found = set()
    for descriptor in recorded.named("descriptor"):
        found |= set(descriptor["data_keys"])
        for configuration in descriptor["configuration"].values():
            found |= set(configuration["data"])
    assert inventory(AT_REST, OF_A_SCAN) <= found
    # The table has all devices, and all their signals.
    assert devices.keys() == AT_REST.keys()
    for name, device in devices.items():
        assert set(signals(device)) <= inventory({name: AT_REST[name]})
    runs = [d["uid"] for d in recorded.named("start")]
    for uid in runs:  # and what is there without a scan is in each run
        (baseline,) = [
            d
            for d in recorded.named("descriptor")
            if d["name"] == "baseline" and d["run_start"] == uid
        ]
        held = set(baseline["data_keys"])
        for configuration in baseline["configuration"].values():
            held |= set(configuration["data"])
        assert inventory(AT_REST) <= held
        assert baseline["data_keys"]["ring-current"]["units"] == "mA"


def test_what_is_known_is_in_the_start_document(engine, recorded, beamtime_file, tmp_path):
    made = connect(Beamline(seed=1), tmp_path)
    in_force = {"xrf": {"values": {"noise": 0.08}, "digest": "abc", "revision": 3}}
    record(
        engine,
        *(made.ring, made.energy),
        sources={
            "ring.current": "ring-current",
            "ring.energy": "ring-energy",
            "beam.energy": "energy",
        },
        beamtime=beamtime_file.parent,
        settings=lambda: in_force,
    )
    engine.md |= {"endstation": "microprobe", "beam": {"flux": "1e11 ph/s"}}
    sample = {"name": "leaf", "uid": "s-1", "elements": "Fe, Zn", "mount": "pin", "colour": "green"}
    engine(bp.count([made.scaler]), sample=sample, technique="XRF", scan={"kind": "time_series"})
    start, stop = recorded.start, recorded.named("stop")[-1]
    assert {field.column: field.of({"start": start, "stop": stop}) for field in INDEXED} == {
        **{"uid": start["uid"], "time": start["time"], "scan_id": 1},
        **{"beamtime_id": "11012345", "proposal_id": "20260042"},
        **{"sample_name": "leaf", "sample_uid": "s-1", "sample_elements": ["Fe", "Zn"]},
        **{"scan_kind": "time_series", "technique": "XRF", "endstation": "microprobe"},
        **{"plan_name": "count", "original_run_uid": None, "exit_status": "success"},
        **{"process_name": None, "process_settings_digest": None},
    }
    assert start["beamtime_folder"] == BEAMTIME["corePath"]
    assert start["people"]["pi"]["lastname"] == "Muster"
    assert start["proposal"] == {"id": "20260042", "type": "I"}
    assert start["beam"] == {
        "energy": {"value": 17.5, "units": "keV"},
        "flux": {"value": 1e11, "units": "1/s"},
    }
    assert start["ring"]["current"] == {"value": 100.0, "units": "mA"}
    assert start["sample"]["mount"] == {"name": "pin"}
    assert start["sample"]["colour"] == "green"
    assert start["versions"]["bluesky"]
    assert start["analysis_settings"]["pipelines"] == {"xrf": "abc"}
    assert recorded.held("analysis_settings") == in_force
    assert "metadata_warnings" not in start
    assert size(start) < LARGEST


def test_settings_that_change_during_a_scan_are_there_as_they_were_and_are(engine, recorded):
    in_force = {"xrf": {"values": {"noise": 0.08}, "digest": "a"}}
    record(engine, settings=lambda: dict(in_force))

    def plan():
        yield from bps.open_run()
        in_force["xrf"] = {"values": {"noise": 0.09}, "digest": "b"}
        yield from bps.close_run()

    engine(plan())
    noise = [recorded.held("analysis_settings", i)["xrf"]["values"]["noise"] for i in (0, 1)]
    assert noise == [0.08, 0.09]


# Secrets


def test_no_document_has_a_secret_of_the_beamtime(engine, recorded, beamtime_file):
    hidden = {**BEAMTIME, "sshKey": "hidden", "people": [{"api-key": "hidden", "name": "x"}]}
    beamtime_file.write_text(json.dumps(hidden))
    record(engine, beamtime=beamtime_file)
    engine(bp.count([]))
    text = json.dumps(recorded.documents, default=str)
    for secret in [*BEAMTIME["onlineAnalysis"], "hidden", "rsa-key", "asapo_token", "max-p3a001"]:
        assert secret not in text
    assert "onlineAnalysis" not in text
    assert recorded.start["beamtime"]["title"] == "Leaves"


def test_no_document_has_a_secret_that_somebody_has_typed(engine, recorded):
    record(engine)
    engine(bp.count([]), api_key="hidden", sample={"name": "x", "login": [{"password": "hidden"}]})
    assert "hidden" not in json.dumps(recorded.documents, default=str)
    assert recorded.start["sample"] == {"name": "x", "login": [{}]}
    (warning,) = recorded.start["metadata_warnings"]
    assert warning == "left out, for it sounds like a secret: api_key, password"


def test_secrets_are_found_in_any_spelling_and_nothing_else_is_lost(beamtime_file):
    secrets = {
        *(
            "ONLINE-ANALYSIS",
            "Online Analysis",
            "OnLineAnalysis",
            "SSHKey",
            "userSshKey",
            "keyPath",
        ),
        *("asapoBeamtimeTokenPath", "API key", "rsa-key", "privatekey"),
        *("pass_word", "userPasswd"),
    }
    others = {
        "glassHolder",
        "pressHumidity",
        "compassWest",
        "keywords",
        "onlineLog",
        "publicAccess",
    }
    said = {name: {"text": "x"} for name in secrets | others}
    beamtime_file.write_text(json.dumps({"beamtimeId": 1, **said, "deep": [said]}))
    beamtime = Beamtime.read(beamtime_file).start()["beamtime"]
    assert beamtime.keys() - {"deep"} == others
    assert beamtime["deep"][0].keys() == others


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "beamtime_id: Field required"),
        ('{"beamtimeId": [1]}', "beamtimeId: Input should be a valid string"),
    ],
)
def test_files_that_cannot_be_used_are_refused(beamtime_file, content, message):
    beamtime_file.write_text(content)
    with pytest.raises(BeamtimeError, match=message):
        Beamtime.read(beamtime_file)


def test_a_folder_must_have_one_file(tmp_path, beamtime_file):
    assert Beamtime.read(tmp_path).beamtime_id == "11012345"
    (tmp_path / "beamtime-metadata-2.json").write_text("{}")
    with pytest.raises(BeamtimeError, match=r"found beamtime-metadata-11012345.json, beamtime"):
        Beamtime.read(tmp_path)
    with pytest.raises(BeamtimeError, match="cannot be read: No such file"):
        Beamtime.read(tmp_path / "nothing")


def test_ids_that_are_numbers_and_unknown_fields_are_kept(beamtime_file):
    beamtime_file.write_text(json.dumps({"beamtimeId": 11012345, "colour": "red"}))
    assert Beamtime.read(beamtime_file).start() == {
        "beamtime_id": "11012345",
        "beamtime": {"colour": "red"},
    }


def test_what_has_another_form_costs_nothing_else(beamtime_file):
    other = {
        "pi": "Dr. Muster",
        "contact": PERSON,
        "users": ["a"],
        "title": None,
        "proposalId": [1],
    }
    beamtime_file.write_text(json.dumps({**BEAMTIME, **other, "proposalId": [1]}))
    start = Beamtime.read(beamtime_file).start()
    assert start["beamtime_id"] == "11012345"
    assert start["beamtime_folder"] == BEAMTIME["corePath"]
    assert start["people"]["pi"] == "Dr. Muster"
    assert start["people"]["contact"]["lastname"] == "Muster"
    assert start["people"]["users"] == ["a"]
    assert start["people"]["leader"]["user_id"] == "990123"
    assert "title" not in start["beamtime"]


# What is missing, slow or wrong degrades the record, and never the scan


class Broken(SynAxis):
    """A motor whose controller is off."""

    def read(self):
        raise ConnectionError("controller is off")


class Hanging(SynAxis):
    """A motor whose controller never answers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.answer = threading.Event()
        self.asked = 0

    def read(self):
        self.asked += 1
        self.answer.wait()
        return super().read()


class Slow(StandardReadable):
    """A device whose read never returns."""

    def __init__(self, name: str = "") -> None:
        with self.add_children_as_readables():
            self.value = soft_signal_rw(float, 1.0)
        super().__init__(name=name)

    async def read(self):
        await asyncio.Event().wait()


class Patient(Patience):
    """Waits long for all answers, however busy the machine is, but for `read`s that have none."""

    def __init__(self, seconds):
        super().__init__(60.0)
        self.short = Patience(seconds)
        self.short._hanging, self.short._turns = self._hanging, self._turns

    async def call(self, name, function):
        hangs = isinstance(getattr(function, "__self__", None), Hanging | Slow)
        if hangs and function.__name__ == "read":
            return await self.short.call(name, function)
        return await super().call(name, function)


def test_devices_that_fail_or_hang_are_warned_of(engine, recorded, caplog):
    broken, hanging = Broken(name="broken"), Hanging(name="hanging")
    slow, fine = Slow(name="slow"), SynAxis(name="fine")
    devices = (broken, hanging, slow, fine, object())  # the last is no device
    sources = {"beam": "fine", "beam.energy": "nothing", "beam.x": "fine", "ring": "fine"}
    recorder = record(engine, *devices, beamtime=Path("/nowhere"), sources=sources)
    recorder._patience = Patient(0.2)
    try:
        engine(bp.count([], num=2))
        assert recorded.named("stop")[0]["exit_status"] == "success"
        assert len(recorded.start["metadata_warnings"]) == 7
        warnings = recorded.held("warnings", 0)
        assert "broken: read: ConnectionError: controller is off" in warnings
        assert "hanging: read: TimeoutError: no answer in 0.2 s" in warnings
        assert "slow: read: TimeoutError: no answer in 0.2 s" in warnings
        assert "beam.energy is not known: no device tells nothing" in warnings
        assert "the beamtime's file: /nowhere cannot be read: No such file or directory" in warnings
        descriptor, events = recorded.baseline
        assert "fine" in events[0]
        assert descriptor["configuration"]["broken"]["data"]["broken_velocity"] == 1
        assert hanging.asked == 1  # it is not asked again before it has answered
        assert "controller is off" in caplog.text
    finally:
        hanging.answer.set()


def test_a_device_that_has_failed_is_asked_again_at_once(engine):
    patience = Patience(60)

    def fail():
        raise OSError("no")

    async def again():
        asked = (patience.call("one", fail) for _ in range(500))
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = call_in_bluesky_event_loop(again())
    assert {type(answer) for answer in answers} == {OSError}


def test_a_device_that_is_lost_during_a_scan_keeps_its_first_values(engine, recorded):
    axis = SynAxis(name="axis", value=3.0)
    record(engine, axis)

    def plan():
        yield from bps.open_run()
        axis.read = Broken(name="axis").read
        yield from bps.close_run()

    engine(plan())
    _, events = recorded.baseline
    assert [event["axis"] for event in events] == [3.0, 3.0]
    assert "metadata_warnings" not in recorded.start
    first, second = recorded.held("warnings")
    assert first == "axis, at the end: read: ConnectionError: controller is off"
    assert second == "axis, at the end: as at the beginning: axis, axis_setpoint"


def test_what_a_person_says_wrongly_is_kept_and_warned_of(engine, recorded):
    record(engine)
    engine(bp.count([]), sample={"name": "x", "elements": ["Xx"]}, beam={"energy": "3 furlong"})
    start = recorded.start
    assert start["sample"] == {"name": "x", "elements": ["Xx"]}
    first, second = start["metadata_warnings"]
    assert first == "sample is kept as it was given: it: elements: Xx is no chemical symbol"
    assert second.startswith("beam is kept as it was given: energy: unit 'furlong' is not known")


def test_a_start_document_is_strict_json_and_ids_are_text(engine, recorded):
    record(engine)
    more = {"worst": float("nan"), "deep": {"hot": [np.inf]}, "deepest": {}}
    for _ in range(300):
        more["deepest"] = {"a": more["deepest"]}
    engine(bp.count([]), beamtime_id=11001, proposal_id=7, **more)
    start = json.loads(json.dumps(recorded.start, allow_nan=False))
    assert (start["beamtime_id"], start["proposal_id"]) == ("11001", "7")
    assert (start["worst"], start["deep"]) == ("nan", {"hot": ["inf"]})


class Careless(SynAxis):
    """A device that forgets to describe a value."""

    def read(self):
        return {**super().read(), "forgotten": {"value": float("nan"), "timestamp": 0.0}}


def test_a_value_that_nobody_describes_is_there_with_a_warning(engine, recorded):
    record(engine, Careless(name="careless"))
    engine(bp.count([]))
    assert np.isnan(recorded.baseline[1][0]["forgotten"])
    (warning,) = recorded.start["metadata_warnings"]
    assert warning == "careless: describe does not say what forgotten is"


class Stage(Device):
    """A device with values of every kind."""

    x = Component(Signal, value=1.5, kind="hinted")
    nothing = Component(Signal, value=None)
    table = Component(Signal, value={"a.b": [1]})
    mixed = Component(Signal, value=[1, "a"])
    number = Component(Signal, value=2**70)
    wave = Component(Signal, value=1j)
    text = Component(Signal, value=b"abc")


def values_of(descriptor, event):
    """Return all values by data key, of readings and configuration."""
    devices = [device["data"] for device in descriptor["configuration"].values()]
    return {key: value for values in [*devices, event] for key, value in values.items()}


class Box(AsyncDevice):
    """A device that cannot be read as a whole."""

    def __init__(self, name: str = "") -> None:
        self.inner = Slow()
        self.limit = soft_signal_rw(int, 3)
        super().__init__(name=name)


def test_a_device_of_signals_alone_is_there(engine, recorded):
    record(engine, Box(name="box"))
    engine(bp.count([]))
    assert recorded.baseline[0]["configuration"]["box"]["data"] == {
        "box-inner-value": 1.0,
        "box-limit": 3,
    }
    assert "metadata_warnings" not in recorded.start


def test_values_and_names_that_no_document_takes_are_there_in_another_form(
    engine, recorded, tmp_path
):
    publisher = Publisher(None, tmp_path, run_engine=engine)
    engine.subscribe(publisher)
    record(engine, Stage(name="stage"), SynAxis(name="p06/motor/exp.01"), SynAxis(name=""))
    try:
        engine(bp.count([]))
    finally:
        publisher.close()
    descriptor, events = recorded.baseline
    found = values_of(descriptor, events[0])
    assert {key.removeprefix("stage_"): found[key] for key in found if key[:6] == "stage_"} == {
        **{"x": 1.5, "nothing": "null", "table": '{"a_b": [1]}', "mixed": '[1, "a"]'},
        **{"number": str(2**70), "wave": "1j", "text": "abc"},
    }
    assert found["p06_motor_exp_01"] == found["_"] == 0


def test_devices_that_share_a_name_or_a_value_are_all_there(engine, recorded):
    stage, one, two = Stage(name="stage"), SynAxis(name="a", value=1), SynAxis(name="a", value=2)
    record(engine, stage, stage.x, one, one, two, SynAxis(name="metadata"))
    engine(bp.count([]))
    descriptor, events = recorded.baseline
    assert len(events) == 2
    assert events[0]["stage_x"] == 1.5
    assert events[0]["a"] == 1
    assert descriptor["configuration"]["a_2"]["data"]["a"] == 2
    assert descriptor["object_keys"]["metadata_2"] == ["metadata", "metadata_setpoint"]
    warnings = recorded.held("warnings")
    assert "a_2: another one has its name, a" in warnings
    assert "metadata_2: another one has its name, metadata" in warnings


def test_what_a_person_says_is_fit_for_documents(engine, recorded, beamtime_file, tmp_path):
    beamtime_file.write_text(json.dumps({"beamtimeId": "1", "desy.de/id": 7}))
    publisher = Publisher(None, tmp_path, run_engine=engine)
    engine.subscribe(publisher)
    record(engine, beamtime=beamtime_file)
    said = {
        "a.b/c": 1,
        1: 2,
        "": 3,
        "f": print,
        "t": "\ud800",
        "n": 2**70,
        "array": np.arange(2),
        "set": {1},
    }
    said["said"] = said
    try:
        engine(bp.count([]), sample={"name": "x", "map": np.eye(1)}, note=dict(said), **{"x.y": 1})
    finally:
        publisher.close()
    start = recorded.start
    assert start["x_y"] == 1
    assert start["beamtime"] == {"desy_de_id": 7}
    assert start["sample"] == {"name": "x", "map": [[1.0]]}
    expected = {"a_b_c": 1, "1": 2, "_": 3, "t": "?", "n": str(2**70), "array": [0, 1], "set": [1]}
    assert expected.items() <= {**start["note"], "said": 0}.items()
    assert "print" in start["note"]["f"]


def test_pauses_and_aborts_while_metadata_are_gathered(engine, recorded):
    hanging = Hanging(name="hanging")
    record(engine, hanging, seconds=60)
    threading.Timer(0.3, engine.request_pause).start()
    with pytest.raises(RunEngineInterrupted):
        engine(bp.count([]))
    hanging.answer.set()
    engine.resume()
    assert recorded.named("stop")[0]["exit_status"] == "success"
    assert len(recorded.baseline[1]) == 2


@pytest.mark.parametrize("how", ["pause", "suspend"])
def test_a_run_that_is_interrupted_at_any_message_goes_on(engine, recorded, how):
    record(engine, SynAxis(name="axis"))
    motor = SynAxis(name="motor")
    at = [0]
    engine.preprocessors.append(lambda plan: interrupted(plan, engine, at[0], how))
    finished = False
    while not finished:
        at[0] += 1
        recorded.documents.clear()
        try:
            engine(bp.scan([], motor, 1, 2, 2))
            finished = how == "pause" or engine.calls < at[0]
        except RunEngineInterrupted:
            engine.resume()
        (stop,) = recorded.named("stop")
        assert stop["exit_status"] == "success", at
        assert stop["num_events"] == {"baseline": 2, "primary": 2}, at
        of = {d["uid"]: d["name"] for d in recorded.named("descriptor")}
        seen = {(of[e["descriptor"]], e["seq_num"]): e["data"] for e in recorded.named("event")}
        assert seen["baseline", 1]["axis"] == 0
        assert json.loads(seen["baseline", 2]["metadata-warnings"]) == []
    assert at[0] > 25


@pytest.mark.logs_errors
def test_an_aborted_run_has_its_last_baseline(engine, recorded):
    record(engine, SynAxis(name="axis"))

    def step(detectors, motor, step):
        yield from bps.checkpoint()
        yield from bps.pause()

    with pytest.raises(RunEngineInterrupted):
        engine(bp.scan([], SynAxis(name="m"), 0, 1, 2, per_step=step))
    engine.abort("enough")
    assert recorded.named("stop")[0]["exit_status"] == "abort"
    assert len(recorded.baseline[1]) == 2


def test_each_of_several_runs_at_once_has_its_own_metadata(engine, recorded):
    axis = SynAxis(name="axis")
    record(engine, axis)

    def plan():
        for key in ("a", "b"):
            opening = bps.open_run(md={"sample": {"name": key}})
            yield from bpp.set_run_key_wrapper(opening, key)
        yield from bps.mv(axis, 1.0)
        for key in ("a", "b"):
            yield from bpp.set_run_key_wrapper(bps.close_run(), key)

    engine(plan())
    assert [start["sample"]["name"] for start in recorded.named("start")] == ["a", "b"]
    assert [stop["num_events"] for stop in recorded.named("stop")] == [{"baseline": 2}] * 2
    values = [event["data"]["axis"] for event in recorded.named("event")]
    assert values == [0, 0, 1, 1]


# Size


def test_a_start_document_is_small_and_nothing_is_lost(engine, recorded):
    record(engine)
    many = [float(x) for x in range(5000)]
    motor = SynAxis(name="m")
    history = {"name": "leaf", "history": "x" * 9000}

    def step(detectors, motor, step):
        yield from bps.null()

    plan = bp.list_scan([], motor, many, per_step=step)
    engine(plan, sample=history, note="y" * 500)
    start = recorded.start
    assert len(json.dumps(start)) <= LARGEST
    assert start["sample"] == {"name": "leaf"}
    assert start["note"] == "y" * 500
    assert start["hints"]["dimensions"] == [[["m"], "primary"]]
    (warning,) = start["metadata_warnings"]
    assert "sample.history" in warning
    assert "plan_args" in warning
    engine(bp.count([], num=1), sample="y" * 20_000, beamtime_folder="/gpfs/current")
    assert {"hints", "detectors", "beamtime_folder", "num_points"} <= recorded.start.keys()
    assert recorded.start["sample"]["name"] == "y" * 999 + "…"
    sample = {"name": "x", **{f"key{number}": "y" * 200 for number in range(300)}}
    engine(bp.count([]), sample=sample)
    (warning,) = recorded.start["metadata_warnings"]
    assert re.search(r"sample.key0, .*, sample.key4 and \d+ more$", warning)


def test_what_does_not_fit_is_in_the_baseline(engine, recorded):
    record(engine)
    engine(bp.count([]), plan_args={"args": [0, list(range(5000))]}, sample={"history": "x" * 9000})
    whole = recorded.held("record")
    assert len(whole["plan_args"]["args"][1]) == 5000
    assert whole["sample"]["history"] == "x" * 9000


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=1000),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=10),
    max_leaves=20,
)
keys = st.text() | st.sampled_from(["sample", "scan", "devices", "hints", "beamtime_id", "a.b"])


fields = st.sampled_from(["value", "units", "energy", "elements", "mount", "focus", "id", "eV"])
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | fields,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*MODELS]), nested))
def test_whatever_a_person_says_it_is_checked_without_a_failure(said):
    document, problems = checked(said)
    assert document.keys() == said.keys()
    assert len(problems) <= len(said)


@settings(max_examples=50)
@given(st.dictionaries(keys, anything, max_size=12), st.integers(400, 20_000))
def test_every_document_can_be_made_small(document, largest):
    kept, lost = fitted(document, largest)
    assert size(kept) <= largest or size(kept) < 200 * 14
    if not lost:
        assert size(kept) == size(document)
    if size(document) < largest - 200:
        assert not lost


def test_what_techniques_read_goes_last():
    roles = {f"det{number}": {"roles": {f"det{number}-counts": "counter"}} for number in range(250)}
    beam = {"energy": {"value": 17.5, "units": "keV"}}
    kept, lost = fitted({"uid": "u", "beam": beam, "devices": roles, "note": "x"})
    assert kept["beam"] == beam
    assert lost == ["note", "devices"]


# Units


@pytest.mark.parametrize(
    ("said", "value"),
    [(17.5, 17.5), ("17.5", 17.5), ("17500 eV", 17.5), ({"value": 1, "units": "GeV"}, 1e6)],
)
def test_energies_in_all_forms(said, value):
    energy = Energy.model_validate(said)
    assert (energy.value, energy.units) == (pytest.approx(value), "keV")


@pytest.mark.parametrize("said", ["1 ly", "1 mA", "nan", "", None, [1], {"units": "keV"}, "x eV"])
def test_what_is_no_energy_is_refused(said):
    with pytest.raises(ValidationError):
        Energy.model_validate(said)


def test_models_use_units_of_the_list_only():
    assert {Energy.own, Flux.own, Length.own} <= set(UNITS)
    beam = Beam.model_validate({"focus": {"horizontal": "250 nm"}, "mode": "pink"})
    assert beam.document() == {
        "focus": {"horizontal": {"value": 0.25, "units": "um"}},
        "mode": "pink",
    }
    with pytest.raises(ValidationError, match="no chemical symbol"):
        Sample(elements=("Fx",))
