"""What a reader of a page has that the page does not show, so that its code can be run.

Each context is a function of the page: it prepares the working directory and
yields the names that the page's code takes as given, and what is written
otherwise in a test: addresses, and the uid that a reader looks up. What follows
its ``yield`` looks at what the code has made.
"""

import asyncio
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from p06bs import DocumentLog, Input, Modality, Output, Publisher, process
from p06bs.callbacks.xrf import Fluorescence, RegionSums
from p06bs.model.conformance import check, made_up_columns
from tests.chains import Encoder, Interferometer, Position
from tests.documents import raw_run

Names = dict[str, Any]
Given = tuple[Names, dict[str, str]]
OUTBOUND = "ipc://out"  # nobody is there


def record(directory: str, key: str) -> tuple[str, str]:
    """Log a raw map of 12 spectra and its derived run; return their uids."""
    counts = np.random.default_rng(1).poisson(5.0, (12, 1024))
    raster = {"shape": [3, 4], "extents": [[0, 1], [0, 1]], "snaking": [False, True]}
    raw = raw_run({key: counts}, page=5, plan_name="fly_map", scan_id=1, **raster)
    derived = process(RegionSums(regions={"Fe_K": (620, 660)}, inputs={"spectrum": key}), raw)
    with DocumentLog(directory) as log:
        for name, document in [*raw, *derived]:
            log.append(name, document)
    return raw[0][1]["uid"], derived[0][1]["uid"]


