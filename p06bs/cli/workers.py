"""``p06bs workers``: what starts the workers of pipelines."""

from pathlib import Path
from typing import Annotated

import typer

from p06bs.cli.errors import UsageError

app = typer.Typer(no_args_is_help=True, help="Look at what starts the workers of pipelines.")


@app.callback()
def _group() -> None:
    """Make `script` a word of its own, although it is the only command."""


@app.command()
def script(
    file: Annotated[Path, typer.Argument(help="configuration (TOML)")],
    service: Annotated[str, typer.Argument(help="service whose workers they are")] = "pipelines",
) -> None:
    """Print the script of the SLURM jobs in which a service's workers run; submit nothing.

    Where pipelines need different workers there is a script for each kind.
    """
    from p06bs import config
    from p06bs.services._workers import job_script
    from p06bs.services.pipelines import PipelinesDefinition, declared

    configuration = config.load(file)
    definition = config.definition(configuration, service)
    if not isinstance(definition, PipelinesDefinition):
        raise UsageError(f"service {service} has no workers")
    kinds = dict.fromkeys(declared(section).needs for section in definition.pipelines)
    listen = configuration.bus.listen
    scripts = [job_script(definition.workers, listen, needs) for needs in kinds]
    print("\n".join(scripts), end="")
