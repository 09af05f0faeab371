"""Configuration of services: one TOML file, one model, one JSON schema.

``p06bs up FILE.toml`` starts what the file describes. `schema` is the
reference of what may stand in it.
"""

import importlib.metadata
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from p06bs.bus.curve import Keys
from p06bs.bus.sockets import EVERYWHERE, HERE, is_local
from p06bs.config.base import (
    Address,
    Bytes,
    ConfigurationError,
    Section,
    changed,
    parse_bytes,
    problems,
)
from p06bs.config.server import Server
from p06bs.config.services import (
    Definition,
    Name,
    definition,
    definitions,
    find_kind,
    kinds,
    of_this_host,
)
from p06bs.config.workers import Workers

if TYPE_CHECKING:
    from p06bs.model.modality import Modality

__all__ = [
    "Bus",
    "Configuration",
    "ConfigurationError",
    "Definition",
    "PipelineSection",
    "Server",
    "Workers",
    "changed",
    "definition",
    "definitions",
    "find_kind",
    "find_modality",
    "kinds",
    "load",
    "make_modality",
    "modalities",
    "of_this_host",
    "parse_bytes",
    "parse_settings",
    "schema",
]

MODALITIES = "p06bs.modalities"


class Bus(Section):
    """How documents travel, and where services find each other."""

    keys: Path | None = Field(  # first: the addresses depend on it
        None, description="directory of keys; see p06bs keys. Without, all is on this host"
    )
    inbound: Address = Field("tcp://127.0.0.1:5567", description="where the proxy takes documents")
    outbound: Address = Field("tcp://127.0.0.1:5568", description="where the proxy gives documents")
    log: Path = Field(Path("var/log"), description="directory of the document logs")
    topology: Address = Field(
        "tcp://127.0.0.1:5569", description="the Topology Manager, where services find each other"
    )

    def open_keys(self) -> Keys | None:
        """Return the keys of the bus; None if it is on this host alone.

        Raises
        ------
        KeysError
            If they cannot be used; says why.
        """
        return None if self.keys is None else Keys(self.keys)

    @property
    def listen(self) -> str:
        """Where services bind: a free port, for other hosts if they find the Topology Manager."""
        return HERE if is_local(self.topology) else EVERYWHERE


class PipelineSection(Section):
    """One pipeline: a modality and its settings."""

    modality: str = Field(description="name of an entry point of p06bs.modalities, or module:Class")
    name: str = Field("", description="what the pipeline is called; the modality's name by default")
    settings: dict[str, Any] = Field(default_factory=dict, description="the modality's settings")
    inputs: dict[str, str] = Field(
        default_factory=dict,
        description="input -> data key, stream/data key, or pipeline/primary/data key",
    )
    after: tuple[str, ...] = Field(
        (), description="names of pipelines whose derived runs of the same run may feed inputs"
    )
    wait: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="seconds, from the first event on, to wait for these to begin",
    )
    batch_size: int | None = Field(
        None, ge=1, description="events per batch; follows the load if absent"
    )
    overload: Literal["queue", "thin"] = Field(
        "queue",
        description='when workers cannot keep up: results come later; "thin": a preview, too',
    )
    environment: str = Field(
        "",
        description="Python environment that its workers must have; the pipelines' own if absent",
    )
    gpus: int = Field(0, ge=0, description="GPUs that a worker must have for it")
    memory: Bytes | None = Field(None, description="memory that a worker must have for it")

    def make(self) -> "Modality":
        """Return the modality that this describes."""
        return make_modality(self.modality, self.settings, self.inputs)


class Configuration(Section):
    """All services of one laptop or one beamline."""

    bus: Bus = Field(default_factory=Bus)
    topology: bool = Field(True, description="start a Topology Manager")
    proxy: bool = Field(True, description="start a proxy")
    server: Server | None = Field(None, description="start a Tiled server")
    workers: Workers = Field(default_factory=Workers)
    pipelines: tuple[PipelineSection, ...] = Field((), description="pipelines, one process for all")
    services: dict[Name, dict[str, Any]] = Field(
        default_factory=dict,
        description="further services: kind, replicas, runs_on, environment, and the kind's own",
    )


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file."""
    return Configuration.model_json_schema()


def load(path: str | Path) -> Configuration:
    """Read a configuration file.

    Raises
    ------
    ConfigurationError
        If it cannot be read or holds what it may not; names each field.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: it is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from error
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {problems(error)}") from None


def modalities() -> dict[str, str]:
    """Return the installed modalities: entry point name -> ``module:Class``."""
    found = importlib.metadata.entry_points(group=MODALITIES)
    return {point.name: point.value for point in sorted(found, key=lambda p: p.name)}


def find_modality(name: str) -> "type[Modality]":
    """Return a modality by the name of its entry point, or by ``module:Class``.

    Raises
    ------
    ConfigurationError
        If there is none, or it cannot be imported.
    """
    from p06bs.model.reference import load as load_modality

    known = modalities()
    path = known.get(name, name if ":" in name else "")
    if not path:
        raise ConfigurationError(
            f"no modality {name!r}; installed are {', '.join(known) or 'none'}"
        )
    try:
        return load_modality(path)
    except (ImportError, TypeError) as error:
        raise ConfigurationError(f"{name}: {error}" if name != path else str(error)) from error


def make_modality(
    name: str, settings: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> "Modality":
    """Return a modality with settings.

    Raises
    ------
    ConfigurationError
        If there is no such modality, or it refuses the settings.
    """
    from p06bs.model.modality import SettingsError

    cls = find_modality(name)
    if "inputs" in settings:
        raise ConfigurationError(
            f"{name}: inputs is no setting; say which data key feeds which input with inputs"
        )
    try:
        return cls(inputs=inputs, **settings)
    except SettingsError as error:
        raise ConfigurationError(str(error)) from error


def parse_settings(pairs: list[str]) -> dict[str, Any]:
    """Return settings from ``key=value`` texts; a value is JSON, or else a string.

    Raises
    ------
    ConfigurationError
        If a text has no ``=``.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"{pair!r} is no setting; write key=value")
        try:
            settings[key] = json.loads(text)
        except ValueError:
            settings[key] = text
    return settings