@contextmanager
def served(directory: str, key_file: str) -> Iterator[str]:
    """Serve what is logged; yield the server's address when both runs are in its tree."""
    service = [sys.executable, "-m", "p06bs.services.server", "--log", directory, "--port", "0"]
    options = ["--address", OUTBOUND, "--api-key-file", key_file]
    with subprocess.Popen([*service, *options], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split("ready: ")[1].split()[0]
            from tiled.client import from_uri

            runs = from_uri(url, api_key=Path(key_file).read_text().strip())["live"]
            while not all("stop" in r.metadata for r in runs.values()) or len(runs) < 2:
                threading.Event().wait(0.1)
            yield url
        finally:
            server.terminate()


def endstation() -> Names:
    """Return a RunEngine and what is usually imported beside it."""
    from bluesky import RunEngine
    from bluesky.plans import scan
    from ophyd.sim import det1, det2, motor

    return {"RE": RunEngine(), "scan": scan, "det1": det1, "det2": det2, "motor": motor}


@contextmanager
def readme() -> Iterator[Given]:
    """A recorded run with spectra."""
    raw, _ = record("logs", "mca")
    names: Names = {"uid": raw}
    yield names, {}
    assert names["derived"][-1][1]["num_events"] == {"primary": 12}


@contextmanager
def first_scan() -> Iterator[Given]:
    """The demo has run and its server is there; two runs in var/log are looked up."""
    record("demo-out/log", "mca")
    raw, derived = record("var/log", "mca")
    names: Names = {}
    with served("demo-out/log", "demo-out/api-key") as url:
        looked_up = {'["...", "..."]': f'["{raw}", "{derived}"]'}
        yield names, {"http://127.0.0.1:8000": url, **looked_up}
    assert np.isfinite(names["iron"].values).all()


@contextmanager
def bind_inputs() -> Iterator[Given]:
    """A RunEngine, two detectors, a motor, modalities, two of which feed a third."""
    names: Names = {
        **endstation(),
        "RegionSums": RegionSums,
        "encoders": Encoder(inputs={"x": "det"}),
        "interferometers": Interferometer(inputs={"x": "det"}),
        "positions": Position(),
        "documents": raw_run({"det": np.arange(9.0)}),
    }
    yield names, {}
    assert names["derived"][-1][1]["num_events"] == {"primary": 9}


@contextmanager
def process_recorded_runs() -> Iterator[Given]:
    """The demo has run; the uid of its raw run is looked up."""
    raw, _ = record("demo-out/log", "xspress3-spectrum")
    names: Names = {"uid": raw}
    yield names, {}
    assert np.isfinite(names["iron"]).all()
    assert len(list(Path("nexus").glob("*.nxs"))) == 1


@contextmanager
def run_the_services() -> Iterator[Given]:
    """The services run, and the reader's own Python process hosts the pipelines."""
    from p06bs.pipeline.pipeline import Pipelines

    record("var/log", "mca")
    modality = RegionSums(regions={"Fe_K": (620, 660)})
    pipelines = Pipelines("ipc://in", OUTBOUND, "hosted", [modality], workers=1)
    names: Names = {**endstation(), "pipelines": pipelines}
    with served("var/log", "var/api-key") as url:
        yield names, {"http://127.0.0.1:8000": url, "tcp://127.0.0.1:5567": "ipc://in"}
    names["publisher"].close()
    pipelines.stop()
    pipelines.run()  # closes what it has opened


@contextmanager
def write_a_modality() -> Iterator[Given]:
    """Methods and attributes of classes that the page does not repeat."""
    names: Names = {"Input": Input, "Modality": Modality, "Output": Output, "np": np}
    yield names, {}
    setup = SimpleNamespace(open_beam=1.0)
    flux = np.array([2.0, 0.0])
    made = names["process"](None, setup, incident=flux, behind=np.array([1.0, 1.0]))
    assert made["absorbance"][0] == np.log(2)
    assert made["invalid"].tolist() == ["", "no counts"]
    assert names["scan"](None, None, 1.0, {"x": np.ones(2)})[0] == 3.0
    summing = names["SumSpectrum"]()
    assert not [f for f in check(summing, made_up_columns(summing)) if f.problem]


@contextmanager
def nexus() -> Iterator[Given]:
    """A recorded run, and a RunEngine with a plan."""
    names = endstation()
    names["raw"], names["derived"] = record("var/log", "mca")
    names["plan"] = lambda: names["scan"]([names["det1"]], names["motor"], -1, 1, 3)
    yield names, {}
    assert len(list(Path("nexus").glob("*.nxs"))) == 3


@contextmanager
def maps() -> Iterator[Given]:
    """Recorded runs of a scan, matplotlib, and a RunEngine with a plan."""
    from matplotlib.figure import Figure

    names = endstation()
    raw, derived = record("var/log", "mca")
    names |= {"raw_uid": raw, "derived_uid": derived, "plt": Figure().subplots()}
    names["plan"] = lambda: names["scan"]([names["det1"]], names["motor"], -1, 1, 3)
    names["documents"] = raw_run({"x": np.arange(4.0)}, shape=[2, 2])
    yield names, {}
    assert np.isfinite(names["iron"].values).all()
    assert list(names["maps"]) == ["raw.x"]
    inside = names["gridded"].read()[:, 1:-1, 1:-1]
    assert np.allclose(inside[0].mean(axis=0), np.arange(1.0, 8.0), atol=0.2)
    assert np.allclose(inside[1].mean(axis=1), 3 * np.arange(1.0, 8.0), atol=0.6)


@contextmanager
def xrf() -> Iterator[Given]:
    """Both modalities are imported, and PyMca's steel.cfg is there."""
    from p06bs.sim.spectra import pymca_configuration

    Path("steel.cfg").write_text(pymca_configuration("Steel"), encoding="utf-8")
    yield {"RegionSums": RegionSums, "Fluorescence": Fluorescence}, {}


@contextmanager
def encoders() -> Iterator[Given]:
    """An HDF5 file as a PandA's clients write it; what its data port sent, framed and as text."""
    import h5py

    with h5py.File("capture.h5", "w") as file:
        for name in ("COUNTER1.OUT.Mean", "COUNTER1.OUT.Min", "COUNTER1.OUT.Max"):
            file[name] = np.arange(10.0)
        file["PCAP.GATE_DURATION.Value"] = np.full(10, 125.0)
    shutil.copy(Path(__file__).parent / "data" / "panda" / "fast_dump.bin", "dump.bin")
    samples = "".join(f" {number}\n" for number in range(10))
    Path("dump.txt").write_text(f"fields:\n COUNTER1.OUT double Mean\n\n{samples}END 10 Ok\n")
    names: Names = {}
    yield names, {}
    assert names["x"].tolist() == (0.005 * np.arange(10)).tolist()


@contextmanager
def log_format() -> Iterator[Given]:
    """A proxy, and somebody who publishes a run now and then until one was heard."""
    from bluesky.callbacks import zmq

    from p06bs.services.proxy import Proxy

    heard: list[str] = []

    class UntilStop(zmq.RemoteDispatcher):  # type: ignore[misc]  # it would listen for ever
        def process(self, name: Any, doc: Any) -> None:
            heard.append(name.name)
            if name.name == "stop":
                self._task.cancel()

    def publish() -> None:
        with Publisher(proxy.in_port, "logs") as publisher:
            while not over.wait(0.2):
                for name, document in raw_run({"x": np.arange(3.0)}):
                    publisher(name, document)

    zmq.RemoteDispatcher = UntilStop
    proxy = Proxy("tcp://127.0.0.1:*", "tcp://127.0.0.1:*")
    over = threading.Event()
    threads = [threading.Thread(target=proxy.start), threading.Thread(target=publish)]
    for thread in threads:
        thread.start()
    try:
        yield {}, {"127.0.0.1:5568": proxy.out_port.removeprefix("tcp://")}
    except asyncio.CancelledError:
        pass
    finally:
        over.set()
        threads[1].join()
        proxy.stop()
    assert "event" in heard


@contextmanager
def use_from_tango() -> Iterator[Given]:
    """A Tango database, and pipelines whose device is there."""
    import os

    from p06bs.services.supervision import Supervision
    from tests import tango_site

    os.environ["XDG_RUNTIME_DIR"] = os.path.abspath("run")
    bus = "".join(f'{name} = "ipc://{name}"\n' for name in ("inbound", "outbound", "topology"))
    file = Path("services.toml")
    file.write_text(
        f'[bus]\n{bus}log = "log"\n[services.tango]\ninterval = 0.3\n[workers]\nmin = 0\nmax = 1\n'
        '[[pipelines]]\nmodality = "xrf"\n'
        'settings = { elements = ["Fe"], incident_energy = 17.5 }\n'
    )
    names: Names = {}
    with tango_site.database() as host:
        services = Supervision(file)
        services.start()
        try:
            services.wait_ready()
            device = tango_site.device(host, "p06/bs/pipelines")
            tango_site.wait(lambda: str(device.state()) == "ON")
            yield names, {}
            # Without a value while the service is too busy to answer.
            tango_site.wait(lambda: device.read_attribute("xrf_noise").value == 0.07)
        finally:
            services.stop()


CONTEXTS: dict[str, Callable[[], AbstractContextManager[Given]]] = {
    "README.md": readme,
    "docs/tutorials/first-scan.md": first_scan,
    "docs/how-to/bind-inputs.md": bind_inputs,
    "docs/how-to/process-recorded-runs.md": process_recorded_runs,
    "docs/how-to/run-the-services.md": run_the_services,
    "docs/how-to/use-from-tango.md": use_from_tango,
    "docs/how-to/write-a-modality.md": write_a_modality,
    "docs/reference/encoders.md": encoders,
    "docs/reference/maps.md": maps,
    "docs/reference/nexus.md": nexus,
    "docs/reference/xrf.md": xrf,
    "docs/reference/log-format.md": log_format,
}
"""Pages whose code needs something. The code of all others must run as it stands."""
