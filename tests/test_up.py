"""``p06bs up``: which services it starts again."""

import sys
import threading
import time

import pytest

from p06bs.config import load
from p06bs.server.archive.storage import StorageLock
from p06bs.services.up import REFUSED, Services, commands

CONFIGURATION = """
[bus]
inbound = "ipc://{0}/in"
outbound = "ipc://{0}/out"
log = "{0}/log"

[server.archive]
database = "sqlite:///{0}/archive.db"
storage = "{0}/archive"
"""


def wait_until_ended(services):
    until = time.monotonic() + 60
    while services.pids:
        assert time.monotonic() < until
        threading.Event().wait(0.02)


def ingestion(file, said):
    """Return the ingestion of a configuration as the only service."""
    command = {"archive": commands(load(file), file)["archive"]}
    return Services(command, lambda name, line: said.append(line))


def test_a_service_that_refuses_what_is_configured_stays_down(tmp_path):
    file = tmp_path / "services.toml"
    file.write_text(CONFIGURATION.format(tmp_path))
    said = []
    services = ingestion(file, said)
    file.write_text(file.read_text().partition("[server.archive]")[0])
    services.start()
    try:
        with pytest.raises(RuntimeError, match=r"the configuration has no \[server.archive\]"):
            services.wait_ready(60)
        for _ in range(3):
            services.look()
            assert not services.pids
    finally:
        assert services.stop() == {"archive": REFUSED}
    assert sum("the configuration has no" in line for line in said) == 1
    assert said.count("refuses what is configured; it is not started again") == 1


def test_an_ingestion_begins_when_another_one_has_ended(tmp_path):
    """Such as one that somebody started by hand while the services were started anew."""
    file = tmp_path / "services.toml"
    file.write_text(CONFIGURATION.format(tmp_path))
    said = []
    services = ingestion(file, said)
    with StorageLock(tmp_path / "archive"):
        services.start()
        wait_until_ended(services)
    try:
        services.look()
        assert services.wait_ready(60)
    finally:
        assert services.stop() == {"archive": 0}
    assert "another process ingests into" in said[0]
    assert said[1] == "ended with status 1; restarting"


def test_a_service_that_fails_is_started_again():
    said = []
    services = Services(
        {"failing": [sys.executable, "-c", "raise SystemExit(1)"]},
        lambda name, line: said.append(line),
    )
    services.start()
    try:
        wait_until_ended(services)
        services.look()
        wait_until_ended(services)
    finally:
        services.stop()
    assert said == ["ended with status 1; restarting"]
