"""Configuration: files, names of modalities, settings from text; what is accepted, what is said."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from p06bs import config
from p06bs.bus import certificates
from p06bs.callbacks.xrf import RegionSums
from p06bs.config import ConfigurationError

REPOSITORY = Path(__file__).parents[1]


def load(tmp_path: Path, text: str) -> config.Configuration:
    file = tmp_path / "services.toml"
    file.write_text(text)
    return config.load(file)


def test_an_empty_file_is_a_proxy_and_nothing_else(tmp_path):
    found = load(tmp_path, "")
    assert found.proxy
    assert found.server is None
    assert found.pipelines == ()
    assert found.bus.inbound.startswith("tcp://127.0.0.1:")


def test_everything_that_may_be_said(tmp_path):
    found = load(
        tmp_path,
        """
        proxy = false
        [bus]
        inbound = "ipc:///run/p06bs/in"
        outbound = "tcp://[::1]:7001"
        log = "/data/log"
        [server]
        port = 0
        budget = "1.5 GiB"
        [workers]
        on = "tcp://127.0.0.1:8786"
        count = 3
        deadline = 2.5
        [[pipelines]]
        modality = "region_sums"
        name = "iron"
        settings = { regions = { Fe_K = [6.2, 6.6] }, calibration = [0.0, 0.01] }
        inputs = { spectrum = "fly/mca" }
        batch_size = 16
        """,
    )
    assert found.server is not None
    assert found.server.budget == 1.5 * 1024**3
    (section,) = found.pipelines
    made = section.make()
    assert isinstance(made, RegionSums)
    assert made.inputs == {"spectrum": "fly/mca"}
    assert made.settings.regions == {"Fe_K": (6.2, 6.6)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[bus", "is no TOML"),
        ("[buss]\n", "buss: Extra inputs are not permitted"),
        ('[bus]\ninbound = "tcp://0.0.0.0:1"', "bus.inbound: .*0.0.0.0:1.* lies beyond this host"),
        ('[bus]\noutbound = "tcp://*:1"', "bus.outbound"),
        ('[bus]\noutbound = "tcp://p06.desy.de:1"', "bus.outbound"),
        ('[bus]\noutbound = "udp://127.0.0.1:1"', "neither tcp://host:port nor ipc://path"),
        ("[server]\nport = 70000", "server.port: .*less than or equal to 65535"),
        ('[server]\nbudget = "much"', "server.budget: .*write for example 512MB"),
        ("[server]\nbudget = 0", "server.budget: .*greater than 0"),
        ("[workers]\ncount = 0", "workers.count: .*greater than or equal to 1"),
        ("[workers]\nmin = 1", "workers: .*write max, too"),
        ("[workers]\nmax = 0", "workers.max: .*greater than or equal to 1"),
        ("[workers]\ncount = 2\nmax = 3", "workers: .*write either count, or min and max"),
        ("[workers]\nmin = 3\nmax = 2", "workers: .*min is 3, more than max, which is 2"),
        ('[workers]\non = "tcp://127.0.0.1:8786"\nmax = 2', "workers: .*leave min and max"),
        ("[[pipelines]]\nmodality = 'x'\noverload = 'drop'", "pipelines.0.overload: .*'thin'"),
        ("[[pipelines]]\nmodality = 'x'\ngpus = -1", "pipelines.0.gpus"),
        ("[[pipelines]]\nmodality = 'x'\nmemory = 'much'", "pipelines.0.memory"),
        ("[[pipelines]]\nname = 'x'", "pipelines.0.modality: Field required"),
        ("[[pipelines]]\nmodality = 'x'\nbatch_size = 0", "pipelines.0.batch_size"),
        ("proxy = 3", "proxy"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, said):
    with pytest.raises(ConfigurationError, match=said):
        load(tmp_path, text)


def test_addresses_beyond_this_host_take_keys(tmp_path):
    certificates.create(tmp_path / "keys")
    addresses = """
        [bus]
        inbound = "tcp://p06.desy.de:5567"
        topology = "tcp://192.0.2.7:5569"
        """
    with pytest.raises(
        ConfigurationError,
        match=r"bus\.inbound: .*p06\.desy\.de:5567.* without keys .*bus\.topology: ",
    ):
        load(tmp_path, addresses)
    relay = '[services.relay]\nkind = "proxy"\ninbound = "tcp://*:*"\n'
    keys = f'keys = "{tmp_path}/keys"\n'
    found = load(tmp_path, f"{addresses}{keys}{relay}")
    made = found.bus.open_keys()
    assert made is not None
    assert made.directory == tmp_path / "keys"
    assert found.bus.listen == "tcp://*:*"
    assert config.definition(found, "relay").model_dump()["inbound"] == "tcp://*:*"
    with pytest.raises(ConfigurationError, match=r"services\.relay: inbound: .*without keys"):
        config.definition(load(tmp_path, relay), "relay")
    with pytest.raises(ConfigurationError, match=r"bus\.outbound: .*names no host"):
        load(tmp_path, f'[bus]\n{keys}outbound = "tcp://*:5568"')
    assert load(tmp_path, f"[bus]\n{keys}").bus.listen == "tcp://127.0.0.1:*"
    (tmp_path / "keys/own.key_secret").chmod(0o644)
    with pytest.raises(ValueError, match=r"own\.key_secret has mode 644"):
        load(tmp_path, f"[bus]\n{keys}").bus.open_keys()
    with pytest.raises(ValueError, match="p06bs keys create"):
        load(tmp_path, '[bus]\nkeys = "/nowhere"').bus.open_keys()


def test_a_file_that_cannot_be_read_is_said_in_one_line(tmp_path):
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, said in (
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
        (binary, "not UTF-8"),
    ):
        with pytest.raises(ConfigurationError, match=said) as caught:
            config.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("512MB", 512e6), ("2 GiB", 2 * 1024**3), ("10", 10), ("1k", 1000), ("1.5 KiB", 1536), (7, 7)],
)
def test_numbers_of_bytes(text, nbytes):
    assert config.parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "MB", "1 XB", "1.2.3MB", "-5MB", "5MBB", "0x10"])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(ValueError, match=r"."):
        config.parse_bytes(text)


def test_the_schema_accepts_what_is_accepted_and_refuses_unknown_fields():
    schema = config.schema()
    jsonschema.validate({"bus": {"log": "x"}, "server": {"budget": 5}}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"bus": {"logs": "x"}}, schema)


def test_the_installed_modalities_are_found_by_name_and_by_path():
    known = config.modalities()
    assert known["region_sums"] == "p06bs.callbacks.xrf:RegionSums"
    for name, path in known.items():
        assert config.find_modality(name) is config.find_modality(path)


BROKEN = {
    "syntax": "def (",
    "raises": "raise RuntimeError('no licence')",
    "imports": "import not_there_at_all",
    "other": "Modality = 3\nclass Plain: pass",
}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such", "no modality 'no_such'; installed are counters, .*region_sums, .*xrf"),
        ("broken_syntax:X", r"cannot import modality .*SyntaxError"),
        ("broken_raises:X", r"cannot import modality .*RuntimeError: no licence"),
        ("broken_imports:X", r"cannot import modality .*not_there_at_all"),
        ("broken_other:X", r"cannot import modality .*has no attribute 'X'"),
        ("broken_other:Plain", "is no Modality"),
        ("broken_other:Modality", "is no Modality"),
        ("a:b:c", "cannot import modality"),
        (":", "cannot import modality"),
        ("", "no modality ''"),
    ],
)
def test_a_modality_that_cannot_be_had_is_said(tmp_path, monkeypatch, name, said):
    monkeypatch.syspath_prepend(tmp_path)
    for kind, text in BROKEN.items():
        (tmp_path / f"broken_{kind}.py").write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        config.make_modality(name, {})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "regions: Field required"),
        ({"regions": {}}, "regions: .*at least 1 item"),
        ({"regions": {"a": [1, 2]}, "saturation": -1}, "saturation: .*greater than 0, got -1"),
        ({"regions": {"a": [1, 2]}, "colour": "red"}, "colour: Extra inputs .* got 'red'"),
        ({"regions": {"a": [5, 2]}}, "region 'a' is empty: 5 is above 2"),
        ({"regions": {"a": [1, 2]}, "inputs": {}}, "inputs is no setting"),
        ({"regions": {"a": [1, 2]}, "self": 1}, "self: Extra inputs"),
    ],
)
def test_refused_settings_name_field_value_and_range(settings: dict[str, Any], said):
    with pytest.raises(ConfigurationError, match=said):
        config.make_modality("region_sums", settings)


def test_settings_from_text():
    pairs = ["a=1", "b=true", 'c={"x": [1, 2]}', "d=Fe foil", "e=", "f=a=b", 'g="7"', "h=1e-3"]
    assert config.parse_settings(pairs) == {
        "a": 1,
        "b": True,
        "c": {"x": [1, 2]},
        "d": "Fe foil",
        "e": "",
        "f": "a=b",
        "g": "7",
        "h": 1e-3,
    }
    for text in ("novalue", "=1"):
        with pytest.raises(ConfigurationError, match="is no setting; write key=value"):
            config.parse_settings([text])


def test_several_users_need_to_know_who_may_see_what(tmp_path):
    with pytest.raises(ConfigurationError, match=r"needs \[server\.access\]"):
        load(tmp_path, "[server.authentication]\n")
    found = load(tmp_path, "[server.authentication]\n[server.access]\nroots = ['/data']\n")
    assert found.server is not None
    assert found.server.access is not None
    assert found.server.access.rights == "kernel"


@pytest.mark.parametrize(
    "uri",
    ["mysql://localhost/x", "catalog.db", "sqlite://", "postgres://a:quiet@b/c", "password=quiet"],
)
def test_databases_that_are_not_tested_are_refused(tmp_path, uri):
    with pytest.raises(ConfigurationError, match="sqlite:///PATH") as refused:
        load(tmp_path, f'[server.archive]\ndatabase = "{uri}"\n')
    assert "quiet" not in str(refused.value)


def test_options_win_over_a_section_also_one_with_keys():
    bus = config.changed(config.Bus(), {"outbound": "ipc:///run/out", "log": None})
    assert bus == config.Bus(outbound="ipc:///run/out")


CHAIN = """
[[pipelines]]
modality = "tests.chains:Position"
after = [{first}]
[services.encoders]
kind = "pipelines"
pipelines = [{{ modality = "tests.chains:Encoder", name = "rough", inputs.x = "{x}" }}]
[services.fine]
kind = "pipelines"
replicas = 2
pipelines = [{{ modality = "tests.chains:Interferometer", inputs.x = "x" }}]
"""


def test_pipelines_of_all_services_may_feed_each_other_but_not_in_circles(tmp_path):
    both = '"rough", "interferometer"'
    config.definitions(load(tmp_path, CHAIN.format(first=both, x="signal")))
    with pytest.raises(ConfigurationError, match="position comes after ruff, which no pipeline"):
        config.definitions(load(tmp_path, CHAIN.format(first='"ruff"', x="signal")))
    with pytest.raises(ConfigurationError, match="position after rough after position; take one"):
        config.definitions(load(tmp_path, CHAIN.format(first=both, x="position/primary/x")))
