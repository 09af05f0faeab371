"""The beamline's devices, as a file says them."""

import asyncio
import importlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p06bs.metadata.records import said

SECONDS = 3.0
"""How long a device may take to connect."""


class DevicesError(ValueError):
    """A file of devices that cannot be used; says why."""


class DeviceTable(BaseModel):
    """``[devices.NAME]``: other entries are arguments of the class."""

    model_config = ConfigDict(extra="allow", frozen=True)

    made_by: str = Field(alias="class", pattern=r"^[\w.]+:[\w.]+$", description="module:Class")


class DevicesFile(BaseModel):
    """A file of devices.

    ``[devices.NAME]`` is a device; in ``[sources]`` fields of the start document name data keys.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    devices: dict[str, DeviceTable]
    sources: dict[str, str] = {}


@dataclass
class Devices:
    """What became of a file: devices by name, and why others are not there."""

    found: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


def configured(file: Path, seconds: float = SECONDS) -> Devices:
    """Make and connect the devices of a file, all at once; those that fail are left out.

    ophyd-async's are connected in bluesky's event loop: there must be a RunEngine.

    Raises
    ------
    DevicesError
        If the file cannot be read, or is not as it should be.
    """
    try:
        content = DevicesFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise DevicesError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise DevicesError(f"{file}: {said(error)}") from error
    except ValueError as error:
        raise DevicesError(f"{file} is no TOML: {error}") from error
    made = Devices(sources=content.sources)
    for name, table in content.devices.items():
        try:
            made.found[name] = _made(name, table)
        except Exception as error:  # packages that are missing, arguments that are wrong
            made.problems[name] = f"{type(error).__name__}: {error}"
    for name, problem in _connect(made.found, seconds).items():
        made.problems[name] = problem
        del made.found[name]
    return made


def _made(name: str, table: DeviceTable) -> Any:
    module, _, path = table.made_by.partition(":")
    made: Any = importlib.import_module(module)
    for attribute in path.split("."):
        made = getattr(made, attribute)
    return made(**(table.model_extra or {}), name=name)


def _connect(devices: Mapping[str, Any], seconds: float) -> dict[str, str]:
    """Connect all devices at once; return why some are not."""
    from bluesky.run_engine import call_in_bluesky_event_loop

    async def connected(device: Any) -> None:
        if asyncio.iscoroutinefunction(getattr(device, "connect", None)):
            await device.connect(timeout=seconds)
        elif hasattr(device, "wait_for_connection"):
            await asyncio.to_thread(device.wait_for_connection, timeout=seconds)

    async def every() -> list[Any]:
        return await asyncio.gather(*map(connected, devices.values()), return_exceptions=True)

    results = call_in_bluesky_event_loop(every())
    return {
        name: " ".join(f"{type(result).__name__}: {result}".split())
        for name, result in zip(devices, results, strict=True)
        if isinstance(result, BaseException)
    }
