"""The services between publisher and consumer, as a configuration file describes them."""

import os
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.traffic import REPOSITORY, Arrivals, Child, Run, consume, publish
from p06bs.services.supervision import Supervision


@dataclass(frozen=True)
class Bus:
    """Services that run: where documents go in and out, and where they are logged."""

    folder: Path
    services: Supervision

    @property
    def inbound(self) -> str:
        """Where publishers connect to."""
        return f"ipc://{self.folder}/in"

    @property
    def outbound(self) -> str:
        """Where followers connect to."""
        return f"ipc://{self.folder}/out"

    @property
    def log(self) -> Path:
        """Directory of the document logs."""
        return self.folder / "log"

    def send(
        self,
        run: Run,
        *,
        every: float = 0.0,
        derived: bool = True,
        value: str = "",
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Arrivals:
        """Publish a run in one process and consume what is derived from it in another.

        Parameters
        ----------
        run : callable
            Makes the documents.
        every : float
            Seconds between documents; 0 is full speed.
        derived : bool
            Whether to consume the derived run, or the raw one.
        value : str
            Data key whose values are kept.
        meanwhile : callable
            What to do while the run goes on.

        Raises
        ------
        BenchmarkError
            If a process fails, or nothing comes any more.
        """
        raw = str(uuid.uuid4())
        with (
            Child(consume, self.outbound, self.log, raw, derived, value) as consumer,
            Child(publish, self.inbound, self.log, run, raw, every) as publisher,
        ):
            for child in (consumer, publisher):
                child.receive()
            publisher.go()
            meanwhile()
            began = publisher.receive()
            found: Arrivals = consumer.receive()
        for finished in self.log.iterdir():  # a run may take gigabytes
            if finished.is_file():  # the settings lie beside the runs
                finished.unlink()
        return replace(found, began=began)


BUS = """
[bus]
topology = "ipc://{folder}/topology"
inbound = "ipc://{folder}/in"
outbound = "ipc://{folder}/out"
log = "{folder}/log"
[workers]
on = "{on}"
count = {workers}
"""
PIPELINE = """
[[pipelines]]
modality = "{modality}"
inputs = {{ {inputs} }}
{size}
"""


@contextmanager
def services(
    modality: str = "",
    inputs: Mapping[str, str] | None = None,
    *,
    workers: int = 2,
    on: str = "local",
    batch_size: int | None = None,
    more: str = "",
    **values: Any,
) -> Iterator[Bus]:
    """Run services: a proxy, and a pipeline with its workers.

    Parameters
    ----------
    modality : str
        ``module:Class``; without it there is no pipeline.
    inputs : mapping
        Data key by input.
    workers : int
        Number of worker processes.
    on : str
        Where they run.
    batch_size : int, optional
        Events per batch; follows the load by default.
    more : str
        What is added to the configuration, with `values` filled in.
    """
    with tempfile.TemporaryDirectory(prefix="p06bs-bench-") as folder:
        text = BUS.format(folder=folder, workers=workers, on=on)
        if modality:
            text += PIPELINE.format(
                modality=modality,
                inputs=", ".join(f'{name} = "{key}"' for name, key in (inputs or {}).items()),
                size="" if batch_size is None else f"batch_size = {batch_size}",
            )
        file = Path(folder) / "services.toml"
        file.write_text(text + more.format(folder=folder, **values))
        with environment(), supervised(Supervision(file)) as running:
            running.wait_ready()
            yield Bus(Path(folder), running)


@contextmanager
def environment() -> Iterator[None]:
    """Let processes that are started meanwhile import this package, and use one core each."""
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(REPOSITORY), before.get("PYTHONPATH")])
    )
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def supervised(running: Supervision) -> Iterator[Supervision]:
    """Start services, and stop them in the end."""
    running.start()
    try:
        yield running
    finally:
        running.stop()
