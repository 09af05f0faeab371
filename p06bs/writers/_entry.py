"""The parts of an NXentry that say what, when, who and by which program."""

import importlib.metadata
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py

from p06bs.model.candidates import ASIDE, aligned_streams
from p06bs.model.constants import BASELINE
from p06bs.model.documents import Document, is_derived
from p06bs.writers._h5 import JSON, Names, field, group, json_text
from p06bs.writers._streams import Stream

INSTRUMENT_CLASSES = frozenset(
    {
        *("NXactuator", "NXaperture", "NXattenuator", "NXbeam", "NXbeam_stop", "NXcollimator"),
        *("NXcrystal", "NXdetector", "NXfilter", "NXinsertion_device", "NXmirror"),
        *("NXmonochromator", "NXpositioner", "NXsensor", "NXsource", "NXxraylens"),
    }
)
"""What a device may be within NXinstrument; others become NXcollection."""

DETECTOR_ROLES = frozenset({"fluorescence", "diffraction", "luminescence"})


def iso_time(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def write_root(file: h5py.File, final: Path, default: bool) -> None:
    """Write the attributes of the root; `default` is whether the entry has something to show."""
    file.attrs["NX_class"] = "NXroot"
    file.attrs["file_name"] = final.name
    file.attrs["file_time"] = iso_time(time.time())
    file.attrs["creator"] = "p06bs"
    file.attrs["creator_version"] = importlib.metadata.version("p06bs")
    file.attrs["h5py_version"] = h5py.version.version
    file.attrs["HDF5_Version"] = h5py.version.hdf5_version
    if default:
        file.attrs["default"] = "entry"


def write_entry(
    entry: h5py.Group, start: Document, stop: Document | None, streams: Sequence[Stream]
) -> None:
    """Write titles, times, identifiers, sample, and instrument (raw) or process (derived)."""
    entry["title"] = _title(start)
    entry["start_time"] = iso_time(start["time"])
    if stop is not None:
        entry["end_time"] = iso_time(stop["time"])
    entry["bluesky"].attrs["exit_status"] = stop["exit_status"] if stop else "unfinished"
    _identifiers(entry, start)
    if start.get("sample"):
        _sample(entry, start["sample"])
    if is_derived(start):
        _process(entry, start, streams)
    else:
        _instrument(entry, start, streams)


def _title(start: Document) -> str:
    if start.get("title"):
        return str(start["title"])
    if is_derived(start):
        process = start["process"]
        return f"{process.get('name', 'analysis')} of {start.get('original_run_uid', '?')}"
    return f"{start.get('plan_name', 'run')} {start.get('scan_id', '')}".strip()


def _identifiers(entry: h5py.Group, start: Document) -> None:
    try:
        number = uuid.UUID(start["uid"])
    except ValueError:
        entry["entry_identifier"] = str(start["uid"])
    else:
        entry["entry_identifier_uuid"] = str(start["uid"])
        if number.version is not None:
            entry["entry_identifier_uuid"].attrs["version"] = str(number.version)
        if "scan_id" in start:
            entry["entry_identifier"] = str(start["scan_id"])
    experiment = start.get("proposal_id", start.get("beamtime_id"))
    if experiment:
        entry["experiment_identifier"] = str(experiment)
    if start.get("data_session"):
        entry["collection_identifier"] = str(start["data_session"])
    if start.get("plan_name"):
        entry["program_name"] = str(start["plan_name"])


def _sample(entry: h5py.Group, sample: object) -> None:
    made = group(entry, "sample", "NXsample")
    if not isinstance(sample, Mapping):
        made["name"] = str(sample)
        return
    made["name"] = str(sample.get("name", "unnamed"))
    if sample.get("description"):
        made["description"] = str(sample["description"])
    rest = {k: v for k, v in sample.items() if k not in ("name", "description")}
    if rest:
        _parameters(made, "metadata", rest)


def _parameters(
    parent: h5py.Group,
    name: str,
    values: Mapping[str, Any],
    described: Mapping[str, Mapping[str, Any]] | None = None,
) -> h5py.Group:
    """Write a mapping as NXparameters; nested values become JSON text."""
    made, names = group(parent, name, "NXparameters"), Names()
    for key, value in values.items():
        units = (described or {}).get(key, {}).get("units")
        field(made, names(str(key)), value, units, data_key=str(key))
    return made


def _process(entry: h5py.Group, start: Document, streams: Sequence[Stream]) -> None:
    process = start["process"]
    made = group(entry, "process", "NXprocess")
    made["program"] = str(process.get("modality", process.get("name", "")))
    made["version"] = str(process.get("version", ""))
    made["date"] = iso_time(start["time"])
    made["sequence_index"] = 1
    made["identifier_raw_run"] = str(start["original_run_uid"])
    made["identifier_raw_run"].attrs["type"] = "uid of a Bluesky run"
    _note(
        made,
        "provenance",
        "what was computed from which runs and data keys",
        {
            key: start[key]
            for key in ("process", "original_run_uid", "derived_from")
            if key in start
        },
    )
    for number, data in enumerate(_revisions(streams, str(process.get("name")))):
        suffix = "" if number == 0 else f"_r{data.get('revision', number)}"
        settings = data.get("settings", "{}")
        values = json.loads(settings) if isinstance(settings, str) else settings
        if isinstance(values, Mapping) and f"settings{suffix}" not in made:
            _parameters(made, f"settings{suffix}", values)
        if f"revision{suffix}" not in made:
            _note(made, f"revision{suffix}", "settings, who changed them, and from where", data)


def _revisions(streams: Sequence[Stream], process: str) -> Iterator[Mapping[str, Any]]:
    for stream in streams:
        for descriptor in stream.descriptors:
            configured = (descriptor.get("configuration") or {}).get(process, {}).get("data")
            if configured:
                yield configured


def _note(parent: h5py.Group, name: str, description: str, content: object) -> None:
    made = group(parent, name, "NXnote")
    made["type"] = JSON
    made["description"] = description
    made["data"] = json_text(content)


def _instrument(entry: h5py.Group, start: Document, streams: Sequence[Stream]) -> None:
    """Write one group per device: its columns (hard links), frames (external), configuration.

    A device may be in several streams, in the baseline most of all.
    """
    made = group(entry, "instrument", "NXinstrument")
    made["name"] = str(start.get("endstation") or start.get("beamline_id") or "unknown")
    names = Names(made)
    homes: dict[str, h5py.Group] = {}
    aligned = aligned_streams(start)

    def how_far(stream: Stream) -> tuple[bool, ...]:
        """Return how far a stream is from the scan: the nearest says what a device shows."""
        name, aside = stream.name, bool(ASIDE.fullmatch(stream.name))
        return name == BASELINE, aside, name != "primary", name not in aligned

    for stream in sorted(streams, key=how_far):
        for device, keys in _devices(stream):
            if device not in homes:
                nx_class = _device_class(device, keys, start, stream)
                homes[device] = group(made, names(device), nx_class, device=device)
                group(homes[device], "columns", "NXcollection")
            _columns(homes[device], stream, keys)
    for device, home in homes.items():
        values, described = _configuration(streams, device)
        if values:
            _parameters(home, "configuration", values, described)


def _configuration(
    streams: Sequence[Stream], device: str
) -> tuple[dict[str, Any], dict[str, Mapping[str, Any]]]:
    """Return each value of a device's configuration as the newest descriptor has it, and what it
    says of them; of the baseline what no other stream has.
    """
    found = [
        (stream.name != BASELINE, d["time"], d) for stream in streams for d in stream.descriptors
    ]
    values: dict[str, Any] = {}
    described: dict[str, Mapping[str, Any]] = {}
    for *_, descriptor in sorted(found, key=lambda one: one[:2]):
        configured = (descriptor.get("configuration") or {}).get(device) or {}
        values |= configured.get("data") or {}
        described |= configured.get("data_keys") or {}
    return values, described


def _devices(stream: Stream) -> list[tuple[str, list[str]]]:
    owner = {
        key: device
        for device, keys in (stream.descriptors[0].get("object_keys") or {}).items()
        for key in keys
    }
    devices: dict[str, list[str]] = {}
    for key, described in stream.data_keys.items():
        device = owner.get(key, described.get("object_name", key))
        devices.setdefault(str(device), []).append(key)
    return list(devices.items())


def _device_class(device: str, keys: Sequence[str], start: Document, stream: Stream) -> str:
    """Return the device's NeXus class: what it says itself (``NX_class`` hint), else a guess."""
    hints = (stream.descriptors[0].get("hints") or {}).get(device) or {}
    if hints.get("NX_class") in INSTRUMENT_CLASSES:
        return str(hints["NX_class"])
    if device in (start.get("motors") or ()):
        return "NXpositioner"
    said = (start.get("devices") or {}).get(device)
    roles = {said} if isinstance(said, str) else set()
    if isinstance(said, Mapping):
        roles = {str(r) for r in (said.get("role"), *(said.get("roles") or {}).values())}
    if roles & DETECTOR_ROLES or any(stream.data_keys[k].get("external") for k in keys):
        return "NXdetector"
    return "NXcollection"


def _columns(home: h5py.Group, stream: Stream, keys: Sequence[str]) -> None:
    """Link a device's columns and frames, and the first as its class's own field."""
    names = Names(home["columns"])
    alias = {"NXpositioner": "value", "NXdetector": "data"}.get(home.attrs["NX_class"])
    wanted = alias is not None and alias not in list(home)  # `in` would open external links
    for key in keys:
        column = stream.data.get(key)
        links: list[Any] = []
        if column is not None and column.dataset is not None:
            links = [column.dataset]
            shown = column.dataset.dtype.kind in "iuf"
        elif key in stream.external:
            frames = stream.external[key].frames
            links = [] if frames is None else [frames]
            shown = home.attrs["NX_class"] == "NXdetector"
        for link in links:
            home["columns"][names(key)] = link
            if wanted and shown:
                home[alias] = link
                wanted = False
