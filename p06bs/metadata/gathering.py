"""What is gathered when a run opens: from the beamtime's file, devices, pipelines and packages."""

import asyncio
import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

from p06bs.metadata.beamtime import Beamtime
from p06bs.metadata.patience import Patience
from p06bs.metadata.plain import key_of
from p06bs.metadata.snapshot import Snapshot, snapshot, without_doubles

SOFTWARE = ("p06bs", "bluesky", "event-model", "ophyd", "ophyd-async", "numpy", "tiled")

NAME = "metadata"
"""Of what holds the record in the stream, as if it were a device."""

Settings = Mapping[str, Mapping[str, Any]]
"""Pipeline -> ``values``, ``digest`` and what else is known of its settings, or a ``problem``."""


@dataclass
class Gathered:
    """What is known of a run.

    Attributes
    ----------
    fields : dict
        Of the start document.
    settings : mapping
        Of the pipelines, in force.
    snapshots : list of Snapshot
        Of the devices.
    warnings : list of str
        What is missing, and why.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sources:
    """Where metadata come from; see `MetadataRecorder`."""

    devices: Sequence[Any]
    missing: Mapping[str, str]
    fields: Mapping[str, str]
    beamtime: Path | None
    settings: Callable[[], Settings] | None
    patience: Patience

    async def gather(self, found: Gathered) -> None:
        """Ask all of them at once; what is missing becomes a warning."""
        found.warnings[:] = [f"{name} is not there: {why}" for name, why in self.missing.items()]
        beamtime, settings, found.snapshots = await asyncio.gather(
            self._ask("the beamtime's file", self._beamtime, found.warnings),
            self._ask("the settings of pipelines", self.settings, found.warnings),
            self._snapshots(),
        )
        for one in found.snapshots:
            found.warnings += [f"{one.name}: {problem}" for problem in one.problems]
        found.settings = settings or {}
        for name, said in found.settings.items():
            if "problem" in said:
                found.warnings.append(f"the settings of {name}: {said['problem']}")
        found.fields = {
            **(beamtime or {}),
            **self._from_devices(found),
            **({"analysis_settings": digests(found.settings)} if found.settings else {}),
            "versions": software(),
        }

    async def look_again(self, found: Gathered) -> None:
        """Bring values of devices and settings up to date; what does not answer stays as it was."""
        by_name = {one.name: one for one in await self._snapshots()}
        for one in found.snapshots:
            if one.name in by_name:
                problems = one.update(by_name[one.name])
                found.warnings += [f"{one.name}, at the end: {problem}" for problem in problems]
        settings = await self._ask("the settings of pipelines", self.settings, found.warnings)
        found.settings = settings or found.settings

    async def _snapshots(self) -> list[Snapshot]:
        each = {id(device): device for device in self.devices}.values()
        taken = await asyncio.gather(*(snapshot(device, self.patience) for device in each))
        return without_doubles(taken, NAME)

    async def _ask(self, what: str, function: Callable[[], Any] | None, warnings: list[str]) -> Any:
        if function is None:
            return None
        try:
            return await self.patience.call(what, function)
        except Exception as error:  # files and services fail in every way; the scan is to run
            warnings.append(f"{what}: {error}")
            return None

    def _beamtime(self) -> dict[str, Any]:
        return Beamtime.read(self.beamtime).start() if self.beamtime is not None else {}

    def _from_devices(self, found: Gathered) -> dict[str, Any]:
        """Return the fields that devices tell, such as the ring's current."""
        readings: dict[str, Any] = {}
        described: dict[str, Any] = {}
        for one in found.snapshots:
            readings |= one.configuration | one.values
            described |= one.described_configuration | one.described
        fields: dict[str, Any] = {}
        for path, name in self.fields.items():
            key = key_of(name)
            if key not in readings:
                found.warnings.append(f"{path} is not known: no device tells {name}")
                continue
            value, units = readings[key]["value"], described[key].get("units")
            told: Any = {"value": value, "units": units} if units else value
            for step in reversed(path.split(".")):
                told = {step: told}
            fields = merged(fields, told)
        return fields


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return both, mapping by mapping; where they differ `over` wins."""
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        deeper = isinstance(value, Mapping) and isinstance(below, Mapping)
        both[key] = merged(below, value) if deeper else value  # type: ignore[arg-type]
    return both


def digests(settings: Settings) -> dict[str, Any]:
    """Return what a start document says of settings: a digest of each pipeline, and of all."""
    each = {name: str(said.get("digest", "")) for name, said in sorted(settings.items())}
    return {"digest": hashlib.sha256(json.dumps(each).encode()).hexdigest(), "pipelines": each}


@cache
def software() -> dict[str, str]:
    """Return the versions of the packages that matter, as far as they are there."""
    found = {"python": platform.python_version()}
    for name in SOFTWARE:
        try:
            found[name.replace("-", "_")] = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
    return found
