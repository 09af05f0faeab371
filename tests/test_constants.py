"""Inputs that are constants of a run: read before the scan, or part of a device's configuration."""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bluesky import RunEngine

from p06bs import Input, Modality, Output, Publisher, callback, process
from p06bs.callbacks._air import refractivity
from p06bs.callbacks.interferometers import Interferometers
from p06bs.metadata.recorder import MetadataRecorder
from p06bs.model.binding import BindingError
from p06bs.model.documents import NamedDocument
from p06bs.offline import Like
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.pipeline import Pipelines
from p06bs.plans.maps import fly_map
from p06bs.sim.beamline import Beamline
from p06bs.sim.devices import connect
from p06bs.sim.metrology import Air, Metrology
from tests.documents import raw_run, rows_of, validate
from tests.engines import end
from tests.online import Listener, assert_equal, proxy, running
from tests.techniques import Scale

ROOM = {"room_temperature": (296.5, "K"), "room_pressure": (98.0, "kPa"), "note": ("dry", None)}
ROLES = {"room_temperature": "air_temperature", "room_pressure": "air_pressure"}


class Weather(Modality):
    """Tell the air that each event was taken in."""

    x = Input(role="counter")
    pressure = Input(role="air_pressure", unit="hPa", optional=True, constant=True)
    temperature = Input(role="air_temperature", optional=True, constant=True)
    humidity = Input(role="air_humidity", unit="%", optional=True)

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {name: Output() for name in ("x", "pressure", "temperature", "humidity")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        absent = np.full(len(columns["x"]), -1.0)
        return {n: absent if c is None else np.asarray(c, float) for n, c in columns.items()}


def described(value: Any, unit: str | None = None) -> dict[str, Any]:
    shape = [len(value)] if isinstance(value, list | np.ndarray) else []
    dtype = "string" if isinstance(value, str) else "array" if shape else "number"
    units = {"units": unit} if unit else {}
    return {"source": "test", "dtype": dtype, "shape": shape, **units}


def configuration(**values: Any) -> dict[str, Any]:
    return {
        "data": {key: value for key, (value, _) in values.items()},
        "timestamps": dict.fromkeys(values, 0.0),
        "data_keys": {key: described(*pair) for key, pair in values.items()},
    }


def scan(
    room: dict[str, Any] | None = None,
    *,
    columns: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    page: int = 0,
    **options: Any,
) -> list[NamedDocument]:
    """Return a run with a baseline, whose second reading is another one."""
    room = ROOM if room is None else room
    options.setdefault("devices", {"room": {"roles": ROLES}})
    made = raw_run({"x": np.arange(9.0), **(columns or {})}, page=page, **options)
    start, (_, scanned) = made[0], made[1]
    if device is not None:
        scanned = {
            **scanned,
            "object_keys": {"det": list(scanned["data_keys"])},
            "configuration": {"det": configuration(**device)},
        }
        made[1] = ("descriptor", scanned)
    descriptor = {
        "uid": str(uuid.uuid4()),
        "run_start": start[1]["uid"],
        "time": 999.0,
        "name": "baseline",
        "data_keys": {key: described(*pair) for key, pair in room.items()},
        "object_keys": {"room": list(room)},
        "configuration": {"room": configuration()},
        "hints": {},
    }

    def reading(number: int) -> NamedDocument:
        data = {key: value for key, (value, _) in room.items()}
        if number == 2:
            data = {k: v + 1 if isinstance(v, int | float) else v for k, v in data.items()}
        event = {
            "descriptor": descriptor["uid"],
            "uid": str(uuid.uuid4()),
            "seq_num": number,
            "time": 999.0,
            "data": data,
            "timestamps": dict.fromkeys(room, 0.0),
        }
        if page:
            many = {k: [event[k]] for k in ("uid", "seq_num", "time")}
            for k in ("data", "timestamps"):
                many[k] = {key: [value] for key, value in event[k].items()}  # type: ignore[attr-defined]
            return "event_page", {**event, **many}
        return "event", event

    return [
        start,
        ("descriptor", descriptor),
        reading(1),
        *made[1:-1],
        reading(2),
        made[-1],
    ]


def weather(**inputs: str) -> Weather:
    return Weather(inputs={"x": "x", **inputs})


def told(modality: Modality, raw: list[NamedDocument]) -> tuple[dict[str, Any], Any]:
    """Return what fed the inputs, and the first row."""
    made = process(modality, raw)
    rows = rows_of(made, "pressure", "temperature", "humidity")
    return made[0][1]["process"]["inputs"], rows[0][3:]


def test_what_no_event_has_is_read_before_the_scan() -> None:
    for page in (0, 4):
        inputs, row = told(weather(), scan(page=page))
        assert inputs == {
            "x": {"stream": "primary", "data_key": "x"},
            "pressure": {
                "stream": "baseline",
                "data_key": "room_pressure",
                "value": 980.0,
                "unit": "hPa",
            },
            "temperature": {
                "stream": "baseline",
                "data_key": "room_temperature",
                "value": 296.5,
                "unit": "K",
            },
        }
        assert row == (980.0, 296.5, -1.0)


def test_what_events_have_is_taken_from_them() -> None:
    columns = {"t": np.full(9, 21.0)}
    devices = {"room": {"roles": ROLES}, "t": "air_temperature"}
    inputs, row = told(weather(), scan(columns=columns, devices=devices))
    assert inputs["temperature"] == {"stream": "primary", "data_key": "t"}
    assert row == (980.0, 21.0, -1.0)


def test_the_configuration_of_a_device_is_what_comes_last() -> None:
    device = {"det-hPa": (950.0, "hPa"), "det-T": (19.0, "degC"), "det-T2": (7.0, "degC")}
    table = {"det-hPa": "air_pressure", "det-T": "air_temperature"}
    device["det-role"] = (json.dumps(table), None)
    inputs, _ = told(weather(), scan(device=device))
    assert inputs["temperature"]["stream"] == "baseline"
    inputs, row = told(weather(), scan(device=device, devices={}))
    assert inputs["temperature"] == {
        "stream": "configuration",
        "data_key": "det-T",
        "value": 19.0,
        "unit": "degC",
    }
    assert row == (950.0, 19.0, -1.0)
    # The role of a device is that of its data, and of no configuration.
    devices = {"det": {"role": "air_temperature"}}
    inputs, _ = told(weather(), scan(device=device, devices=devices))
    assert inputs["temperature"] == {"stream": "primary", "data_key": "x"}


def test_an_explicit_binding_may_name_a_constant_whatever_the_input_says() -> None:
    device = {"det-T": (19.0, "degC")}
    room = {**ROOM, "RH": (40, None)}
    raw = scan(room, device=device)
    inputs, row = told(
        weather(temperature="configuration/det-T", humidity="baseline/RH", pressure=""), raw
    )
    assert inputs["temperature"]["value"] == 19.0
    assert inputs["humidity"] == {
        "stream": "baseline",
        "data_key": "RH",
        "value": 40,
        "unit": "%",
    }
    assert row == (-1.0, 19.0, 40.0)
    with pytest.raises(BindingError, match="bound to 'RH', which is not there"):
        process(weather(humidity="RH"), raw)  # it does not say that it may be a constant
    with pytest.raises(BindingError, match="'baseline/note', which is not there, or was no number"):
        process(weather(temperature="baseline/note"), raw)
    with pytest.raises(BindingError, match="input 'x' is needed, and inputs says that nothing"):
        process(weather(x=""), raw)
    # Where nothing else is asked for, the readings are the events, as they ever were.
    alone = process(Scale(inputs={"x": "baseline/RH"}), raw)
    assert [row[3] for row in rows_of(alone, "y")] == [80.0, 82.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, "warm", None, np.zeros(99), [[1.0], [1.0, 2.0]]])
