"""What Tango is told of a service, decided without Tango: states, names, types, values."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from p06bs.adapters import tango_attributes
from p06bs.adapters.tango_attributes import MOST_METRICS, legible
from p06bs.adapters.tango_condition import Condition, Phase, Process, Sight
from p06bs.bus.metrics import Measure, Metrics
from p06bs.bus.topology import Service
from p06bs.callbacks.xrf import Fluorescence

WELL = {"healthy": True, "ready": True, "failed": []}


def service(pid: int = 7, instance: str = "1", runs: tuple[str, ...] = ()) -> Service:
    return Service("xrf", "pipelines", instance, "p06a", pid, {}, "0.1", ("xrf",), runs)


def seen(
    who: Service | None, phase: Phase | None = None, pid: int = 7, health: Any = WELL
) -> Sight:
    return Sight(True, who, None if phase is None else Process(phase, pid, "words"), health)


@pytest.mark.parametrize(
    ("sight", "state", "reason"),
    [
        (Sight(False, None), "UNKNOWN", "no Topology Manager"),
        (seen(None), "FAULT", "not registered"),
        (seen(service()), "ON", "process 7 on p06a"),
        (seen(service(), health=None), "FAULT", "does not answer"),
        (seen(service(), health={**WELL, "failed": ["log"]}), "FAULT", "log"),
        (seen(service(runs=("a" * 30,))), "RUNNING", "1 runs: aaaaaaaa"),
        (seen(service(), Phase.STARTING), "ON", "process 7"),
        (seen(service(), Phase.STOPPING), "MOVING", "is ending"),
        (seen(None, Phase.STOPPED), "OFF", "stopped"),
        (seen(None, Phase.STARTING), "INIT", "starting"),
        (seen(None, Phase.FAILED), "FAULT", "words"),
        (seen(service(pid=6), Phase.STARTING), "INIT", "starting"),  # its lease has not ended yet
    ],
)
def test_states_of_a_service_that_nothing_was_known_of(sight, state, reason):
    said = Condition().judge(sight)
    assert said[0] == state
    assert reason in said[1]


def test_what_is_lost_is_a_fault_until_it_is_back():
    condition = Condition()
    condition.judge(seen(service(), Phase.STARTING))
    for sight in (
        seen(service(), Phase.STARTING, pid=8),  # started again; its lease is the old one
        seen(None, Phase.STARTING, pid=8),
        seen(None, Phase.FAILED, pid=0),
    ):
        assert condition.judge(sight)[0] == "FAULT"
    assert condition.judge(seen(service(8, "2"), Phase.STARTING, pid=8))[0] == "ON"


def test_what_was_told_to_end_is_no_fault():
    condition = Condition()
    condition.judge(seen(service()))
    condition.told_to_end(service())
    assert condition.judge(seen(service()))[0] == "MOVING"
    assert condition.judge(seen(None))[0] == "OFF"
    assert condition.judge(seen(service(9, "2")))[0] == "ON"
    assert condition.judge(seen(None))[0] == "FAULT"


def test_a_restart_is_no_fault():
    condition = Condition()
    condition.judge(seen(service(), Phase.STARTING))
    condition.told_to_end(service())
    states = [
        condition.judge(sight)[0]
        for sight in (
            seen(service(), Phase.STOPPING),
            seen(None, Phase.STOPPED, pid=0),
            seen(None, Phase.STARTING, pid=8),
            seen(service(8, "2"), Phase.STARTING, pid=8),
        )
    ]
    assert states == ["MOVING", "OFF", "INIT", "ON"]


def record(schema: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    return {"a": {"schema": schema, "values": values}}


def test_settings_of_a_modality_have_types_and_come_back_as_they_were():
    settings = Fluorescence.Settings(elements=("Fe", "Cu-K"), incident_energy=17.5)
    values = settings.model_dump(mode="json")
    found = tango_attributes.settings(record(settings.model_json_schema(), values))
    kinds = {spec.setting: (spec.kind, spec.many) for spec in found}
    assert kinds["elements"] == ("string", True)
    assert kinds["incident_energy"] == ("number", False)
    assert kinds["escape"] == ("boolean", False)
    assert kinds["weight"] == ("integer", False)
    assert kinds["calibration"] == ("json", False)
    assert {spec.setting: spec.meant(value) for spec, value in found.items()} == values
    assert set(values) == set(kinds)


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.one_of(
            st.floats(allow_nan=False), st.integers(-(2**62), 2**62), st.booleans(), st.text()
        ),
        max_size=6,
    )
)
def test_names_are_valid_and_each_its_own(values):
    kinds = {float: "number", int: "integer", bool: "boolean", str: "string"}
    schema = {"properties": {name: {"type": kinds[type(v)]} for name, v in values.items()}}
    found = tango_attributes.settings(record(schema, values))
    names = [spec.name for spec in found]
    assert len({name.lower() for name in names}) == len(values)
    assert all(name.isidentifier() and name.isascii() for name in names)
    for spec, shown in found.items():
        if spec.kind != "string":
            assert spec.meant(shown) == values[spec.setting]
        else:
            shown.encode("latin-1")


@pytest.mark.parametrize(
    ("about", "value", "shown"),
    [
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, None, math.nan),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None, "null"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "snip", '"snip"'),
        ({"type": "object"}, {"Fe": [1, 2]}, '{"Fe": [1, 2]}'),
        ({"type": "array", "items": {"type": "integer"}}, [1, 2], [1, 2]),
        ({"type": "array", "items": {"type": "array"}}, [[1]], "[[1]]"),
        ({"$ref": "#/$defs/E"}, "one", "one"),
        ({}, 3, "3"),
    ],
)
def test_values_of_all_shapes(about, value, shown):
    defined = {"E": {"enum": ["one", "two"], "type": "string"}}
    ((spec, found),) = tango_attributes.settings(
        record({"properties": {"x": about}, "$defs": defined}, {"x": value})
    ).items()
    np.testing.assert_equal(found, shown)
    written = np.asarray(found) if spec.many else found
    assert spec.meant(written) == value


def test_text_that_is_no_json_is_meant_as_text():
    about = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    (spec,) = tango_attributes.settings(record({"properties": {"x": about}}, {"x": None}))
    assert spec.meant("snip") == "snip"


def test_descriptions_say_what_is_allowed():
    schema = {"properties": {"x": {"type": "number", "minimum": 1, "description": "Å → keV"}}}
    (spec,) = tango_attributes.settings(record(schema, {"x": 1}))
    assert spec.description == "Å \\u2192 keV; number >= 1"


def test_metrics_of_a_service_are_numbers_under_valid_names():
    registry = CollectorRegistry()
    measures = (
        Measure("sink_bytes", "Bytes", lambda: 3.0),
        Measure("refused", "Peers", lambda: {"bad key/é": 2.0, "bad key,é": 4.0}, "counter", "why"),
        Measure("many", "Many", lambda: {str(n): 0.0 for n in range(MOST_METRICS)}, label="n"),
    )
    text = Metrics(measures, registry).exposition()
    found = {spec.name: value for spec, value in tango_attributes.metrics(text).items()}
    assert found["p06bs_sink_bytes"] == 3.0
    assert found["p06bs_refused_total_bad_key__"] == 2.0
    assert found["p06bs_refused_total_bad_key___2"] == 4.0
    assert len(found) == MOST_METRICS


def test_text_is_in_tangos_alphabet():
    assert legible("µm, Å, ü") == "µm, Å, ü"
    assert legible("α") == "\\u03b1"
