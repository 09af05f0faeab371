"""All values of a device at one time: what it reads, its configuration, and its other signals."""

import asyncio
import copy
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bluesky.protocols import HasHints, WritesExternalAssets, WritesStreamAssets

from p06bs.metadata.patience import Patience
from p06bs.metadata.plain import description, key_of, reading

Described = dict[str, dict[str, Any]]
Read = dict[str, dict[str, Any]]

LARGEST_ARRAY = 1000
"""Items of an array that is part of a snapshot; pictures are not."""


@dataclass(eq=False)
class Snapshot:
    """What a device has said, for bluesky to read in its place: it never waits and never fails.

    Attributes
    ----------
    name : str
        The device's.
    problems : list of str
        What could not be had, and why.
    """

    name: str
    described: Described = field(default_factory=dict)
    values: Read = field(default_factory=dict)
    described_configuration: Described = field(default_factory=dict)
    configuration: Read = field(default_factory=dict)
    hinted: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    parent: None = None

    @property
    def hints(self) -> dict[str, Any]:
        """Which values are shown by default."""
        return {"fields": [key for key in self.hinted if key in self.values]}

    def read(self) -> Read:
        """Return the values."""
        return copy.deepcopy(self.values)

    def describe(self) -> Described:
        """Describe the values."""
        return copy.deepcopy(self.described)

    def read_configuration(self) -> Read:
        """Return the configuration, and what is part of neither."""
        return copy.deepcopy(self.configuration)

    def describe_configuration(self) -> Described:
        """Describe the configuration."""
        return copy.deepcopy(self.described_configuration)

    def update(self, later: "Snapshot") -> list[str]:
        """Take the values of a later snapshot, and return what could not be had.

        What is missing in it stays as it was.
        """
        self.values |= {key: r for key, r in later.values.items() if key in self.values}
        kept = sorted({*self.values} - {*later.values})
        return [*later.problems, *([f"as at the beginning: {', '.join(kept)}"] if kept else [])]


def without_doubles(snapshots: Iterable[Snapshot], *reserved: str) -> list[Snapshot]:
    """Let each name, and each data key, be that of the first who says it, as bluesky demands.

    Others of that name get a number, and a warning. A value whose data key is taken, such as that
    of a motor of a stage which is there, too, goes to the configuration.

    Parameters
    ----------
    *reserved : str
        Names that none may have.
    """
    names, told, made = set(reserved), set[str](), list(snapshots)
    for one in made:
        name = one.name
        numbers = itertools.count(2)
        while one.name in names:
            one.name = f"{name}_{next(numbers)}"
        if one.name != name:
            one.problems.append(f"another one has its name, {name}")
        names.add(one.name)
        for key in told & one.values.keys():
            one.configuration[key] = one.values.pop(key)
            one.described_configuration[key] = one.described.pop(key)
        told |= one.values.keys()
    return made


async def snapshot(device: Any, patience: Patience) -> Snapshot:
    """Return all values of a device; what fails or takes too long is among the problems."""
    taken = Snapshot(key_of(getattr(device, "name", device)))
    if not any(hasattr(device, what) for what in ("read", "read_configuration", "children")):
        taken.problems.append(f"{type(device).__name__} is no device that can be read")
        return taken
    try:
        await _take(taken, device, patience)
    except Exception as error:  # devices fail in every way there is
        taken.problems.append(_short(error))
    return taken


async def _take(taken: Snapshot, device: Any, patience: Patience) -> None:
    silent = False

    async def asked(what: str, owner: Any) -> dict[str, Any]:
        nonlocal silent
        method = getattr(owner, what, None)
        if method is None or silent:
            return {}
        try:
            return dict(await patience.call(taken.name, method))
        except Exception as error:  # the other parts may be had
            silent = silent or isinstance(error, TimeoutError)
            of = "" if owner is device else f" {owner.name}"
            taken.problems.append(f"{what}{of}: {_short(error)}")
            return {}

    async def pair(described: str, read: str, owner: Any) -> tuple[Described, Read]:
        both = await asyncio.gather(asked(described, owner), asked(read, owner))
        known.update(both[0])
        if strange := sorted(both[1].keys() - both[0].keys()):
            taken.problems.append(f"{described} does not say what {', '.join(strange)} is")
        return _paired(*both)

    known: set[str] = set()
    configuration = await pair("describe_configuration", "read_configuration", device)
    taken.described_configuration, taken.configuration = configuration
    # What flies or writes files has values only while it is used.
    if hasattr(device, "read") and not isinstance(
        device, WritesExternalAssets | WritesStreamAssets
    ):
        taken.described, taken.values = await pair("describe", "read", device)
    others = list(_signals(device, known))
    for described, read in await asyncio.gather(*(pair("describe", "read", o) for o in others)):
        for key in read:
            if np.size(read[key]["value"]) > LARGEST_ARRAY:
                taken.problems.append(f"{key} is too large: {np.shape(read[key]['value'])}")
            else:
                taken.described_configuration[key] = described[key]
                taken.configuration[key] = read[key]
    if roles := getattr(device, "roles", None):
        _say_roles(taken, roles)
    if isinstance(device, HasHints):
        taken.hinted = [key_of(key) for key in device.hints.get("fields", [])]


def _say_roles(taken: Snapshot, roles: Mapping[str, str]) -> None:
    """Have the configuration say what the data mean, if it does not: no plan's table does here."""
    key = f"{taken.name}-role"
    if key not in taken.configuration:
        said = {"source": f"p06bs://{key}", "dtype": "string", "shape": []}
        taken.described_configuration[key] = said
        taken.configuration[key] = {"value": json.dumps(dict(roles)), "timestamp": time.time()}


def _signals(device: Any, known: set[str]) -> Iterator[Any]:
    """Yield the readable signals in a device, ophyd's or ophyd-async's, beside those known."""
    if callable(getattr(device, "walk_signals", None)):
        found: Iterator[Any] = (walk.item for walk in device.walk_signals())
    elif callable(getattr(device, "children", None)):
        found = _leaves(device)
    else:
        found = iter(())
    for signal in found:
        if signal is not device and signal.name not in known and hasattr(signal, "read"):
            yield signal


def _leaves(device: Any) -> Iterator[Any]:
    for _, child in device.children():
        below = list(child.children())
        if below:
            yield from _leaves(child)
        else:
            yield child


def _paired(described: Described, read: Read) -> tuple[Described, Read]:
    """Return descriptions and values of what was read, as documents can hold them."""
    keys: Described = {}
    values: Read = {}
    for name, said in read.items():
        if "external" in described.get(name, ()):
            continue
        key, value = key_of(name), reading(said["value"])
        keys[key] = dict(described.get(name) or description(value))
        values[key] = {"value": value, "timestamp": float(said.get("timestamp") or 0.0)}
        if isinstance(value, str) and keys[key].get("dtype") != "string":
            keys[key] |= {"dtype": "string", "shape": []}
            keys[key].pop("dtype_numpy", None)
    return keys, values


def _short(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 160 else text[:157] + "..."
