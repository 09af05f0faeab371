"""The main job on a laptop: a simulated fly map, its derived runs, and whether they are right."""

import json
import shlex
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
from rich.console import Console
from rich.text import Text

from p06bs import config
from p06bs.callbacks._spectra import channels_between
from p06bs.callbacks.region_sums import RegionSums
from p06bs.services._heatmap import Map, show_pairs
from p06bs.services._judge import judge
from p06bs.services._scan import StoppedError, scan
from p06bs.services._truth import Truth
from p06bs.services.supervision import Supervision
from p06bs.sim import spectra
from p06bs.sim.beamline import Beamline
from p06bs.sim.lines import FAST
from p06bs.sim.metrology import AXES
from p06bs.sim.phantom import Phantom


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


def run(demo: Demo, console: Console, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Run the demo; return whether every check held.

    Once `stopping` is true it ends: what it started is stopped in any case.

    Raises
    ------
    StoppedError
        If it was stopped before the results were there.
    PhantomError
        If the phantom cannot be used.
    RuntimeError
        If a service or the scan failed.
    """
    phantom = Phantom.default() if demo.phantom is None else Phantom.load(demo.phantom)
    beamline = Beamline(phantom, seed=demo.seed, emission=FAST)
    demo.out.mkdir(parents=True, exist_ok=True)
    report = demo.out / "summary.json"
    report.unlink(missing_ok=True)  # an earlier demo's must not be taken for this one's
    began = time.monotonic()
    file = _write_configuration(demo, beamline)
    configuration = config.load(file)
    services = Supervision(file, demo.out / "services")
    lines = services.lines()

    def say() -> None:
        for service, line in lines:
            if not demo.once:
                console.print(Text(f"{service} {line}", style="dim"))

    checks: dict[str, str] = {}
    summary: dict[str, Any] = {}
    try:
        with console.status("starting proxy, server, pipelines and workers"):
            services.start()
            if not services.wait_ready(stopping):
                raise StoppedError
        say()
        _where_to_look(console, configuration)
        raw, recorder = scan(
            beamline,
            configuration.bus,
            demo.out / "data",
            {section.make().name for section in configuration.pipelines},
            console,
            stopping,
            **{"nx": demo.nx, "ny": demo.ny, "rate": demo.rate},
        )
        truth = Truth(beamline, demo.nx, demo.ny, demo.rate, _regions(configuration))
        summary = judge(raw, recorder, truth, configuration, demo.out, checks)
        summary["seconds"] = round(time.monotonic() - began, 2)
        if console.color_system is not None:
            _show_maps(console, summary, truth.maps)
        if not demo.once:
            _show(console, summary, checks)
            console.print("services go on; Ctrl-C ends them")
            while not stopping():
                say()
                time.sleep(0.2)
    except RuntimeError as error:
        raise RuntimeError(f"{error}; see {services.logs}") from error
    finally:
        codes = services.stop()
    bad = {name: code for name, code in codes.items() if code}
    checks["services stopped cleanly"] = str(bad) if bad else ""
    summary["checks"] = {name: problem or "held" for name, problem in checks.items()}
    ok = not any(checks.values())
    summary["ok"] = ok
    report.write_text(json.dumps(summary, indent=2) + "\n")
    if demo.once:
        _show(console, summary, checks)
    return ok


def _write_configuration(demo: Demo, beamline: Beamline) -> Path:
    """Write the services' configuration: that of sim.toml, in the output directory."""
    template = Path(__file__).with_name("sim.toml")
    content = template.read_text(encoding="utf-8")
    # Each demo has ports of its own when nobody needs to know them beforehand.
    ports = _free_ports(5) if demo.once else [5567, 5568, 8000, 5569, 5590]
    changed = {
        "tcp://127.0.0.1:5567": f"tcp://127.0.0.1:{ports[0]}",
        "tcp://127.0.0.1:5568": f"tcp://127.0.0.1:{ports[1]}",
        "tcp://127.0.0.1:5569": f"tcp://127.0.0.1:{ports[3]}",
        "port = 8000": f"port = {ports[2]}",
        "tcp://127.0.0.1:5590": f"tcp://127.0.0.1:{ports[4]}",
        '"var/log"': _toml(demo.out / "log"),
        '"var/api-key"': _toml(demo.out / "api-key"),
        '"var/data"': _toml(demo.out / "data"),
        "sqlite:///var/archive": f"sqlite:///{demo.out / 'archive'}",
        '"var/archive/runs"': _toml(demo.out / "archive" / "runs"),
        "min = 1\nmax = 4": f"count = {demo.workers}",
        **{_origin(Beamline(), axis): _origin(beamline, axis) for axis in AXES},
    }
    for old, new in changed.items():
        if old not in content:
            raise RuntimeError(f"{template} lacks {old!r}, which the demo replaces")
        content = content.replace(old, new)
    file = demo.out / "services.toml"
    file.write_text(content, encoding="utf-8")
    return file


def _regions(configuration: config.Configuration) -> dict[str, tuple[int, int]]:
    """Return the channels (start, stop) of each region, as `Truth` takes them."""
    modalities = [section.make() for section in configuration.pipelines]
    settings: Any = next(each.settings for each in modalities if isinstance(each, RegionSums))
    return {
        line: channels_between(line, region, settings.calibration, spectra.CHANNELS)
        for line, region in settings.regions.items()
    }


def _origin(beamline: Beamline, axis: str) -> str:
    """Return the setting that says which word an encoder has at position 0."""
    return f"origin = {beamline.metrology.origin(axis):.0f}"


def _toml(path: Path) -> str:
    """Return a path as a TOML string."""
    return json.dumps(str(path), ensure_ascii=False)


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
    for line in (
        f"browser     {url}/ui  (API key in {server.api_key_file})",
        "in Python   from tiled.client import from_uri",
        f'            from_uri("{url}", api_key=open("{server.api_key_file}").read())["live"]',
        f"documents   p06bs log ls {shlex.quote(str(configuration.bus.log))}",
    ):
        console.print(line, soft_wrap=True, markup=False)


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
