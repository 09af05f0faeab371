"""The pipelines of one process, on one pool of workers."""

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import Field

from p06bs import config
from p06bs.bus.metrics import Measure
from p06bs.bus.service import Service, Surroundings
from p06bs.config import PipelineSection, Workers
from p06bs.services import _host, _workers

if TYPE_CHECKING:
    from p06bs.pipeline.declared import Pipeline


class PipelinesDefinition(config.Definition):
    """The table of one or several pipelines."""

    workers: Workers = Field(default_factory=Workers)
    pipelines: tuple[PipelineSection, ...] = Field(min_length=1, description="on one pool")


class PipelinesService(Service[PipelinesDefinition]):
    """Pipelines that follow every raw run: found by their names."""

    Definition = PipelinesDefinition

    def __init__(self, name: str, definition: PipelinesDefinition, here: Surroundings) -> None:
        from p06bs.pipeline.pipeline import Pipelines
        from p06bs.services import _dask

        super().__init__(name, definition, here)
        self._pipelines = Pipelines(
            here.inbound,
            here.outbound,
            here.log,
            [declared(section) for section in definition.pipelines],
            workers=definition.workers.limits,
            on=lambda needs: _workers.cluster(
                definition.workers,
                here.listen,
                lambda: _dask.found(here.peers, here.keys),
                needs=needs,
            ),
            deadline=definition.workers.deadline,
            keys=here.keys,
            listen=here.listen,
            worker_keys=definition.workers.keys,
        )

    @classmethod
    def check(cls, definition: PipelinesDefinition) -> None:
        """Refuse modalities that there are not, and settings that they refuse."""
        wrong: list[str] = []
        for section in definition.pipelines:
            try:
                declared(section)
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise config.ConfigurationError("; ".join(wrong))

    @property
    def offers(self) -> tuple[str, ...]:
        """Names of the pipelines."""
        return tuple(pipeline.name for pipeline in self._pipelines.pipelines)

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Queues, lags and rates of the pipelines, and the workers of their pool."""
        return self._pipelines.measures()

    @property
    def verbs(self) -> Mapping[str, Callable[..., Any]]:
        """Say what becomes of runs; show and change settings; list and keep presets."""
        return {
            "why": self._pipelines.decisions.why,
            "settings": self._pipelines.settings,
            "change": self._pipelines.change,
            "presets": self._pipelines.presets,
            "save_preset": self._pipelines.save_preset,
        }

    def run(self, ready: Callable[[], None]) -> None:
        """Compute derived runs of all raw runs until it is told to stop."""
        from p06bs.pipeline import collector

        def begin() -> None:
            collector.calm()
            ready()

        self._pipelines.works_on = self.here.peers.work_on
        collector.calm()  # a restart reads what it missed before the workers are there
        self._pipelines.run(begin)

    def stop(self) -> None:
        """Have it hand back what is not done, and end."""
        self._pipelines.stop()


def sections(definitions: Iterable[config.Definition]) -> dict[str, PipelineSection]:
    """Return the pipelines of services by their names."""
    return {
        _name_of(section): section
        for definition in definitions
        if isinstance(definition, PipelinesDefinition)
        for section in definition.pipelines
    }


def _name_of(section: PipelineSection) -> str:
    if section.name or ":" not in section.modality:
        return section.name or section.modality
    try:
        return config.find_modality(section.modality).name
    except config.ConfigurationError:  # whoever makes it says so
        return section.modality


def declared(section: PipelineSection) -> "Pipeline":
    """Return a pipeline as a section declares it.

    Raises
    ------
    ConfigurationError
        If its modality is unknown or refuses its settings.
    """
    from p06bs.pipeline.declared import Pipeline
    from p06bs.pipeline.needs import Needs

    return Pipeline(
        modality=section.make(),
        batch_size=section.batch_size,
        name=section.name,
        overload=section.overload,
        after=section.after,
        wait=section.wait,
        needs=Needs(section.environment, section.gpus, section.memory or 0),
    )


def main(file: Annotated[Path, typer.Argument(help="configuration (TOML)")]) -> None:
    """Run the service ``pipelines`` of a configuration until SIGTERM or SIGINT."""
    sys.exit(_host.run(file, "pipelines"))


if __name__ == "__main__":
    typer.run(main)
