"""PvaPy's HPC consumers in an environment of their own, on the loopback interface only.

PvaPy Streaming Framework, S. Veseli et al.; its documentation/streamingFramework.md shows the
set-up that is used here: a PVA server with the distributor plugin, ``pvapy-hpc-consumer`` with two
consumers that get pages in turn, and ``pvapy-hpc-collector``, which sorts what they make.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from benchmarks.traffic import REPOSITORY, BenchmarkError

ENVIRONMENT = REPOSITORY / ".venv-pvapy"
REQUIREMENTS = ("pvapy>=5.6,<6", "numpy")
SCRIPT = Path(__file__).with_name("pvapy_peer.py")
WINDOW = 200
QUEUE = 2000
SETTLE = 1.0
"""Seconds after the last page was published in which those on their way arrive."""


class UnavailableError(RuntimeError):
    """PvaPy cannot be had here; says why."""


def environment() -> Path:
    """Return the directory of PvaPy's programs, after making its environment if need be.

    Raises
    ------
    UnavailableError
        If it cannot be installed or does not run.
    """
    programs = ENVIRONMENT / "bin"
    try:
        if not (programs / "pvapy-hpc-consumer").exists():
            for command in (
                [sys.executable, "-m", "venv", str(ENVIRONMENT)],
                [str(programs / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS],
            ):
                subprocess.run(command, check=True, capture_output=True, text=True)
        check = [str(programs / "python"), "-c", "import pvaccess, pvapy.hpc, numpy"]
        subprocess.run(check, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:]
        raise UnavailableError(f"{' '.join(error.cmd[:4])} failed: {' '.join(last)}") from None
    except OSError as error:
        raise UnavailableError(str(error)) from None
    return programs


class Peer:
    """PvaPy with two consumers, with or without the collector that sorts.

    Parameters
    ----------
    programs : Path
        See `environment`.
    collector : bool
        Whether pages are put in order.
    """

    def __init__(self, programs: Path, *, collector: bool) -> None:
        self.programs = programs
        self.collector = collector

    def rate(self, seconds: float) -> float:
        """Return derived pages per second that arrive in a consumer process.

        The publisher stays at most `WINDOW` pages ahead of the consumer, because
        PvaPy drops what a queue does not take: the rate is that of lossless delivery.

        Raises
        ------
        BenchmarkError
            If nothing comes, or pages are lost nevertheless.
        """
        with tempfile.TemporaryDirectory(prefix="p06bs-bench-") as folder:
            progress = Path(folder) / "progress"
            progress.write_bytes(bytes(8))
            began, ended, arrivals = self._run(progress, seconds)
        first, begin = int(began[0]), float(began[1])
        last, end = int(ended[0]), float(ended[1])
        counted = {n: t for n, t in arrivals if n >= first and t <= end + SETTLE}
        # the collector keeps some pages until more come
        if len(counted) < last - first + 1 - WINDOW:
            raise BenchmarkError(f"PvaPy delivered {len(counted)} of {last - first + 1} pages")
        return len(counted) / (max(counted.values()) - begin)

    def _run(
        self, progress: Path, seconds: float
    ) -> tuple[list[str], list[str], list[tuple[int, float]]]:
        python, script = str(self.programs / "python"), str(SCRIPT)
        common = ["--progress", str(progress)]
        derived = "p06bs:sorted" if self.collector else "p06bs:derived:1,p06bs:derived:2"
        window = ["--seconds", str(seconds), "--window", str(WINDOW)]
        with ExitStack() as stack:

            def start(*command: str) -> "subprocess.Popen[str]":
                return stack.enter_context(_process(command, port))

            port = _free_port()
            publisher = start(python, script, "publish", *common, *window)
            _line(publisher, "ready")
            start(*self._consumer())
            if self.collector:
                start(*self._collector())
            channels = ["--channels", derived, "--queue", str(QUEUE)]
            consumer = start(python, script, "consume", *common, *channels)
            began = _line(publisher, "began")
            ended = _line(publisher, "ended")
            _line(consumer, "ready")
            _say(consumer)
            arrivals = [
                (int(number), float(when))
                for number, when in (line.split() for line in _until(consumer, "end"))
            ]
            _say(publisher)
        return began, ended, arrivals

    def _consumer(self) -> list[str]:
        return [
            str(self.programs / "pvapy-hpc-consumer"),
            *("--input-channel", "p06bs:raw", "--output-channel", "p06bs:derived:*"),
            *("--processor-file", str(SCRIPT), "--processor-class", "Normalise"),
            *("--oid-field", "uniqueId", "--n-consumers", "2"),
            *("--distributor-updates", "1", "--distributor-trigger", "uniqueId"),
            *("--server-queue-size", str(QUEUE), "--disable-curses"),
        ]

    def _collector(self) -> list[str]:
        return [
            str(self.programs / "pvapy-hpc-collector"),
            *("--input-channel", "p06bs:derived:*", "--output-channel", "p06bs:sorted"),
            *("--producer-id-list", "1,2", "--collector-id", "1", "--oid-field", "uniqueId"),
            *("--processor-class", "pvapy.hpc.userDataProcessor.UserDataProcessor"),
            *("--server-queue-size", str(QUEUE), "--receiver-queue-size", "1000"),
            *("--collector-cache-size", "40", "--disable-curses"),
        ]


@contextmanager
def _process(command: tuple[str, ...], port: int) -> "Iterator[subprocess.Popen[str]]":
    """Run a program of PvaPy's that sees this machine only, and end it with its children."""
    loopback = {
        "EPICS_PVA_ADDR_LIST": "127.0.0.1",
        "EPICS_PVA_AUTO_ADDR_LIST": "NO",
        "EPICS_PVA_BROADCAST_PORT": str(port),
        "EPICS_PVAS_INTF_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_BEACON_ADDR_LIST": "127.0.0.1",
        "EPICS_PVAS_AUTO_BEACON_ADDR_LIST": "NO",
        "EPICS_PVAS_BROADCAST_PORT": str(port),
    }
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | loopback,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its consumers are children of its own
        process.communicate()


def _line(process: "subprocess.Popen[str]", word: str) -> list[str]:
    """Return what follows `word` in the line that begins with it."""
    for line in _output(process):
        first, *rest = line.split()
        if first == word:
            return rest
    raise BenchmarkError(f"PvaPy's process {process.pid} ended before it said {word!r}")


def _until(process: "subprocess.Popen[str]", word: str) -> Iterator[str]:
    for line in _output(process):
        if line.strip() == word:
            return
        yield line


def _output(process: "subprocess.Popen[str]") -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def _say(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
        return port
