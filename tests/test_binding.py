"""Binding: which data keys feed which inputs, and what is said when none does."""

import re
from typing import Any

import numpy as np
import pytest
from event_model import compose_run
from hypothesis import given
from hypothesis import strategies as st

from p06bs import Input, Modality, ModalitySettings, Output, process
from p06bs.model.binding import BindingError, bind
from p06bs.model.modality import SettingsError
from p06bs.model.reconfigured import changed
from p06bs.model.units import conversion, unit_scale

UID = iter(range(10**6))


class Spectra(Modality):
    """Spectra with a required time and an optional flux."""

    spectrum = Input(role="fluorescence", dims=("detector_element", "channel"), unit="counts")
    gate = Input(role="gate_time", unit="s")
    flux = Input(role="incident_flux", unit="counts/s", optional=True)

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"gate": Output(unit="s")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"gate": columns["gate"]}


class Frame(Modality):
    """One image."""

    image = Input(role="image", dims=("y", "x"))


def key(shape: tuple[int, ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "source": "test",
        "dtype": "array" if shape else "number",
        "dtype_numpy": "<f8",
        "shape": list(shape),
        **more,
    }


def descriptor(keys: dict[str, Any], name: str = "primary", **more: Any) -> dict[str, Any]:
    return {"uid": f"d{next(UID)}", "run_start": "r", "name": name, "data_keys": keys, **more}


MCA = key((4, 1024), units="counts")
GATE = key(units="s")
ROLES = {"mca": {"role": "fluorescence"}, "gate": {"role": "gate_time"}}


def where(modality: Modality, start: dict[str, Any], *descriptors: dict[str, Any]) -> Any:
    found = bind(modality, {"uid": "r", **start}, descriptors).bound
    return {name: f"{b.stream}/{b.data_key}" for name, b in found.items()}


class Axes(Modality):
    """An input for each axis that the settings name."""

    class Settings(ModalitySettings):
        axes: tuple[str, ...]

    gate = Input(role="gate_time", unit="s", optional=True)

    @classmethod
    def declare(cls, settings: Any) -> dict[str, Input]:
        return {axis: Input(role=f"encoder_{axis}") for axis in settings.axes}

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {f"{axis}_position": Output() for axis in settings.axes}

    def process(self, setup: Any, *, gate: Any = None, **words: Any) -> dict[str, Any]:
        return {f"{axis}_position": 2.0 * word for axis, word in words.items()}


def test_inputs_may_depend_on_the_settings():
    assert Axes.declared.keys() == {"gate"}
    with pytest.raises(SettingsError, match=r"inputs names z.*its inputs are gate, x, y"):
        Axes(axes=("x", "y"), inputs={"z": "stage"})
    found = list(process(Axes(axes=("x", "y"), inputs={"y": "other"}), raw_of_axes()))
    (page,) = [d for n, d in found if n == "event_page"]
    assert list(page["data"]["x_position"]) == [2.0]
    assert list(page["data"]["y_position"]) == [6.0]
    with pytest.raises(BindingError, match="input 'z' looked for role 'encoder_z'"):
        list(process(Axes(axes=("x", "z")), raw_of_axes()))


def raw_of_axes():
    run = compose_run(
        metadata={"devices": {"stage": {"role": "encoder_x"}, "other": {"role": "odd"}}}
    )
    described = run.compose_descriptor(
        name="primary",
        data_keys={"stage": key(), "other": key()},
        object_keys={"stage": ["stage"], "other": ["other"]},
    )
    event = described.compose_event(
        data={"stage": 1.0, "other": 3.0}, timestamps={"stage": 0.0, "other": 0.0}
    )
    yield "start", run.start_doc
    yield "descriptor", described.descriptor_doc
    yield "event", event
    yield "stop", run.compose_stop()


@pytest.mark.parametrize(
    "table",
    [
        {"det": {"role": "", "roles": {"mca": "fluorescence", "gate": "gate_time"}}},
        {"det": {"roles": {"mca": "fluorescence"}}, "gate": {"role": "gate_time"}},
        {"mca": {"role": "fluorescence"}, "gate": "gate_time"},
        {"det": {"role": "other", "roles": {"mca": "fluorescence", "gate": "gate_time"}}},
    ],
)
def test_roles_from_the_device_table(table):
    found = where(
        Spectra(),
        {"devices": table},
        descriptor({"mca": MCA, "gate": GATE}, object_keys={"det": ["mca", "gate"]}),
    )
    assert found == {"spectrum": "primary/mca", "gate": "primary/gate"}


@pytest.mark.parametrize("name", ["role", "det-role", "det_role", "det.role", "mca-role"])
def test_roles_from_the_configuration_however_it_is_spelled(name):
    described = descriptor(
        {"mca": MCA, "other": key(units="s")},
        object_keys={"det": ["mca"], "clock": ["other"]},
        configuration={
            "det": {"data": {name: "fluorescence"}},
            "clock": {"data": {"clock_role": "gate_time"}},
        },
    )
    assert where(Spectra(), {}, described) == {"spectrum": "primary/mca", "gate": "primary/other"}


def test_roles_from_a_json_table_in_one_string():
    table = '{"det-mca": "fluorescence", "det-gate": "gate_time"}'
    described = descriptor(
        {"det-mca": MCA, "det-gate": GATE, "det-temperature": key(units="K")},
        object_keys={"det": ["det-mca", "det-gate", "det-temperature"]},
        configuration={"det": {"data": {"det-role": table}}},
    )
    found = where(Spectra(), {}, described)
    assert found == {"spectrum": "primary/det-mca", "gate": "primary/det-gate"}


@pytest.mark.parametrize("table", ["{not json", '{"mca": 3}', '["mca"]', "{}"])
def test_a_broken_table_is_no_role(table):
    described = descriptor(
        {"mca": MCA, "gate": GATE}, configuration={"mca": {"data": {"role": table}}}
    )
    with pytest.raises(BindingError, match="looked for role 'fluorescence'"):
        where(Spectra(), {}, described)


def test_an_explicit_binding_wins_and_may_name_the_stream():
    keys = {"mca": MCA, "mca2": MCA, "gate": GATE}
    start = {"devices": ROLES, "aligned_streams": ["primary", "fly"]}
    streams = descriptor(keys), descriptor(keys, "fly")
    found = where(Spectra(inputs={"spectrum": "mca2", "gate": "gate"}), start, *streams)
    assert found == {"spectrum": "primary/mca2", "gate": "primary/gate"}
    found = where(Spectra(inputs={"spectrum": "fly/mca", "gate": "fly/gate"}), start, *streams)
    assert found == {"spectrum": "fly/mca", "gate": "fly/gate"}
    with pytest.raises(BindingError, match=r"bound to 'nowhere/mca', which is not there"):
        where(Spectra(inputs={"spectrum": "nowhere/mca"}), start, *streams)
    with pytest.raises(SettingsError, match=r"spectra: inputs names spectrun.*its inputs are"):
        Spectra(inputs={"spectrun": "mca"})


def test_an_explicit_binding_to_what_does_not_fit_is_refused():
    start = {"devices": ROLES}
    keys = {"mca": MCA, "gate": GATE, "movie": key((9, 4, 1024)), "volts": key(units="V")}
    with pytest.raises(BindingError, match=r"movie.*has 3 axes"):
        where(Spectra(inputs={"spectrum": "movie"}), start, descriptor(keys))
    # A wrong unit is the description's fault: whoever names the data key knows better.
    assert (
        where(Spectra(inputs={"gate": "volts"}), start, descriptor(keys))["gate"] == "primary/volts"
    )
    with pytest.raises(BindingError, match=r"input 'flux' is bound to 'i0'"):  # optional, but asked
        where(Spectra(inputs={"flux": "i0"}), start, descriptor(keys))


def test_dims_shape_and_unit_decide_among_keys_of_one_role():
    devices = {"det": {"role": "fluorescence"}, "gate": {"role": "gate_time"}}

    def spectrum(**keys: Any) -> Any:
        described = descriptor({**keys, "gate": GATE}, object_keys={"det": list(keys)})
        return where(Spectra(), {"devices": devices}, described)["spectrum"]

    right = {"dims": ["detector_element", "channel"]}
    assert spectrum(a=MCA, b={**MCA, **right}) == "primary/b"
    assert spectrum(total=key(units="counts"), mca=MCA) == "primary/mca"  # one has two axes
    assert spectrum(a={**MCA, "units": "keV"}, b=MCA) == "primary/b"
    assert spectrum(a=key((4, 1024)), b=MCA) == "primary/b"  # says its unit
    with pytest.raises(BindingError, match=r"fits several data keys \(primary/a, primary/b\).*inp"):
        spectrum(a=MCA, b=MCA)


def test_names_of_axes_say_enough_where_no_device_speaks_of_roles():
    image = key((480, 640), dims=["y", "x"])
    assert where(Frame(), {}, descriptor({"cam": image, "temp": key()})) == {"image": "primary/cam"}


@pytest.mark.parametrize(
    ("have", "want", "scale"),
    [
        ("ms", "s", 1e-3),
        ("kcounts", "counts", 1000.0),
        ("cts", "counts", 1.0),
        ("cps", "counts/s", 1.0),
        ("cts/s", "counts/s", 1.0),
        ("kHz", "Hz", 1000.0),
        ("mm", "µm", 1000.0),
        (None, "s", 1.0),
        ("s", None, 1.0),
        ("", "s", 1.0),
        ("m", "s", None),
        ("furlongs per fortnigt", "s", None),
        ("degC", "K", None),  # no factor does it
        ("K", "degC", None),
    ],
)
def test_units(have, want, scale):
    assert unit_scale(have, want) == (None if scale is None else pytest.approx(scale))


@pytest.mark.parametrize(
    ("want", "spelled"),
    [
        ("degC", {"C": 20, "deg C": 20, "Celsius": 20, "℃": 20, "° C": 20, "K": 293.15}),
        ("degC", {"Kelvin": 293.15, "F": 68, "deg F": 68, "degree_Celsius": 20}),
        ("%", {"%": 20, "% RH": 20, "%RH": 20, "%rH": 20, "percent": 20, "1": 0.2, "RH": 20}),
        ("hPa", {"hpa": 20, "mbar": 20, "Pa": 2000, "kPa": 2, "KPA": 2, "bar": 0.02, "BAR": 0.02}),
        ("hPa", {"Torr": 15.0012, "mTorr": 15001.2, "mmHg": 15.0012, "mm Hg": 15.0012}),
        ("hPa", {"psi": 0.290075, "PSI": 0.290075, "inHg": 0.5906, "atm": 0.0197385}),
        ("counts/s", {"photons/s": 20, "ph/s": 20, "CTS/S": 20, "Hz": 20, "counts/sec": 20}),
        ("C", {"nC": 2e10, "A s": 20}),  # coulomb
    ],
)
def test_units_as_control_systems_spell_them(want, spelled):
    for unit, number in spelled.items():
        by = conversion(unit, want)
        assert by is not None, unit
        assert by.factor * number + by.offset == pytest.approx(20, rel=1e-3), unit


@pytest.mark.parametrize(("have", "want"), [("dB", "%"), ("furlong", "hPa"), ("pA", "hPa")])
def test_what_is_no_such_unit_is_not_converted(have, want):
    assert conversion(have, want) is None


class Aired(Modality):
    """What uses optional inputs with units."""

    x = Input(role="x")
    pressure = Input(role="air_pressure", unit="hPa", optional=True, constant=True)
    flux = Input(role="incident_flux", units=("counts", "A"), optional=True)


@pytest.mark.parametrize(
    ("keys", "inputs", "fed", "warning"),
    [
        ({}, {}, {}, None),
        ({"p": key(units="Torr")}, {}, {"pressure": "hPa"}, None),
        ({"i0": key(units="nA")}, {}, {"flux": "nA"}, None),
        ({"i0": key(units="counts")}, {}, {"flux": "count"}, None),
        ({"i0": key()}, {}, {"flux": "counts"}, "flux: primary/i0 says no unit; it is taken for c"),
        ({"p": key()}, {}, {"pressure": "hPa"}, "primary/p says no unit; it is taken for hPa"),
        (
            {"i0": key(units="furlong")},
            {},
            {},
            "'flux' looked for .*A and found none; not fitting:",
        ),
        ({"p": key(units="furlong")}, {}, {}, r"'pressure' looked .*furlong\): nothing feeds it"),
        ({"p": key(units="hPa"), "q": key(units="hPa")}, {}, {}, "several .*: nothing feeds it"),
        ({"p": key((3,), units="hPa")}, {}, {}, "not fitting: .*: nothing feeds it"),
        ({f"p{i}": key(units="m") for i in range(9)}, {}, {}, "p3 .* and 5 more: nothing feeds"),
        (
            {"p": key(units="furlong")},
            {"pressure": "p"},
            {"pressure": "hPa"},
            "pressure: primary/p is in furlong, not hPa; its numbers are taken as they are",
        ),
    ],
)
def test_what_feeds_an_optional_input_is_doubted_aloud(keys, inputs, fed, warning):
    roles = {f"p{i}": "air_pressure" for i in range(9)}
    roles |= {"x": "x", "p": "air_pressure", "q": "air_pressure", "i0": "incident_flux"}
    devices = {name: {"role": role} for name, role in roles.items()}
    described = descriptor({"x": key(), **keys})
    found = bind(Aired(inputs=inputs), {"uid": "r", "devices": devices}, [described])
    assert {name: b.unit for name, b in found.bound.items() if name != "x"} == fed
    assert len(found.warnings) == (warning is not None)
    for said in found.warnings:
        assert re.search(warning, said), said


def test_constants_are_converted_with_their_offset():
    class Warm(Modality):
        x = Input(role="x")
        temperature = Input(role="air_temperature", unit="degC", optional=True, constant=True)

    about = {"temperature": key(units="K")}
    configuration = {"hutch": {"data": {"temperature": 300.0}, "data_keys": about}}
    start = {"uid": "r", "devices": {"x": {"role": "x"}, "temperature": "air_temperature"}}
    described = descriptor({"x": key()}, configuration=configuration)
    found = bind(Warm(), start, [described])
    assert found.bound["temperature"].value == pytest.approx(26.85)
    assert not changed(found, start, described)


@given(st.text(max_size=12))
def test_any_text_can_stand_for_a_unit(text):
    scale = unit_scale(text, "s")
    assert scale is None or isinstance(scale, float)


@pytest.mark.parametrize(
    ("shape", "given_shape", "expected"),
    [
        ((1024,), (3, 1024), (1, 1024)),  # one detector element
        ((1, 4, 1024), (3, 1, 4, 1024), (4, 1024)),  # ophyd-async's leading one
        ((4, 1024), (3, 4, 1024), (4, 1024)),
    ],
)
def test_the_shape_that_process_gets(shape, given_shape, expected):
    start = {"uid": "r", "devices": ROLES}
    found = bind(Spectra(), start, [descriptor({"mca": key(shape), "gate": GATE})])
    assert found.bound["spectrum"].shape == expected
    assert found.bound["spectrum"].source_shape == shape
    assert found.primary == "spectrum"
    assert found.streams == ("primary",)


def test_streams_join_only_where_the_run_says_so():
    streams = descriptor({"mca": MCA}), descriptor({"gate": GATE}, "beam")
    aligned = {"devices": ROLES, "aligned_streams": ["primary", "beam"]}
    found = where(Spectra(), aligned, *streams)
    assert found == {"spectrum": "primary/mca", "gate": "beam/gate"}
    with pytest.raises(BindingError, match=r"in stream beam.*'primary' under aligned_streams"):
        where(Spectra(), {"devices": ROLES}, *streams)
    with pytest.raises(BindingError, match="aligned_streams"):
        where(Spectra(), {**aligned, "aligned_streams": ["beam", "other"]}, *streams)


def test_an_optional_input_is_taken_if_it_fits_and_left_if_not():
    roles = {**ROLES, "i0": {"role": "incident_flux"}}
    both = {"mca": MCA, "gate": GATE}
    found = where(Spectra(), {"devices": roles}, descriptor({**both, "i0": key(units="kcps")}))
    assert found["flux"] == "primary/i0"
    for i0 in (key(units="V"), key((7,), units="cps")):
        assert "flux" not in where(Spectra(), {"devices": roles}, descriptor({**both, "i0": i0}))
    elsewhere = descriptor(both), descriptor({"i0": key(units="cps")}, "monitor")
    assert "flux" not in where(Spectra(), {"devices": roles}, *elsewhere)


def test_the_error_lists_what_was_looked_for_and_what_the_run_has():
    described = descriptor({"mca": {**MCA, "units": "keV"}, "temperature": key(units="K")})
    with pytest.raises(BindingError) as caught:
        where(Spectra(), {"devices": ROLES}, described)
    said = str(caught.value)
    for part in (
        "spectra cannot work on this run",
        "role 'fluorescence', dims ['detector_element', 'channel'], unit counts",
        "not fitting: primary/mca (role fluorescence, shape [4, 1024], keV)",
        "role 'gate_time'",
        "The run has: primary/mca",
        "primary/temperature (no role, shape [], K)",
    ):
        assert part in said
    with pytest.raises(BindingError, match="The run has: nothing"):
        where(Spectra(), {})


def test_a_run_with_nothing_to_bind_says_so_through_process():
    documents = [("start", {"uid": "r", "time": 0.0}), ("stop", {"run_start": "r", "uid": "s"})]
    with pytest.raises(BindingError, match="The run has: nothing"):
        process(Spectra(), documents)


@pytest.mark.parametrize("said", ["nonsense", [["a", "<f8"]], None, "|u1,", "|O"])
def test_a_dtype_that_numpy_does_not_know_is_left_open(said):
    described = descriptor({"cam": {**key((2, 2), dims=["y", "x"]), "dtype_numpy": said}})
    found = bind(Frame(), {"uid": "r"}, [described]).bound["image"]
    assert found.dtype == ""
    assert np.prod(found.shape) == 4


def test_streams_that_only_go_on_beside_the_scan_feed_nothing_unless_asked():
    class Reading(Modality):
        x = Input(role="counter")

    aside = [descriptor({"x": key()}, name=n) for n in ("x_monitor", "baseline", "interruptions")]
    scan = descriptor({"x": key()})
    assert where(Reading(inputs={"x": "x"}), {}, *aside, scan) == {"x": "primary/x"}
    start = {"devices": {"x": "counter"}}
    assert where(Reading(), start, *aside, scan) == {"x": "primary/x"}
    assert where(Reading(inputs={"x": "x_monitor/x"}), {}, scan, *aside) == {"x": "x_monitor/x"}


def test_data_of_resource_documents_are_not_taken_for_values():
    class Reading(Modality):
        x = Input(role="counter")

    with pytest.raises(BindingError, match="which is not there"):
        where(Reading(inputs={"x": "x"}), {}, descriptor({"x": key(external="FILESTORE:")}))