def test_what_is_no_number_is_no_constant(value: Any) -> None:
    inputs, row = told(weather(), scan({**ROOM, "room_temperature": (value, "K")}))
    assert inputs.keys() == {"x", "pressure"}
    assert row == (980.0, -1.0, -1.0)


def test_readings_that_are_equally_good_feed_nothing() -> None:
    room = {**ROOM, "other": (990.0, "hPa")}
    devices = {"room": {"roles": {**ROLES, "other": "air_pressure"}}}
    inputs, _ = told(weather(), scan(room, devices=devices))
    assert inputs["pressure"]["data_key"] == "other"  # in hPa, as asked for
    room["third"] = (970.0, "hPa")
    devices["room"]["roles"]["third"] = "air_pressure"
    inputs, _ = told(weather(), scan(room, devices=devices))
    assert "pressure" not in inputs


def test_what_is_configured_anew_is_told_of() -> None:
    device = {"det-T": (19.0, "degC"), "det-gain": (1.0, None)}
    raw = scan(device=device)
    named = next(d for n, d in raw if n == "descriptor" and d["name"] == "primary")

    def end(**later: Any) -> Any:
        again = {**named, "uid": "again", "configuration": {"det": configuration(**device | later)}}
        documents = [*raw[:-2], ("descriptor", again), *raw[-2:]]
        return process(weather(temperature="configuration/det-T"), documents)[-1][1]

    same = end(**{"det-gain": (2.0, None)})
    assert same["reconfigured_inputs"] == ["x"]
    assert end(**{"det-T": (20.0, "degC")})["reconfigured_inputs"] == ["temperature", "x"]


