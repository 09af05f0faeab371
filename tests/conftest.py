"""What every test is held to: no ERROR in the log, nothing left running or open."""

import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, settings

from p06bs import cli

# Two cores are shared by several processes of one test. Read when numpy is imported, by a test.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

settings.register_profile("p06bs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("p06bs")

PATIENCE = 30.0
# They live as long as the interpreter and belong to libraries, not to a test.
LASTING_THREADS = (
    "bluesky-run-engine",
    "asyncio_",
    "IO loop",
    "Profile",
    "Dask-Offload",
    "pymca",
    "ThreadPoolExecutor",
    "AnyIO",
    "tiled",
    "zarr_io",
)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _sockets() -> set[tuple[str, str]]:
    """Listening sockets of this process, by kind and address."""
    return {
        (str(c.type), str(c.laddr))
        for c in psutil.Process().net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }


def _lasts(name: str) -> bool:
    # Those of aiosqlite end with their connections; see filterwarnings in pyproject.toml.
    return name.startswith(LASTING_THREADS) or "(_connection_worker_thread)" in name


def _threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if not _lasts(t.name)}


def _children() -> set[psutil.Process]:
    # Python's resource tracker serves the interpreter, not a test.
    return {
        child
        for child in psutil.Process().children(recursive=True)
        if child.status() != psutil.STATUS_ZOMBIE and not _is_tracker(child)
    }


def _is_tracker(process: psutil.Process) -> bool:
    try:
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.Error:
        return True


@pytest.fixture(autouse=True)
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that logs an ERROR or leaves a process, a thread or a listening socket.

    ``@pytest.mark.logs_errors`` says that errors are what the test is about.
    """
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    before = (_threads(), _children(), _sockets())
    try:
        yield
    finally:
        logging.getLogger().removeHandler(errors)
    until = time.monotonic() + PATIENCE
    while left := [
        *(f"thread {t.name}" for t in _threads() - before[0]),
        *(f"process {p.pid}" for p in _children() - before[1]),
        *(f"socket {s}" for s in _sockets() - before[2]),
    ]:
        if time.monotonic() > until:
            break
        gc.collect()  # what only garbage holds is not left behind
        threading.Event().wait(0.05)
    assert not left, f"left behind: {left}"
    if not request.node.get_closest_marker("logs_errors"):
        said = [f"{r.name}: {r.getMessage()}" for r in errors.records]
        assert not said, f"errors in the log: {said}"


@pytest.fixture
def own_runtime_directory(tmp_path, monkeypatch):
    """Have supervisors of services in a place of their own, not beside the user's."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Return what runs ``p06bs`` in this process: (status, standard output, errors)."""

    def command(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["p06bs", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return command


@pytest.fixture(scope="module")
def served():
    """Serve a sink to a single user: the sink, and the URL."""
    from p06bs.server.app import build_app
    from p06bs.server.sink.sink import Sink
    from tests.live_server import KEY, serving

    sink = Sink(500_000_000)
    with serving(build_app(sink, KEY)) as url:
        yield sink, url


@pytest.fixture
def sink(served):
    """The sink that is `served`."""
    return served[0]


@pytest.fixture(scope="module")
def live(served):
    """A stock client of what is `served` as ``/live``."""
    from tiled.client import from_uri

    from tests.live_server import KEY

    client = from_uri(served[1], api_key=KEY)
    yield client["live"]
    client.context.close()


@pytest.fixture
def http(served):
    """Tiled's API of what is `served`, with the key."""
    import httpx

    from tests.live_server import KEY

    headers = {"Authorization": f"Apikey {KEY}"}
    with httpx.Client(base_url=f"{served[1]}/api/v1", timeout=60, headers=headers) as client:
        yield client
