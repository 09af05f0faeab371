"""A trial: services, scans, faults by a schedule, and the verdict."""

import json
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from p06bs import Follower
from p06bs.bus.control import RefusedError, ask
from p06bs.bus.log import DocumentLog
from p06bs.bus.membership import Membership
from p06bs.bus.reader import LogError
from p06bs.model.documents import is_derived, worked_on
from p06bs.services.supervision import Supervision
from tests.chaos.faults import POOLS, Faults, MissedError, small_disk
from tests.chaos.schedule import FAULTS, WORKING, Step, schedule
from tests.chaos.verdict import EXPECTED

REPOSITORY = Path(__file__).parents[2]

CONFIGURATION = """
[bus]
inbound = "tcp://127.0.0.1:{inbound}"
outbound = "tcp://127.0.0.1:{outbound}"
topology = "tcp://127.0.0.1:{topology}"
log = "{folder}/disk/log"

[server]
port = {server}
budget = "256MB"
api_key_file = "{folder}/key"
assets = ["{folder}/data"]

[server.archive]
database = "sqlite:///{folder}/archive.db"
storage = "{folder}/archive"

[workers]
min = 1
max = 2

[[pipelines]]
modality = "tests.techniques:Scale"
inputs = {{ x = "x" }}
[[pipelines]]
modality = "tests.techniques:Total"
inputs = {{ x = "x" }}
batch_size = 7
[[pipelines]]
modality = "tests.techniques:Histogram"
inputs = {{ x = "x" }}
[[pipelines]]
modality = "tests.techniques:Deadly"
inputs = {{ x = "x" }}
settings = {{ seconds = 0.015 }}
[[pipelines]]
modality = "counters"

[services.frames]
kind = "pipelines"
replicas = 2
workers = {{ min = 0, max = 2 }}
[[services.frames.pipelines]]
modality = "tests.techniques:Brightness"
inputs = {{ frame = "det", monitor = "x" }}
[[services.frames.pipelines]]
modality = "tests.chaos.techniques:ImageSum"
inputs = {{ frame = "det" }}
[[services.frames.pipelines]]
modality = "region_sums"
settings.regions = {{ Fe_K = [518, 558], Cu_K = [1665, 1735] }}
[[services.frames.pipelines]]
modality = "tests.chains:Position"
inputs = {{ coarse = "scale/primary/y", fine = "total/primary/total" }}
wait = 300.0
"""

Name = tuple[str, str]
"""What a document is, and its uid, or those of its events."""

HANG = 120.0
"""Seconds without any progress after which it is a hang."""
MISS = 60.0
"""Seconds that a step waits for what it is to hit."""
WORK = 5.0
"""Seconds that a step waits until what it is to hit has something to do."""
LOGS_MIB = 384
SAMPLE = 24
"""How many runs the server is asked for."""


class HangError(Exception):
    """Nothing goes on any more; says what."""


