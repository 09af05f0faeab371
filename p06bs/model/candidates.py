"""What a run has that could feed inputs: its data keys, with what they say about themselves.

A device says what its data mean, its *role*, in the start document's device table or in its
configuration. A derived run says it of its outputs in the same way.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from p06bs.model.documents import Document
from p06bs.model.modality import RESERVED
from p06bs.model.units import canonical
from p06bs.model.upstream import Upstream

ASIDE = re.compile(r"baseline|interruptions|.*_monitor")
"""Streams in which bluesky records what goes on beside a scan; only explicit inputs use them."""


@dataclass(frozen=True)
class Candidate:
    """One data key of a run, with what it says about itself."""

    stream: str
    data_key: str
    role: str | None
    external: bool
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    dtype: str
    unit: str | None
    configuration: Mapping[str, Any] = field(repr=False)
    beam: Mapping[str, Any] = field(default_factory=dict, repr=False)
    upstream: Upstream | None = None  # the derived run that makes it
    home: str = ""  # stream of the raw run whose events its rows are of
    value: Any = None  # the same for all events; None where each has its own

    @property
    def path(self) -> str:
        """What an explicit binding calls it."""
        path = f"{self.stream}/{self.data_key}"
        return path if self.upstream is None else f"{self.upstream.name}/{path}"

    def __str__(self) -> str:
        said = f"role {self.role}" if self.role else "no role"
        unit = f", {self.unit}" if self.unit else ""
        return f"{self.path} ({said}, shape {list(self.shape)}{unit})"


def aligned_streams(start: Document) -> tuple[str, ...]:
    """Return the streams whose equal seq_nums belong together, as the start document says."""
    return tuple(start.get("aligned_streams") or ())


def candidates(
    start: Document, descriptors: Iterable[Document], *, alone: bool = False
) -> Iterator[Candidate]:
    """Yield every data key of a run, once per stream; see `role_of` for `alone`."""
    devices: Mapping[str, Any] = start.get("devices") or {}
    beam = start.get("beam")
    seen: set[tuple[str, str]] = set()
    for descriptor in descriptors:
        stream = descriptor.get("name", "primary")
        owner = {
            key: device
            for device, keys in (descriptor.get("object_keys") or {}).items()
            for key in keys
        }
        for key, described in descriptor["data_keys"].items():
            external = str(described.get("external", ""))
            if (stream, key) in seen or (external and not external.startswith("STREAM:")):
                continue  # data of resource and datum documents cannot be read
            seen.add((stream, key))
            device = owner.get(key, described.get("object_name", key))
            configuration = (descriptor.get("configuration") or {}).get(device, {}).get("data", {})
            yield Candidate(
                stream=stream,
                data_key=key,
                role=role_of(key, device, devices, configuration, alone=alone),
                external=bool(external),
                shape=_shape(described),
                dims=tuple(described.get("dims") or ()),
                dtype=_dtype(described),
                unit=canonical(described.get("units")),
                configuration=configuration,
                beam=beam if isinstance(beam, Mapping) else {},
                home=stream,
            )


def made(upstream: Upstream, raw: Iterable[Candidate]) -> Iterator[Candidate]:
    """Yield what a derived run makes, as its first descriptor says; its rows are one stream.

    Parameters
    ----------
    raw : iterable of Candidate
        What the raw run has.
    """
    if upstream.descriptor is None:
        return
    home = upstream.source({(c.stream, c.data_key): c.external for c in raw}).stream
    for found in candidates(upstream.start, [upstream.descriptor]):
        if found.data_key not in RESERVED:
            yield replace(found, stream="primary", upstream=upstream, home=home)


def role_of(
    key: str,
    device: str,
    devices: Mapping[str, Any],
    configuration: Mapping[str, Any],
    *,
    alone: bool = False,
) -> str | None:
    """Return what a data key means; None if nobody says it.

    With `alone` only what names the data key counts, not what is said of all of its device.
    """
    for owner in (device, key):
        table, whole = devices.get(owner), not alone or owner == key
        if isinstance(table, Mapping):
            roles = table.get("roles") or {}
            if key in roles:
                return str(roles[key])
            if whole and table.get("role") and not roles:
                return str(table["role"])
        elif whole and isinstance(table, str):
            return table
    own = [f"{key}{s}role" for s in "-_."]
    for name in (*own, *(f"{device}{s}role" for s in "-_."), "role"):
        value = configuration.get(name)
        if not isinstance(value, str) or not value:
            continue
        if value.startswith("{"):
            return _from_json(value, key)
        if name in own or not alone:
            return value
    return None


def _from_json(value: str, key: str) -> str | None:
    """Read a table {data key: role} that a device keeps in one configuration string."""
    try:
        role = json.loads(value).get(key)
    except ValueError:
        return None
    return role if isinstance(role, str) else None


def _shape(described: Mapping[str, Any]) -> tuple[int, ...]:
    """Return a described shape; 0 is an axis whose length the first event will say."""
    shape = tuple(n or 0 for n in described.get("shape") or ())
    return (0,) if not shape and described.get("dtype") == "array" else shape


def _dtype(described: Mapping[str, Any]) -> str:
    said = described.get("dtype_numpy")
    try:
        dtype = np.dtype(said) if isinstance(said, str) else None
    except TypeError:  # no dtype of numpy's: the plain dtype, or the first event, says it
        dtype = None
    if dtype is not None and dtype.kind not in "OV":
        return dtype.str
    return {"integer": "<i8", "number": "<f8", "boolean": "|b1", "string": "<U0"}.get(
        str(described.get("dtype")), ""
    )
