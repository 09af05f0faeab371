"""What a session has beside RunEngine, devices and plans: pipelines over real sockets, progress."""

import io
import threading

import pytest
import zmq
from rich.console import Console

from p06bs.bus.control import Control, ask
from p06bs.bus.membership import Membership
from p06bs.session import online_analysis
from p06bs.session.catalog import NoCatalogError, ServerRuns
from p06bs.session.online_analysis import OnlineAnalysis, Pipeline, Results
from p06bs.session.progress import ScanProgress, StepsOnly
from tests.doors import KEY, Gated
from tests.live_server import serving
from tests.peers import hosting, topology

PATIENCE = 60.0
SETTINGS = {
    "values": {"noise": 0.08, "regions": {"Fe_K": [1, 2]}, "mask": "x" * 5000},
    **{"digest": "abc", "revision": 3, "changed_by": "mo", "since": 1.0, "preset": ""},
    **{"schema": {"title": "x"}, "runs": {}},
}


def heard(peers, count):
    assert peers.wait_heard(lambda services: len(services) >= count, PATIENCE)


def test_settings_of_pipelines_and_of_one_that_is_silent(monkeypatch):
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

            def patiently(address, *verb, seconds, **more):
                """Wait long for all that answer, however busy the machine is."""
                seconds = 0.5 if address.endswith(f":{port}") else PATIENCE
                return ask(address, *verb, seconds=seconds, **more)

            monkeypatch.setattr(online_analysis, "ask", patiently)
            analysis = OnlineAnalysis(peers)
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
            with pytest.raises(LookupError, match="no server is known"):
                _ = analysis.xrf.last


def test_without_services_nothing_but_a_word_is_said(tmp_path):
    with Membership(f"ipc://{tmp_path}/nobody") as peers:
        for analysis in (OnlineAnalysis(peers), OnlineAnalysis(None)):
            with pytest.raises(ConnectionError, match="Topology Manager"):
                analysis.settings_in_force()
            assert repr(analysis).startswith("<no pipelines: ")
            assert "pipelines" in dir(analysis)
        with pytest.raises(NoCatalogError, match="no server is registered"):
            ServerRuns(peers, tmp_path / "key").root()


def test_a_server_that_cannot_be_used_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("P06BS_API_KEY", raising=False)
    with (
        topology() as address,
        Membership(address) as peers,
        hosting(address, "s", "http://127.0.0.1:9", "server"),
    ):
        heard(peers, 1)
        with pytest.raises(NoCatalogError, match="cannot be read"):
            ServerRuns(peers, tmp_path / "key").root()
        (tmp_path / "key").write_text("k")
        with pytest.raises(NoCatalogError, match="cannot be used"):
            ServerRuns(peers, tmp_path / "key").root()


def test_a_server_that_comes_up_later_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("P06BS_API_KEY", KEY)
    with topology() as address, Membership(address) as peers:
        runs = ServerRuns(peers, tmp_path / "no-key")
        with pytest.raises(LookupError, match="no server is registered"):
            _ = Pipeline("xrf", lambda: None, runs.root).last
        with serving(Gated().gate) as url, hosting(address, "s", url, "server"):
            heard(peers, 1)
            root = runs.root()
            assert list(root["live"]) == ["run1"]
            assert runs.root() is root
            with pytest.raises(LookupError, match="the server has no run of xrf yet"):
                _ = Pipeline("xrf", lambda: None, runs.root).last
            results = Results(root["live"]["run1"])
            assert results["Fe"].shape == (3, 4)
            with pytest.raises(KeyError, match="there is no column 'Zn'; there are Fe"):
                _ = results["Zn"]
        runs.close()


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


def test_a_run_within_a_run_is_not_shown_and_the_outer_one_goes_on():
    inner = ("start", {**START, "uid": "v", "scan": {"kind": "line_scan"}})
    within = ("descriptor", {"uid": "w", "name": "primary", "run_start": "v"})
    other = ("stop", {"run_start": "v", "exit_status": "success", "num_events": {"primary": 9}})
    nested = (inner, within, event(4, "w"), other)
    text = shown(("start", START), PRIMARY, event(1), *nested, event(3), STOP, inner)
    assert "3/4" in text
    assert "success: {'primary': 4}" in text
    assert "9" not in text
    assert text.count("line_scan") == 1  # after the outer one


def test_a_run_that_has_had_no_end_is_forgotten_with_its_plan():
    now = [0.0]
    file, progress = terminal(now)
    progress("start", START)
    progress.state("idle", "running")
    progress("start", {**START, "uid": "v"})
    progress(*STOP)
    progress.close()
    assert "run v" in file.getvalue()


def terminal(now, **options):
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    return console.file, ScanProgress(console, clock=lambda: now[0], **options)


def test_a_pause_takes_the_bar_away_and_no_time():
    now = [0.0]
    file, progress = terminal(now)
    for document in (("start", START), PRIMARY, event(1)):
        progress(*document)
    now[0] = 4.0
    progress.state("pausing", "running")
    progress.state("paused", "pausing")
    said = len(file.getvalue())
    now[0] = 1000.0
    threading.Event().wait(0.3)  # a bar would be drawn again ten times a second
    assert len(file.getvalue()) == said
    progress.state("running", "paused")
    now[0] = 1002.0
    progress(*event(4))
    progress(*STOP)
    assert "4/4 0:00:06 left" in file.getvalue().replace("\x1b[2K", "")


def test_the_time_left_is_known_from_the_beginning():
    start = {**START, "scan": {"kind": "fly_map", "duration": 60.0}}
    assert "0/4 0:00:00 left 0:01:00" in shown(("start", start), PRIMARY)
    spiral = {"uid": "u", "num_points": 4, "scan": {"kind": "spiral_map"}}
    text = shown(("start", spiral), PRIMARY)
    assert "spiral_map 4 points" in text
    assert "left -:--:--" in text


def test_the_maps_of_a_tomography_tell_how_long_all_will_take():
    now = [0.0]
    file, progress = terminal(now)
    for number in range(2, 5):
        scan = {"kind": "fly_map", "tomography": "t", "projections": 5, "projection": number}
        progress("start", {**START, "scan": scan})
        now[0] += 60.0
        progress(*STOP)
    said = [line for line in file.getvalue().splitlines() if "projection" in line]
    assert [line.partition("projection ")[2].partition(", run")[0] for line in said] == [
        "3/5",
        "4/5, 0:02:00 left for all",
        "5/5, 0:01:00 left for all",
    ]


def test_moves_are_shown_between_runs_only():
    seen = []
    _, progress = terminal([0.0], moves=seen.append)
    for when in ("before", None):
        progress.waiting(when)
    progress("start", START)
    for when in ("within", None):
        progress.waiting(when)
    progress(*STOP)
    for when in ("after", None):
        progress.waiting(when)
    assert seen == ["before", None, "after", None]


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