@dataclass
class Report:
    """What was done, and what came of it."""

    seed: int
    faults: int
    done: Counter[str] = field(default_factory=Counter)
    at_work: int = 0
    missed: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    skipped: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def kills_at_work(self) -> int:
        """How many kills of workers and pipelines have to find batches leased."""
        return min(10, self.faults // 20)

    def judge(self) -> None:
        """Add what was not hit as it should be."""
        for kind, target in FAULTS:
            missing = not self.done[f"{kind} {target}"]
            if missing and not (self.skipped and kind == "fill") and self.faults >= len(FAULTS):
                self.problems.append(f"never hit: {kind} {target}")
        if self.at_work < self.kills_at_work:
            self.problems.append(
                f"{self.at_work} kills while batches were leased, {self.kills_at_work} are wanted"
            )


class Watchdog:
    """Say when something that should change has not changed for too long."""

    def __init__(self, seconds: float = HANG) -> None:
        self._seconds = seconds
        self._seen: Any = None
        self._since: float | None = None

    def look(self, state: Any, now: float) -> None:
        """Take the state as it is now.

        Raises
        ------
        HangError
            If it has been so for too long.
        """
        if self._since is None or state != self._seen:
            self._seen, self._since = state, now
        elif now - self._since > self._seconds:
            raise HangError(f"nothing has changed for {self._seconds:g} s: {state}")


class Logs:
    """What is in the directory of logs: which runs, and how far they are."""

    def __init__(self, directory: Path) -> None:
        self._log = DocumentLog(directory)
        self._starts: dict[str, dict[str, Any]] = {}
        self._ended: set[str] = set()

    def sizes(self) -> tuple[int, int]:
        """Return the bytes of all raw and of all derived runs."""
        raw = derived = 0
        for found in self._log.found():
            start = self._start(found.run)
            if start is None:
                continue
            if is_derived(start):
                derived += found.nbytes
            else:
                raw += found.nbytes
        return raw, derived

    def unfinished(self) -> list[str]:
        """Return what is not there or has not ended, of all that should be."""
        left = []
        made = set()
        uids = self._log.runs()
        for uid in uids:
            start = self._start(uid)
            if start is None or not self._has_ended(uid):
                left.append(uid)
            elif is_derived(start) and not start["process"]["reprocessing"]:
                made.add((worked_on(start), start["process"]["name"]))
        for uid in uids:
            start = self._start(uid)
            if start is not None and not is_derived(start):
                names = EXPECTED[start["plan_name"]]
                left += [f"{name} of {uid}" for name in names if (uid, name) not in made]
        return left

    def _start(self, uid: str) -> dict[str, Any] | None:
        if uid not in self._starts:
            with suppress(LogError, OSError):
                first, _ = self._log.ends(uid)
                if first is not None:
                    self._starts[uid] = first.document
        return self._starts.get(uid)

    def _has_ended(self, uid: str) -> bool:
        if uid not in self._ended:
            with suppress(LogError, OSError):
                _, last = self._log.ends(uid)
                if last is not None and last.name == "stop":
                    self._ended.add(uid)
        return uid in self._ended


class Followed:
    """Which documents a follower gets, by run, as it gets them."""

    def __init__(self, follower: Follower) -> None:
        self.runs: defaultdict[str, list[Name]] = defaultdict(list)
        self._follower = follower
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="followed")

    def __enter__(self) -> "Followed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._follower.close()

    def _follow(self) -> None:
        while not self._closing.is_set():
            for entry in self._follower.entries(0.2):
                self.runs[entry.run].append(_name(entry.name, entry.document))


