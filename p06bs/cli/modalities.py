"""``p06bs check``, ``p06bs modalities`` and ``p06bs schema``: what can be configured."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.markup import escape

from p06bs.cli.terminal import AsJson, console, print_json


def complete_modality(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the installed modalities whose names begin like this, and their classes."""
    from p06bs import config

    yield from (found for found in config.modalities().items() if found[0].startswith(incomplete))


SettingPairs = Annotated[list[str], typer.Option(help="key=value, repeatable; values are JSON")]
InputPairs = Annotated[list[str], typer.Option(help="input=data_key, repeatable")]


def check(
    name: Annotated[
        str,
        typer.Argument(
            help="name of a modality, or module:Class", autocompletion=complete_modality
        ),
    ],
    settings: SettingPairs = [],
    as_json: AsJson = False,
) -> None:
    """Test whether a modality keeps what the framework relies on."""
    from p06bs import config
    from p06bs.model.conformance import Finding, made_up_columns
    from p06bs.model.conformance import check as conformance

    found = config.find_modality(name)
    example = None if settings else found.example()
    if example is None:
        modality = config.make_modality(name, config.parse_settings(settings))
        columns = made_up_columns(modality)
    else:
        modality, columns = example[0], dict(example[1])
    findings = list(conformance(modality, columns))
    path = f"{found.__module__}:{found.__qualname__}"
    findings.append(Finding("importable in a fresh process", _import_problem(found.__module__)))
    if as_json:
        print_json({"modality": path, "findings": {f.checked: f.problem for f in findings}})
    else:
        for finding in findings:
            mark = "[red]fails[/]" if finding.problem else "[green]ok[/]"
            console.print(
                f"{mark:>6} {finding.checked}", finding.problem and f": {escape(finding.problem)}"
            )
    if any(finding.problem for finding in findings):
        raise typer.Exit(1)


def _import_problem(module: str) -> str:
    """Return why a fresh process cannot import a module; "" if it can."""
    code = f"import importlib; importlib.import_module({module!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def modalities(as_json: AsJson = False) -> None:
    """List the installed modalities."""
    from p06bs import config

    found = config.modalities()
    if as_json:
        print_json(found)
        return
    for name, path in found.items():
        console.print(f"[bold]{name}[/]  {path}")


def schema() -> None:
    """Print the JSON schema of a configuration file."""
    from p06bs import config

    print_json(config.schema(), indent=2)