def test_a_constant_is_the_same_live_in_a_notebook_and_offline(tmp_path: Path) -> None:
    raw = scan()
    uid = raw[0][1]["uid"]
    seen: list[NamedDocument] = []
    analyse = callback(weather(), lambda *document: seen.append(document))
    for document in raw:
        analyse(*document)
    assert_equal(seen, weather(), raw)
    pipeline = Pipeline(modality=weather(temperature="baseline/room_temperature"))
    log = tmp_path / "log"
    with (
        proxy(tmp_path) as (inbound, outbound),
        Publisher(inbound, log) as publish,
        Listener(outbound, log) as listener,
    ):
        with running(Pipelines(inbound, outbound, log, [pipeline], workers=1)):
            for document in raw[:7]:
                publish(*document)
            listener.wait(uid, "weather", rows=3)
        for document in raw[7:]:
            publish(*document)
        # One that begins anew in the middle goes on with the same.
        with running(Pipelines(inbound, outbound, log, [pipeline], workers=1)):
            online = listener.wait(uid, "weather")
    validate(online)
    assert_equal(online, pipeline.modality, raw)
    assert online[0][1]["uid"] == seen[0][1]["uid"]
    like = Like.of(online)
    again = process(Weather(inputs=like.inputs, **like.settings), raw)
    assert again[0][1]["uid"] == online[0][1]["uid"]


def test_interferometers_take_the_air_that_was_measured_in_the_hutch(tmp_path: Path) -> None:
    air = Air(temperature=27.5, pressure=955.0, humidity=71.0)
    simulated = Beamline(seed=2, metrology=Metrology(air=air))
    engine = RunEngine({})
    devices = connect(simulated, tmp_path)
    MetadataRecorder([devices.hutch, devices.ring]).install(engine)
    documents: list[NamedDocument] = []
    plan = fly_map([], devices.panda, nx=21, ny=4, rate=np.inf, gate_time=0.02)
    try:
        engine(plan, lambda *document: documents.append(document))
    finally:
        end(engine)
    path = devices.panda.flyable_logic.prepared
    metrology = simulated.metrology
    modality = Interferometers(
        axes={"x": {"resolution": 1e3 * metrology.count}}, wavelength=metrology.wavelength
    )
    made = process(modality, documents)
    inputs = made[0][1]["process"]["inputs"]
    assert {name: bound.get("value") for name, bound in inputs.items()} == {
        "x": None,
        "x_valid": None,
        "air_temperature": 27.5,
        "air_pressure": 955.0,
        "air_humidity": 71.0,
    }
    rows = rows_of(made, "x", "refractive_index", "valid")
    index = 1 + float(refractivity(metrology.wavelength, 27.5, 955.0, 71.0))
    assert {row[4] for row in rows} == {index}
    assert all(row[5] for row in rows)
    errors = np.array([row[3] for row in rows]) - 1e3 * path.sample()["x"]
    assert np.nanstd(errors) == pytest.approx(0.5, rel=0.25)  # nm, as put in
