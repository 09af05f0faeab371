"""What a session has beside RunEngine, devices and plans: pipelines over real sockets, progress."""

import io
import threading
from contextlib import contextmanager

import pytest
import zmq
from rich.console import Console

from p06bs.bus.control import Control
from p06bs.bus.membership import Membership
from p06bs.bus.topology import Service
from p06bs.bus.topology_manager import TopologyManager
from p06bs.session.catalog import NoCatalogError, root_of
from p06bs.session.online_analysis import OnlineAnalysis
from p06bs.session.progress import ScanProgress, StepsOnly

PATIENCE = 60.0
SETTINGS = {
    "values": {"noise": 0.08, "regions": {"Fe_K": [1, 2]}, "mask": "x" * 5000},
    **{"digest": "abc", "revision": 3, "changed_by": "mo", "since": 1.0, "preset": ""},
    **{"schema": {"title": "x"}, "runs": {}},
}


@contextmanager
def topology():
    with TopologyManager("tcp://127.0.0.1:*") as manager:
        thread = threading.Thread(target=manager.serve)
        thread.start()
        try:
            yield manager.address
        finally:
            manager.close()
            thread.join()


@contextmanager
def hosting(address, name, control, kind="pipelines"):
    with Membership(address) as member:
        offers = (name,) if kind == "pipelines" else ()
        what = "control" if kind == "pipelines" else "http"
        member.enrol(Service(f"host-{name}", kind, "1", "here", 1, {what: control}, "", offers))
        yield


def heard(peers, count):
    assert peers.wait_heard(lambda services: len(services) >= count, PATIENCE)


def test_settings_of_pipelines_and_of_one_that_is_silent():
    changes = []

    def change(of, values, by, reprocess=False, preset=""):
        if "wrong" in values:
            raise ValueError("wrong: there is no such setting")
        changes.append((of, values))

    verbs = {"settings": lambda of=None: {"xrf": SETTINGS}, "change": change}
    with (
        topology() as address,
        Control(verbs) as control,
        zmq.Context() as context,
        context.socket(zmq.ROUTER) as silent,
        Membership(address) as peers,
    ):
        port = silent.bind_to_random_port("tcp://127.0.0.1")
        with (
            hosting(address, "xrf", control.address),
            hosting(address, "xrd", f"tcp://127.0.0.1:{port}"),
        ):
            heard(peers, 2)
            analysis = OnlineAnalysis(peers, seconds=0.5)
            assert analysis.pipelines == ("xrd", "xrf")
            assert {"xrd", "xrf", "pipelines"} <= set(dir(analysis))
            said = analysis.settings_in_force()
            assert said["xrf"]["values"] == SETTINGS["values"]
            assert "schema" not in said["xrf"]
            assert "no answer" in said["xrd"]["problem"]
            assert repr(analysis).splitlines()[1] == "xrf: change 3 by mo"
            settings = analysis.xrf.settings
            assert dict(settings) == SETTINGS["values"]
            assert settings["regions.Fe_K"] == [1, 2]
            assert repr(settings).splitlines()[0] == "noise = 0.08"
            assert max(map(len, repr(settings).splitlines())) == len("mask = ") + 200
            assert len(settings["mask"]) == 5000
            settings["noise"] = 0.09
            settings.update({"regions.Fe_K": [1, 3]}, noise=0.1)
            assert changes == [
                ("xrf", {"noise": 0.09}),
                ("xrf", {"regions.Fe_K": [1, 3], "noise": 0.1}),
            ]
            with pytest.raises(ValueError, match="no such setting"):
                settings["wrong"] = 1
            with pytest.raises(TypeError, match="cannot be deleted"):
                del settings["noise"]
            with pytest.raises(AttributeError, match="there are xrd, xrf"):
                _ = analysis.nothing
            with pytest.raises(LookupError, match="no server answers"):
                _ = analysis.xrf.last


def test_without_services_nothing_but_a_word_is_said(tmp_path):
    with Membership(f"ipc://{tmp_path}/nobody") as peers:
        for analysis in (OnlineAnalysis(peers), OnlineAnalysis(None)):
            with pytest.raises(ConnectionError, match="Topology Manager"):
                analysis.settings_in_force()
            assert repr(analysis).startswith("<no pipelines: ")
            assert "pipelines" in dir(analysis)
        with pytest.raises(NoCatalogError, match="no server is registered"):
            root_of(peers, tmp_path / "key")


def test_a_server_that_cannot_be_used_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("P06BS_API_KEY", raising=False)
    with (
        topology() as address,
        Membership(address) as peers,
        hosting(address, "s", "http://127.0.0.1:9", "server"),
    ):
        heard(peers, 1)
        with pytest.raises(NoCatalogError, match="cannot be read"):
            root_of(peers, tmp_path / "key")
        (tmp_path / "key").write_text("k")
        with pytest.raises(NoCatalogError, match="cannot be used"):
            root_of(peers, tmp_path / "key")


def shown(*documents):
    console = Console(file=io.StringIO(), force_terminal=False, width=120)
    progress = ScanProgress(console)
    for name, document in documents:
        progress(name, document)
    progress.close()
    return console.file.getvalue()


START = {"uid": "u", "num_points": 4, "shape": [2, 2], "scan": {"kind": "step_map", "dwell": 0.1}}
PRIMARY = ("descriptor", {"uid": "d", "name": "primary", "run_start": "u"})
STOP = ("stop", {"run_start": "u", "exit_status": "success", "num_events": {"primary": 4}})


def event(number, descriptor="d", **data):
    return ("event", {"descriptor": descriptor, "seq_num": number, "data": data})


def test_points_that_are_measured_again_do_not_count_twice():
    text = shown(("start", START), PRIMARY, *(event(n) for n in (1, 2, 3, 2, 3)), STOP)
    assert "step_map 2 x 2 of 0.1 s, run u" in text
    assert "3/4" in text
    assert "success: {'primary': 4}" in text


def test_pages_and_results_are_shown_and_other_streams_and_runs_do_not_count():
    page = ("event_page", {"descriptor": "d", "seq_num": [1, 2], "data": {}})
    baseline = ("descriptor", {"uid": "b", "name": "baseline", "run_start": "u"})
    edge = ("descriptor", {"uid": "e", "name": "edge", "run_start": "u"})
    other = ("stop", {"run_start": "v", "exit_status": "fail", "num_events": {}})
    start = {**START, "scan": {"kind": "knife_edge", "result": "edge"}}
    found = event(1, "e", **{"edge-centre": 1.5})
    text = shown(("start", start), baseline, PRIMARY, edge, page, event(4, "b"), found, other, STOP)
    assert "2/4" in text
    assert "edge-centre 1.5" in text
    assert "fail" not in text


@pytest.mark.parametrize("start", [{"uid": "u"}, {"uid": "u", "scan": "x", "num_points": None}])
def test_scans_that_say_nothing_are_shown_too(start):
    assert "scan, run u" in shown(("start", start), PRIMARY, event(1), STOP)


def test_tables_are_for_step_scans_only():
    seen = []
    table = StepsOnly(lambda name, document: seen.append(document["uid"]))
    for kind in ("fly_map", "step_map", "fly_spiral"):
        table("start", {"uid": kind, "scan": {"kind": kind}})
        table("stop", {"uid": kind})
    assert seen == ["step_map", "step_map"]
