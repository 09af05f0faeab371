"""The services of a configuration: one table each, checked by the model of its kind.

A laptop's file says ``[server]``, ``[workers]`` and ``[[pipelines]]``, and means services by
these names, beside a Topology Manager, a proxy and the ingestion; `definitions` makes no
difference between them and those of ``[services.NAME]``.
"""

import importlib.metadata
import socket
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, StringConstraints, ValidationError

from p06bs.config.base import ConfigurationError, Section, problems

if TYPE_CHECKING:
    from p06bs.bus.service import Service
    from p06bs.config import Configuration

KINDS = "p06bs.services"

Name = Annotated[str, StringConstraints(min_length=1, max_length=90, pattern=r"^\w[\w.\-]*$")]


class Definition(Section):
    """What may stand in the table of any service."""

    kind: Name = Field(description="which service it is; the table's name by default")
    replicas: int = Field(
        1, ge=1, le=1000, description="so many of it, called NAME-1, NAME-2 and so on"
    )
    runs_on: str = Field("", description="host on which `p06bs up` starts it; on each, if empty")
    environment: dict[str, str] = Field(
        default_factory=dict, description="environment variables beside those of the starter"
    )


def kinds() -> dict[str, str]:
    """Return the installed kinds of services: entry point name -> ``module:Class``."""
    found = importlib.metadata.entry_points(group=KINDS)
    return {point.name: point.value for point in sorted(found, key=lambda p: p.name)}


@cache
def find_kind(kind: str) -> "type[Service[Any]]":
    """Return the class of a kind of service.

    Raises
    ------
    ConfigurationError
        If there is none, or it cannot be imported.
    """
    for point in importlib.metadata.entry_points(group=KINDS, name=kind):
        try:
            found: type[Service[Any]] = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"services of kind {kind}: {error}") from error
        return found
    raise ConfigurationError(f"no service of kind {kind!r}; there are {', '.join(kinds())}")


def definitions(configuration: "Configuration") -> dict[str, Definition]:
    """Return the table of each service by its name, in the order in which they start.

    Raises
    ------
    ConfigurationError
        If one has an unknown kind, or may not say what it says; names each field.
    """
    found: dict[str, Definition] = {}
    wrong: list[str] = []
    for name, table in _tables(configuration).items():
        try:
            definition = _checked(configuration, name, table)
        except ConfigurationError as error:
            wrong.append(str(error))
            continue
        for one in _names(name, definition.replicas):
            if one in found:
                wrong.append(f"two services are called {one}")
            found[one] = definition
    wrong += _wrong_chains(found.values())
    if wrong:
        raise ConfigurationError("; ".join(wrong))
    return found


def _wrong_chains(found: Iterable[Definition]) -> Iterator[str]:
    """Yield what is wrong with which pipelines feed which, in whatever services they are."""
    sections = [section for one in found for section in getattr(one, "pipelines", ())]
    if not any(s.after or any(x.count("/") > 1 for x in s.inputs.values()) for s in sections):
        return  # nothing needs to be imported
    from p06bs.config import find_modality
    from p06bs.pipeline.declared import fed_by, refuse_cycles

    def name_of(section: Any) -> str:
        try:
            return str(section.name or find_modality(section.modality).name)
        except ConfigurationError:  # who is to run it says so
            return str(section.modality)

    after = {name_of(section): fed_by(section.after, section.inputs) for section in sections}
    for name, others in after.items():
        if strange := [other for other in others if other not in after]:
            there = ", ".join(after)
            yield (
                f"pipeline {name} comes after {', '.join(strange)}, which no pipeline of this "
                f"file is called; there are {there}"
            )
    try:
        refuse_cycles(after)
    except ValueError as error:
        yield str(error)


def definition(configuration: "Configuration", name: str) -> Definition:
    """Return the table of one service; the others are not looked at.

    Raises
    ------
    ConfigurationError
        If there is none of that name, or it may not say what it says; names each field.
    """
    tables = _tables(configuration)
    base, _, _ = name.rpartition("-")
    for table in (name, base):
        if table in tables:
            found = _checked(configuration, table, tables[table])
            if name in _names(table, found.replicas):
                return found
    raise ConfigurationError(f"there is no service {name!r}; there are {', '.join(tables)}")


def of_this_host(found: Mapping[str, Definition]) -> dict[str, Definition]:
    """Return the services that run on this host, whether by its full or its short name."""
    here = socket.gethostname().lower()

    def is_here(host: str) -> bool:
        name, _, domain = host.lower().partition(".")
        mine, _, others = here.partition(".")
        return name in ("", "localhost") or (
            name == mine and (not domain or not others or domain == others)
        )

    return {name: one for name, one in found.items() if is_here(one.runs_on)}


def _tables(configuration: "Configuration") -> dict[str, Mapping[str, Any]]:
    tables: dict[str, Mapping[str, Any]] = dict(_short_form(configuration))
    for name, table in configuration.services.items():
        if name in tables:
            raise ConfigurationError(f"services.{name}: the file describes a {name} already")
        tables[name] = table
    return tables


def _names(name: str, replicas: int) -> list[str]:
    return [name] if replicas == 1 else [f"{name}-{number + 1}" for number in range(replicas)]


def _checked(configuration: "Configuration", name: str, table: Mapping[str, Any]) -> Definition:
    kind = str(table.get("kind", name))
    try:
        model = find_kind(kind).Definition
    except ConfigurationError as error:
        raise ConfigurationError(f"services.{name}: {error}") from error
    context = {"keys": configuration.bus.keys}  # addresses depend on it
    try:
        definition: Definition = model.model_validate({**table, "kind": kind}, context=context)
    except ValidationError as error:
        raise ConfigurationError(f"services.{name}: {problems(error)}") from None
    return definition


def _short_form(configuration: "Configuration") -> dict[str, dict[str, Any]]:
    bus, server = configuration.bus, configuration.server
    tables: dict[str, dict[str, Any]] = {}
    if configuration.topology:
        tables["topology"] = {"address": bus.topology}
    if configuration.proxy:
        tables["proxy"] = {"inbound": bus.inbound, "outbound": bus.outbound}
    if server is not None:
        tables["server"] = dict(server)
        if server.archive is not None:
            tables["archive"] = {
                **dict(server.archive),
                "assets": server.assets,
                "access": server.access,
                "runs_on": server.runs_on,
            }
    if configuration.pipelines:
        tables["pipelines"] = {
            "workers": configuration.workers,
            "pipelines": configuration.pipelines,
        }
    return tables
