"""A real SLURM for tests: munged, slurmctld and slurmd of one host, on loopback.

They are children of the test process, with a configuration, a key, ports and directories of
their own, and all is gone afterwards. SLURM's commands find them by `Slurm.environment`.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
SECONDS = 60.0

CONFIGURATION = """
ClusterName=p06bs
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=2
OverTimeLimit=0
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=8000 State=UNKNOWN
PartitionName=p06 Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def missing() -> list[str]:
    """Return the programs that are not on this machine."""
    return [name for name in PROGRAMS if _program(name) is None]


class Slurm:
    """A running SLURM.

    Attributes
    ----------
    folder : Path
        Of its configuration, state and logs.
    environment : dict
        What its commands need in their environment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start all of it; return when it takes jobs."""
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        ports = dict(zip(("slurmctld", "slurmd"), _free_ports(2), strict=True))
        text = CONFIGURATION.format(folder=self.folder, host=host, user=getpass.getuser(), **ports)
        (self.folder / "slurm.conf").write_text(text)
        self._start(
            "munged", "--foreground", "--force", "--num-threads=2",
            f"--key-file={key}", f"--socket={self.folder}/munge.socket",
            f"--pid-file={self.folder}/munged.pid", f"--seed-file={self.folder}/munged.seed",
            f"--log-file={self.folder}/munged.log",
        )  # fmt: skip
        _wait_for("munged", (self.folder / "munge.socket").exists)
        self.start_controller()
        self._start("slurmd", "-D", "-N", host, "-f", str(self.folder / "slurm.conf"))
        _wait_for("slurmd", lambda: "idle" in self("sinfo", "-h", "-o", "%T", check=False))

    def start_controller(self) -> None:
        """Start slurmctld; return when it answers."""
        self._start("slurmctld", "-D", "-f", str(self.folder / "slurm.conf"))
        _wait_for("slurmctld", lambda: "UP" in self("scontrol", "ping", check=False))

    def stop_controller(self) -> None:
        """End slurmctld; jobs go on."""
        self._kill("slurmctld")

    def __call__(self, program: str, *arguments: str, check: bool = True) -> str:
        """Run one of SLURM's commands; return what it prints."""
        done = subprocess.run(
            [program, *arguments],
            check=check,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
        )
        return done.stdout

    def jobs(self, state: str = "all") -> set[str]:
        """Return the numbers of the jobs in a state, like RUNNING; of all that have not ended."""
        lines = self("squeue", "-h", "-o", "%i %T").splitlines()
        found = dict(line.split() for line in lines)
        return {job for job, of in found.items() if state in ("all", of)}

    def cancel_all(self) -> None:
        """Cancel all jobs; return when they have ended."""
        while jobs := self.jobs():
            self("scancel", *jobs, check=False)
            _wait_for("the end of the jobs", lambda: not self.jobs() & jobs)

    def stop(self) -> None:
        """End all of it, and the jobs."""
        try:
            if "slurmctld" in self._running:
                self.cancel_all()
        finally:
            for name in list(self._running):
                self._kill(name)

    def _start(self, program: str, *arguments: str) -> None:
        command = _program(program)
        assert command is not None
        with (self.folder / f"{program}.out").open("ab") as out:
            self._running[program] = subprocess.Popen(
                [command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip

    def _kill(self, program: str) -> None:
        process = self._running.pop(program)
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    """Start a SLURM; it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp"))
    running = Slurm(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [bound.getsockname()[1] for bound in sockets]


def _wait_for(what: str, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"SLURM: {what} took more than {SECONDS:g} s")
        threading.Event().wait(0.1)


@pytest.fixture(scope="session")
def slurm_on_loopback() -> Iterator[Slurm]:
    """A SLURM for the session."""
    skip_without()
    with running_slurm() as running:
        yield running


def skip_without() -> None:
    """Skip a test, loudly, where SLURM is not on this machine."""
    if lacking := missing():
        pytest.skip(f"NO SLURM: {', '.join(lacking)} not on this machine (Debian: slurm-wlm)")


@pytest.fixture
def slurm(slurm_on_loopback: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """A SLURM without jobs, that this process's commands speak to."""
    for name, value in slurm_on_loopback.environment.items():
        monkeypatch.setenv(name, value)
    yield slurm_on_loopback
    slurm_on_loopback.cancel_all()
