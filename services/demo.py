"""The main job on a laptop: a simulated fly map, its derived runs, and whether they are right."""

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from p06bs import Follower, Publisher, config
from p06bs.model.documents import Document, NamedDocument
from p06bs.services._heatmap import Map, show_pairs
from p06bs.services._judge import judge
from p06bs.services.up import Services, commands
from p06bs.sim import spectra
from p06bs.sim.phantom import Phantom, expected_maps


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What to simulate and where to leave the results."""

    out: Path
    once: bool = False
    phantom: Path | None = None
    seed: int = 0
    nx: int = 41
    ny: int = 41
    rate: float = 200.0
    workers: int = 2


@dataclass
class Recorder:
    """All documents by run, as a follower gets them, and a signal when runs have stopped."""

    documents: dict[str, list[NamedDocument]] = field(default_factory=dict)
    owner: dict[str, str] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    rows: Callable[[str, int], None] = lambda name, count: None

    def __call__(self, name: str, document: Document) -> None:
        with self.changed:
            run = (
                document["uid"]
                if name == "start"
                else document.get("run_start") or (self.owner[document["descriptor"]])
            )
            if name == "descriptor":
                self.owner[document["uid"]] = run
            self.documents.setdefault(run, []).append((name, document))
            self.changed.notify_all()
        if name == "event_page":
            self.rows(run, len(document["seq_num"]))

    def stopped(self, run: str) -> bool:
        found = self.documents.get(run)
        return bool(found) and found is not None and found[-1][0] == "stop"

    def derived(self, raw: str) -> dict[str, str]:
        """Return the derived runs of a raw run: modality -> uid."""
        return {
            documents[0][1]["process"]["name"]: uid
            for uid, documents in self.documents.items()
            if documents[0][1].get("original_run_uid") == raw
        }


def run(demo: Demo, console: Console) -> bool:
    """Run the demo; return whether every check held."""
    demo.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    phantom = Phantom.default() if demo.phantom is None else Phantom.load(demo.phantom)
    file = _write_configuration(demo)
    configuration = config.load(file)
    lines: list[str] = []

    def say(service: str, line: str) -> None:
        lines.append(f"{service}: {line}")
        if not demo.once:
            console.print(Text(f"{service} {line}", style="dim"))

    services = Services(commands(configuration, file), say)
    checks: dict[str, str] = {}
    summary: dict[str, Any] = {}
    try:
        with console.status("starting proxy, server, pipelines and workers"):
            services.start()
            services.wait_ready(90)
        _where_to_look(console, configuration)
        recorder = Recorder()
        raw = _scan(demo, phantom, configuration, recorder, console)
        truth = expected_maps(phantom, demo.nx, demo.ny)
        summary = judge(raw, recorder.derived(raw), truth, configuration, demo.out, checks)
        summary["seconds"] = round(time.monotonic() - began, 2)
        if console.color_system is not None:
            _show_maps(console, summary, truth)
        if not demo.once:
            _show(console, summary, checks)
            console.print("services go on; Ctrl-C ends them")
            _until_interrupted(services)
    except (RuntimeError, TimeoutError) as error:
        last = "\n".join(lines[-15:])
        raise RuntimeError(f"{error}; the services' last words:\n{last}") from error
    finally:
        codes = services.stop()
        (demo.out / "services.log").write_text("\n".join(lines) + "\n")
    bad = {name: code for name, code in codes.items() if code}
    checks["services stopped cleanly"] = str(bad) if bad else ""
    summary["checks"] = {name: problem or "held" for name, problem in checks.items()}
    ok = not any(checks.values())
    summary["ok"] = ok
    (demo.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    if demo.once:
        _show(console, summary, checks)
    return ok


def _write_configuration(demo: Demo) -> Path:
    """Write the services' configuration: that of sim.toml, in the output directory."""
    template = Path(__file__).with_name("sim.toml")
    content = template.read_text(encoding="utf-8")
    # Each demo has ports of its own when nobody needs to know them beforehand.
    ports = _free_ports(3) if demo.once else [5567, 5568, 8000]
    changed = {
        "tcp://127.0.0.1:5567": f"tcp://127.0.0.1:{ports[0]}",
        "tcp://127.0.0.1:5568": f"tcp://127.0.0.1:{ports[1]}",
        "port = 8000": f"port = {ports[2]}",
        '"var/log"': json.dumps(str(demo.out / "log")),
        '"var/api-key"': json.dumps(str(demo.out / "api-key")),
        "count = 2": f"count = {demo.workers}",
    }
    for old, new in changed.items():
        if old not in content:
            raise RuntimeError(f"{template} lacks {old!r}, which the demo replaces")
        content = content.replace(old, new)
    file = demo.out / "services.toml"
    file.write_text(content, encoding="utf-8")
    return file


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _where_to_look(console: Console, configuration: config.Configuration) -> None:
    server = configuration.server
    assert server is not None
    url = f"http://{server.host}:{server.port}"
    console.print(f"live tree   {url}/api/v1/metadata/live  (API key in {server.api_key_file})")
    console.print("in Python   from tiled.client import from_uri")
    console.print(
        f'            from_uri("{url}", api_key=open("{server.api_key_file}").read())["live"]'
    )
    console.print(f"documents   {configuration.bus.log}  (p06bs log ls {configuration.bus.log})")