class Trial:
    """Services that are hit while scans run.

    Parameters
    ----------
    folder : Path
        For everything; kept.
    seed, faults, gap
        See `schedule`.
    progress : callable
        Told how many faults were done, and what was done last.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        faults: int,
        gap: float,
        progress: Callable[[int, str], None] = lambda number, text: None,
    ) -> None:
        self.folder = folder
        self.report = Report(seed, faults)
        self._gap = gap
        self._progress = progress
        self._began = time.monotonic()

    def run(self) -> Report:
        """Do it all; what is wrong is in the report."""
        disk = self.folder / "disk"
        for made in (disk, self.folder / "data"):
            made.mkdir(parents=True)
        with small_disk(disk, LOGS_MIB) as refused:
            self.report.skipped = refused
            (disk / "log").mkdir()
            try:
                self._run()
            finally:
                if not refused:
                    shutil.copytree(disk / "log", self.folder / "log")
        return self.report

    def _run(self) -> None:
        names = ("inbound", "outbound", "topology", "server")
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        file = self.folder / "services.toml"
        file.write_text(CONFIGURATION.format(folder=self.folder, **ports))
        self._services = Supervision(file, self.folder / "services")
        self._services.start()
        self._logs = Logs(self._services.configuration.bus.log)
        taken = {"proxy": ports["inbound"], **{n: ports[n] for n in ("topology", "server")}}
        self._faults = Faults(self._services, self.folder / "disk", taken)
        bus = self._services.configuration.bus
        try:
            self._services.wait_ready()
            self._lap("ready")
            followed = Followed(Follower(bus.outbound, bus.log))
            with Membership(bus.topology) as peers, followed, self._scans(bus) as scans:
                self._scanning = scans
                self._peers = peers
                try:
                    self._disturb()
                    self._lap("faults")
                    self._finish(scans)
                    self._lap("end")
                    self._compare_follower(followed)
                    self._compare_server(ports["server"])
                    self._lap("server")
                except HangError as error:
                    self.report.problems.append(f"hang: {error}")
                    self._dump()
        finally:
            self._faults.undo()
            codes = self._services.stop()
        self.report.problems += [f"{n} ended with status {c}" for n, c in codes.items() if c]
        self._judge(bus.log)
        self._lap("verdict")

    @contextmanager
    def _scans(self, bus: Any) -> Iterator[subprocess.Popen[str]]:
        """Run the process that scans."""
        arguments = [self.folder / "data", bus.inbound, bus.log, self.report.seed]
        with (self.folder / "scans.log").open("w") as output:
            scans = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.scans", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=REPOSITORY,
            )
        try:
            yield scans
        finally:
            scans.kill()
            scans.communicate()

    def _disturb(self) -> None:
        """Do what the schedule says, one step after the other."""
        without = {"fill"} if self.report.skipped else ()
        steps = schedule(self.report.seed, self.report.faults, self._gap, without)
        (self.folder / "steps.txt").write_text("".join(f"{step}\n" for step in steps))
        self._watchdogs = {"scans": Watchdog(), "derived runs": Watchdog()}
        self._wait(lambda: self._logs.sizes()[1] > 0)  # there is something to disturb
        done = 0
        with (self.folder / "done.log").open("w", buffering=1) as journal:
            for step in steps:
                self._pass(step.after)
                said = self._step(step)
                journal.write(f"{time.time():.2f} {step} {said}\n")
                if step.fault in FAULTS:
                    done += 1
                    self._progress(done, f"{step.kind} {step.target}")
        self._faults.undo()

    def _step(self, step: Step) -> str:
        if step.kind == "change":
            return self._change(step)
        if step.kind in ("pause", "suspend"):
            self._tell(f"{step.kind} {step.seconds}")
            return ""
        began = time.monotonic()
        while True:
            at_work = step.kind == "kill" and self._at_work(step)
            waited = time.monotonic() - began
            if step.at_work and not at_work and waited < WORK:
                self._pass(0.1)
                continue
            try:
                said = self._faults.do(step)
            except (MissedError, psutil.NoSuchProcess) as error:
                if waited > MISS:
                    self.report.missed[f"{step.kind} {step.target}"] += 1
                    return f"missed: {error}"
                self._pass(0.1)
            else:
                self.report.done[f"{step.kind} {step.target}"] += 1
                self.report.at_work += at_work
                return said

    def _at_work(self, step: Step) -> bool:
        """Return whether batches are leased to workers that a kill concerns."""
        if step.target not in WORKING:
            return False
        with suppress(MissedError, psutil.Error):
            pool = self._faults.pool(step)
            return bool(pool and self._queued(pool))
        return False

    def _queued(self, pool: str) -> float:
        """Return how many events wait for workers, or are with them, while there are some."""
        text = self._ask(pool, "metrics", 2.0)
        if not isinstance(text, str):
            return 0.0
        workers, queued = (
            sum(map(float, re.findall(rf"^p06bs_{name}{{.*}} (\S+)$", text, re.M)))
            for name in ("workers", "pipeline_queued_events")
        )
        return queued if workers else 0.0

    def _change(self, step: Step) -> str:
        arguments = {"of": step.target, "values": step.values, "reprocess": step.reprocess}
        answer = self._ask(step.target, "change", 2.0, by="chaos", **arguments)
        kind = "taken" if isinstance(answer, dict) else type(answer).__name__
        self.report.changes[kind] += 1
        return kind if isinstance(answer, dict) else f"{kind}: {answer}"

    def _ask(self, service: str, verb: str, seconds: float, **arguments: Any) -> Any:
        """Return what a service answers, or the error."""
        found = next(
            (one for one in self._peers.services if service in (one.name, *one.offers)), None
        )
        if found is None:
            return LookupError(f"{service} is not registered")
        try:
            return ask(found.addresses["control"], verb, seconds=seconds, **arguments)
        except (RefusedError, TimeoutError) as error:
            return error

    def _tell(self, words: str) -> None:
        assert self._scanning.stdin is not None
        self._scanning.stdin.write(f"{words}\n")
        self._scanning.stdin.flush()

    def _pass(self, seconds: float) -> None:
        """Let time pass, undo what is over, and look whether everything goes on."""
        until = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            self._faults.undo(now)
            if self._scanning.poll() is not None:
                raise HangError(f"the scans ended with status {self._scanning.returncode}")
            raw, derived = self._logs.sizes()
            self._watchdogs["scans"].look(("raw bytes", raw), now)
            self._watchdogs["derived runs"].look(("derived bytes", derived), now)
            if now >= until:
                return
            time.sleep(min(0.1, until - now))

    def _wait(self, there: Callable[[], bool]) -> None:
        while not there():
            self._pass(0.1)

    def _finish(self, scans: subprocess.Popen[str]) -> None:
        """End the scans, and wait for all that is to come."""
        self._tell("finish")
        watchdog = Watchdog()
        while scans.poll() is None:
            watchdog.look(("raw bytes", self._logs.sizes()[0]), time.monotonic())
            time.sleep(0.1)
        if scans.returncode:
            raise HangError(f"the scans ended with status {scans.returncode}")
        watchdog = Watchdog()
        while left := self._logs.unfinished():
            self._progress(self.report.faults, f"{len(left)} runs go on")
            watchdog.look((self._logs.sizes(), left), time.monotonic())
            time.sleep(0.2)

    def _compare_follower(self, followed: Followed) -> None:
        """See that a follower got what is in the logs, each document once and in order."""
        logged = self._logged()
        until = time.monotonic() + HANG
        while followed.runs != logged and time.monotonic() < until:
            time.sleep(0.1)
        self.report.problems += [
            f"a follower got {len(followed.runs[uid])} documents of {uid}, or others than the "
            f"{len(names)} that were logged"
            for uid, names in logged.items()
            if followed.runs[uid] != names
        ]

    def _logged(self) -> dict[str, list[Name]]:
        """Return the names of all documents, by run."""
        with DocumentLog(self._services.configuration.bus.log) as log:
            return {uid: [_name(*document) for document in log.read(uid)] for uid in log.runs()}

    def _compare_server(self, port: int) -> None:
        """See that the server has some of the runs whole, with a client of its own."""
        from p06bs.recorded import RunError
        from p06bs.remote import Server

        key = (self.folder / "key").read_text().strip()
        until = time.monotonic() + HANG
        logged = self._logged()
        chosen = random.Random(self.report.seed).sample(sorted(logged), min(SAMPLE, len(logged)))
        waiting = {uid: logged[uid] for uid in chosen}
        why: dict[str, str] = {}
        while waiting and time.monotonic() < until:
            with suppress(RunError, OSError), Server(f"http://127.0.0.1:{port}", key) as server:
                for uid, logged in list(waiting.items()):
                    try:
                        server.find(uid)
                        got = [_name(*document) for document in server.documents(uid)]
                    except RunError as error:
                        why[uid] = str(error)
                        continue
                    if _counted(got) == _counted(logged):
                        del waiting[uid]
                    else:
                        why[uid] = f"{_counted(got)}, not {_counted(logged)}"
            time.sleep(0.5)
        self.report.problems += [
            f"the server lacks of {uid}: {why.get(uid, 'nobody answers')}" for uid in waiting
        ]

    def _judge(self, logs: Path) -> None:
        """Compare with the reference, in a fresh process."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.verdict", str(logs)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            found = json.loads(done.stdout)
        except ValueError:
            self.report.problems.append(f"no verdict: {done.stderr[-2000:]}")
        else:
            self.report.counts = found["counts"]
            self.report.problems += found["problems"]
        self.report.judge()

    def _dump(self) -> None:
        """Write down how things are, for who looks for the cause of a hang."""
        with (self.folder / "hang.txt").open("w") as output:
            for name, status in self._services.statuses().items():
                output.write(f"{status}\n")
                for verb in ("describe", "health", "metrics", "settings"):
                    if verb != "settings" or name in POOLS:
                        output.write(f"{name} {verb}: {self._ask(name, verb, 3.0)}\n")
                output.write("\n".join(status.log.read_text().splitlines()[-40:]) + "\n\n")
            output.write(f"unfinished: {self._logs.unfinished()}\n")
            output.write((self.folder / "scans.log").read_text()[-4000:])

    def _lap(self, what: str) -> None:
        now = time.monotonic()
        self.report.seconds[what] = round(now - self._began, 1)
        self._began = now


def _name(name: str, document: dict[str, Any]) -> Name:
    uid = document["uid"]
    return name, uid if isinstance(uid, str) else ",".join(uid)


def _counted(names: list[Name]) -> dict[str, int]:
    """Return how many documents of each kind there are, events by their number."""
    found: Counter[str] = Counter()
    for name, uid in names:
        events = uid.count(",") + 1 if name in ("event", "event_page") else 0
        found["events" if events else name] += events or 1
    return dict(found)


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
