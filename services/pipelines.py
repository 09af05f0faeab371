"""The pipelines of one process: ``python -m p06bs.services.pipelines CONFIG.toml``."""

import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from p06bs import config
from p06bs.pipeline import collector
from p06bs.pipeline.declared import Pipeline
from p06bs.pipeline.pipeline import Pipelines
from p06bs.services.up import REFUSED


def make(configuration: config.Configuration) -> Pipelines:
    """Return the pipelines that a configuration describes.

    Raises
    ------
    ConfigurationError
        If a modality is unknown or refuses its settings.
    """
    pipelines = [
        Pipeline(modality=section.make(), batch_size=section.batch_size, name=section.name)
        for section in configuration.pipelines
    ]
    bus, workers = configuration.bus, configuration.workers
    return Pipelines(
        bus.inbound,
        bus.outbound,
        bus.log,
        pipelines,
        workers=workers.limits,
        on=workers.on,
        deadline=workers.deadline,
    )


def main(file: Annotated[Path, typer.Argument(help="configuration (TOML)")]) -> None:
    """Compute derived runs of all raw runs until SIGTERM or SIGINT."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("distributed").setLevel(logging.WARNING)
    try:
        pipelines = make(config.load(file))
    except (config.ConfigurationError, ValueError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(REFUSED) from error
    except OSError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: pipelines.stop())
    names = ", ".join(p.name for p in pipelines.pipelines)

    def ready() -> None:
        collector.calm()
        print(f"pipelines ready: {names}", flush=True)

    collector.calm()  # a restart reads what it missed before the workers are there
    try:
        pipelines.run(ready)
    except RuntimeError as error:
        cause = error.__cause__
        print(f"{error}: {type(cause).__name__}: {cause}", file=sys.stderr)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