def _scan(
    demo: Demo,
    phantom: Phantom,
    configuration: config.Configuration,
    recorder: Recorder,
    console: Console,
) -> str:
    """Run the fly map; return the raw run's uid when all derived runs have stopped."""
    from bluesky import RunEngine
    from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

    from p06bs.plans.maps import fly_map
    from p06bs.sim.beamline import Beamline
    from p06bs.sim.detectors import FluorescenceDetector
    from p06bs.sim.stage import TriggerBox

    bus = configuration.bus
    engine: Any = RunEngine({"endstation": "simulated", "sample": {"name": "phantom"}})
    beamline = Beamline(phantom, seed=demo.seed)
    data = (demo.out / "data").absolute()
    data.mkdir(exist_ok=True)
    with init_devices():
        panda = TriggerBox(beamline)
        xspress3 = FluorescenceDetector(
            beamline, panda, StaticPathProvider(UUIDFilenameProvider(), data)
        )
    wanted = {section.make().name for section in configuration.pipelines}
    points = demo.nx * demo.ny
    with (
        Publisher(bus.inbound, bus.log, run_engine=engine) as publisher,
        Follower(bus.outbound, bus.log, since=time.time()) as follower,
        _progress(console) as progress,
    ):
        tasks = {name: progress.add_task(name, total=points) for name in ["raw", *sorted(wanted)]}

        def count(run: str, rows: int) -> None:
            start = recorder.documents[run][0][1]
            progress.advance(
                tasks.get(start.get("process", {}).get("name", "raw"), tasks["raw"]), rows
            )

        recorder.rows = count
        listening = threading.Thread(target=_listen, args=(follower, recorder), name="recorder")
        listening.start()
        engine.subscribe(publisher)
        try:
            plan = fly_map([xspress3], panda, nx=demo.nx, ny=demo.ny, rate=demo.rate)
            (raw,) = engine(plan)
            with recorder.changed:
                recorder.changed.wait_for(
                    lambda: (
                        set(recorder.derived(raw)) >= wanted
                        and all(map(recorder.stopped, [raw, *recorder.derived(raw).values()]))
                    ),
                    timeout=60,
                )
        finally:
            follower.close()
            listening.join()
    return str(raw)


def _listen(follower: Follower, recorder: Recorder) -> None:
    for name, document in follower:
        recorder(name, document)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


def _show_maps(console: Console, summary: Mapping[str, Any], truth: Mapping[str, Map]) -> None:
    """Print one line's map per spectrum beside the phantom."""
    path = summary["files"].get("region_sums")
    if path is None:
        return
    pairs: dict[str, tuple[Map, Map]] = {}
    with h5py.File(path) as file:
        for name, weights in truth.items():
            line = next(line for line in spectra.LINES[name] if line in file["entry/maps"])
            pairs[line] = (file["entry/maps"][line][()], weights)
    show_pairs(console, pairs)


def _show(console: Console, summary: Mapping[str, Any], checks: Mapping[str, str]) -> None:
    for name, problem in checks.items():
        mark = "[red]fails[/]" if problem else "[green]holds[/]"
        console.print(mark, name, problem and f": {problem}", highlight=False, soft_wrap=True)
    for line, value in summary.get("correlation", {}).items():
        console.print(f"correlation of {line} with the phantom: {value:.4f}")
    for name, path in summary.get("files", {}).items():
        console.print(f"{name}: {path}", soft_wrap=True)


def _until_interrupted(services: Services) -> None:
    try:
        while True:
            services.look()
            time.sleep(0.2)
    except KeyboardInterrupt:
        pass
