"""What the server shows of the services: a list, metrics of all, and a page that is live."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from p06bs.bus.control import Control, RefusedError
from p06bs.bus.questions import ask_all
from p06bs.server.services_metrics import merged
from p06bs.services.supervision import Supervision
from tests.browsers import chromium, shown, violations
from tests.online import PATIENCE

CONFIGURATION = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
topology = "ipc://{0}/topology"
log = "{0}/log"
[server]
port = 0
api_key_file = "{0}/key"
"""
ROUTE = "/api/v1/services"


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("page")
    file = folder / "services.toml"
    file.write_text(CONFIGURATION.format(folder))
    before, os.environ["XDG_RUNTIME_DIR"] = os.environ.get("XDG_RUNTIME_DIR"), str(folder / "run")
    started = Supervision(file)
    try:
        started.start()
        try:
            assert started.wait_ready()
            yield started
        finally:
            started.stop()
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before


@pytest.fixture
def key(services: Supervision) -> str:
    return (services.file.parent / "key").read_text().strip()


@pytest.fixture
def url(services: Supervision) -> str:
    from p06bs.bus.membership import Membership

    with Membership(services.configuration.bus.topology) as peers:
        return peers.wait_for("server", "http", PATIENCE)


def wait(condition: Any) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end
        threading.Event().wait(0.1)
    return found


def test_services_are_listed_with_their_health_and_measured_together(services, url, key):
    headers = {"Authorization": f"Apikey {key}"}
    for route in (ROUTE, f"{ROUTE}/metrics"):
        assert httpx.get(url + route).status_code == 401
        assert httpx.post(url + route, headers=headers).status_code == 405

    def listed() -> dict[str, Any]:
        answer = httpx.get(url + ROUTE, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return {one["name"]: one for one in answer.json()["services"]}

    def measured() -> dict[str, Any]:
        answer = httpx.get(f"{url}{ROUTE}/metrics", headers=headers, timeout=60)
        assert answer.headers["content-type"].startswith("text/plain; version=")
        families = list(text_string_to_metric_families(answer.text))
        assert len({family.name for family in families}) == len(families)
        return {family.name: family for family in families}

    found = wait(lambda: len(known := listed()) == 3 and known)
    assert set(found) == {"topology", "proxy", "server"}
    assert all(one["health"] == {"healthy": True, "failed": []} for one in found.values())
    proxy = services.statuses()["proxy"].pid
    assert (found["proxy"]["pid"], found["proxy"]["kind"]) == (proxy, "proxy")
    metrics = measured()
    assert {s.labels["service"] for s in metrics["process_resident_memory_bytes"].samples} == {
        "topology", "proxy", "server",
    }  # fmt: skip
    (sample,) = metrics["p06bs_services"].samples
    assert (sample.labels, sample.value) == ({"service": "topology"}, 3.0)

    os.kill(proxy, signal.SIGSTOP)  # it hangs: the others are told of all the same
    try:
        health = listed()["proxy"]["health"]
        assert health == {"healthy": False, "failed": ["no answer to health in 1.5 s"]}
        up = {s.labels["service"]: s.value for s in measured()["p06bs_up"].samples}
        assert up == {"topology": 1.0, "proxy": 0.0, "server": 1.0}
    finally:
        os.kill(proxy, signal.SIGCONT)


def test_the_page_is_live_and_says_what_it_lacks(services, url, key, tmp_path):
    with chromium(tmp_path) as browser:
        browser.get(f"{url}/services")
        shown(browser, "#said.bad", lambda e: "has no key that is good here" in e.text)
        browser.get(f"{url}/services?api_key={key}")
        shown(browser, "#said", lambda e: "3 services, 0 not healthy" in e.text)
        assert key not in browser.current_url
        row = shown(browser, "tr[data-service=proxy]", lambda e: "healthy" in e.text)
        pid = services.statuses()["proxy"].pid
        assert str(pid) in row.text
        assert f"inbound ipc://{services.file.parent}/in" in row.text
        os.kill(pid, signal.SIGSTOP)
        try:
            shown(browser, "#said.bad", lambda e: "3 services, 1 not healthy" in e.text)
            shown(browser, "tr[data-service=proxy] .bad", lambda e: "no answer" in e.text)
        finally:
            os.kill(pid, signal.SIGCONT)
        shown(browser, "#said", lambda e: "3 services, 0 not healthy" in e.text)
        browser.get(f"{url}/services")  # the browser has kept the key
        shown(browser, "#said", lambda e: "3 services" in e.text)
        assert violations(browser) == []


def test_a_server_that_was_started_by_hand_says_that_it_knows_nobody(http):
    for path in ("/services", "/services/metrics"):
        answer = http.get(path)
        assert answer.status_code == 404
        assert "knows no Topology Manager" in answer.json()["detail"]
    assert http.get("/services", headers={"Authorization": "Apikey wrong"}).status_code == 401


def test_all_are_asked_at_once_and_none_is_waited_for_longer(tmp_path: Path):
    def refuse() -> None:
        raise ValueError("not now")

    with Control({"health": lambda: 1}) as well, Control({"health": refuse}) as sick:
        addresses = {
            "well": well.address,
            "sick": sick.address,
            "silent": f"ipc://{tmp_path}/nobody",
            "far": "tcp://192.0.2.1:1",
            "odd": "",
        }
        answers = ask_all(addresses, "health", seconds=2.0)
    assert answers.pop("well") == 1
    kinds = {name: type(answer) for name, answer in answers.items()}
    assert kinds.pop("sick") is RefusedError
    assert kinds == {"silent": TimeoutError, "far": ValueError, "odd": ValueError}
    assert "not now" in str(answers["sick"])


def test_metrics_of_services_become_one_text():
    old = '# HELP a_total A.\n# TYPE a_total counter\na_total{service="x"} 1.0\n'
    new = '# HELP a_total Other.\n# TYPE a_total counter\na_total{kind="k"} 2.0\n'
    strange = "# HELP a_total B.\n# TYPE a_total gauge\na_total 3.0\n"
    text = merged({"old": old, "new": new, "strange": strange, "none": None, "bad": "a{"}).decode()
    assert text.count("# TYPE a_total counter") == 1
    assert 'a_total{exported_service="x",service="old"} 1.0' in text
    assert 'a_total{kind="k",service="new"} 2.0' in text
    assert " 3.0" not in text  # one name has one type
    for name, up in (("old", 1.0), ("new", 1.0), ("none", 0.0), ("bad", 0.0)):
        assert f'p06bs_up{{service="{name}"}} {up}' in text
