"""The settings history of a derived run: revisions, how they are recorded and read again."""

import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from p06bs.model.documents import (
    Document,
    NamedDocument,
    is_derived,
    settings_digest,
    settings_json,
)
from p06bs.model.modality import ModalitySettings


@dataclass(frozen=True)
class Revision:
    """Settings that are in force from one row on, who changed them and when.

    Attributes
    ----------
    number : int
        Within the derived run, from 0.
    change : int
        Number of the change of the pipeline's settings that they came with; 0 for those
        that it had at first.
    preset : str
        Name of the preset that they came from; "" if they did not.
    """

    number: int
    settings: ModalitySettings
    changed_by: str = ""
    changed_at: float = 0.0
    change: int = 0
    preset: str = ""

    @property
    def digest(self) -> str:
        """Digest of the settings."""
        return settings_digest(self.settings)


@dataclass(frozen=True, slots=True)
class Since:
    """From which row of a derived run on settings are in force, and in which stream."""

    revision: Revision
    row: int
    raw_uid: str
    stream: str


def configuration(
    revision: Revision,
    *,
    first: int,
    raw_uid: str,
    version: str,
    now: float,
    roles: Mapping[str, str],
) -> dict[str, Any]:
    """Return what a derived descriptor's configuration says of a revision.

    Parameters
    ----------
    first, raw_uid
        The row from which on it is in force (from 0), and its identity.
    version : str
        Version of the modality.
    now : float
        Unix time, s.
    roles : mapping of str to str
        Output -> its role, for those that have one; a device's roles are looked for as ``role``.
    """
    data = {
        "settings": settings_json(revision.settings),
        "settings_digest": revision.digest,
        "revision": revision.number,
        "changed_by": revision.changed_by,
        "changed_at": revision.changed_at,
        "change": revision.change,
        "preset": revision.preset,
        "first_raw_uid": raw_uid,
        "first_row": first,
        "version": version,
        "p06bs_version": importlib.metadata.version("p06bs"),
    }
    if roles:
        data["role"] = json.dumps(dict(roles), sort_keys=True)
    dtypes = {str: "string", int: "integer", float: "number"}
    return {
        "data": data,
        "timestamps": dict.fromkeys(data, now),
        "data_keys": {
            key: {"source": "p06bs", "dtype": dtypes[type(value)], "shape": []}
            for key, value in data.items()
        },
    }


def recorded(descriptor: Document, process: str) -> dict[str, Any]:
    """Return what a derived descriptor records: settings, revision, first row and its identity."""
    data: dict[str, Any] = descriptor["configuration"][process]["data"]
    return data


def settings_history(
    documents: Iterable[NamedDocument],
) -> tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]:
    """Return the initial settings of a derived run, and its changes as `process` takes them.

    Raises
    ------
    ValueError
        If these are not the documents of a derived run.
    """
    initial: dict[str, Any] | None = None
    process = ""
    changes: list[tuple[str, dict[str, Any]]] = []
    for name, document in documents:
        if name == "start" and is_derived(document):
            process = document["process"]["name"]
            initial = json.loads(document["process"]["settings"])
        elif name == "descriptor" and process:
            if process not in document["configuration"]:
                continue  # snapshots of results, under whatever settings are in force
            data = recorded(document, process)
            if data["revision"]:
                changes.append((data["first_raw_uid"], json.loads(data["settings"])))
    if initial is None:
        raise ValueError("no settings history: these are not the documents of a derived run")
    return initial, changes
