"""Identity: digests of settings, and the uids that a derived run and its events have.

Everything here is deterministic, so that a retried batch, a restarted pipeline
and an offline computation name the same event by the same uid.
"""

import hashlib
import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel
from xxhash import xxh3_128_hexdigest

Document = Mapping[str, Any]
Name = Literal[
    "start",
    "descriptor",
    "event",
    "event_page",
    "stream_resource",
    "stream_datum",
    "stop",
    "resource",
    "datum",
    "datum_page",
]
NamedDocument = tuple[str, Document]


@dataclass(frozen=True, slots=True)
class LoggedArray:
    """Stands for an array in a document whose data were left in the document's log.

    It says what the array is and where it begins among the buffers of its document,
    and has no values.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    place: int = field(default=0, compare=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> "LoggedArray":
        """Return what stands for one item along the leading axis."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        shape = self.shape[1:]
        row = self.dtype.itemsize * math.prod(shape)
        return LoggedArray(self.dtype, shape, self.place + index % len(self) * row)

    def as_row(self) -> "LoggedArray":
        """Return what stands for an array whose only row this one is."""
        return LoggedArray(self.dtype, (1, *self.shape), self.place)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


PROCESS = {"name", "settings", "settings_digest", "inputs"}
"""What the start document of each derived run says of its process, at least."""


def is_derived(start: Document) -> bool:
    """Return whether a start document is a derived run's (users may write ``process``, too)."""
    process, sources = start.get("process"), start.get("derived_from")
    return (
        "original_run_uid" in start
        and isinstance(sources, Sequence)
        and len(sources) > 0
        and all(isinstance(uid, str) for uid in sources)
        and isinstance(process, Mapping)
        and process.keys() >= PROCESS
        and isinstance(inputs := process["inputs"], Mapping)
        and all(_is_input(bound) for bound in inputs.values())
    )


def _is_input(bound: Any) -> bool:
    """Return whether it says what feeds an input: a data key, maybe of another derived run."""
    return (
        isinstance(bound, Mapping)
        and bound.keys() >= {"stream", "data_key"}
        and ("run" not in bound or (isinstance(bound["run"], str) and "pipeline" in bound))
    )


def goes_with_scan(start: Document) -> bool:
    """Return whether a derived run is made while the scan goes on: no preview, and not again."""
    return not start["process"].get("reprocessing")


def pipeline_of(start: Document) -> str:
    """Return by which name a derived run feeds pipelines: its own pipeline's, or its process's."""
    process = start["process"]
    return str(process.get("pipeline") or process["name"])


def worked_on(start: Document) -> str:
    """Return the uid of the run whose rows a derived run's are: what it was made from, mostly.

    Where all inputs come from other derived runs, which `derived_from` names, it is the raw run.
    """
    fed = {bound.get("run") for bound in start["process"]["inputs"].values()}
    others = [uid for uid in start["derived_from"] if uid not in fed]
    return str(others[0] if others else start["original_run_uid"])


SNAPSHOTS = "snapshots"
"""Stream of a derived run for results of the whole run so far."""


def is_snapshots(descriptor: Document) -> bool:
    """Return whether a derived descriptor is of snapshots, and of no rows."""
    name = str(descriptor.get("name", ""))
    return name == SNAPSHOTS or name.startswith(f"{SNAPSHOTS}_r")


def settings_json(settings: BaseModel) -> str:
    """Return settings as canonical JSON: sorted keys, no white space."""
    return json.dumps(settings.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))


def settings_digest(settings: BaseModel) -> str:
    """Return the digest of settings: 16 hexadecimal digits of BLAKE2b over their JSON."""
    return hashlib.blake2b(settings_json(settings).encode(), digest_size=8).hexdigest()


def run_uid(
    raw_uid: str,
    *,
    modality: str,
    version: str,
    digest: str,
    inputs: Mapping[str, Any],
    reprocessing: int = 0,
) -> str:
    """Return the uid of the derived run that these make, as a UUID string."""
    identity = json.dumps(
        [raw_uid, modality, version, digest, inputs, reprocessing],
        sort_keys=True,
        separators=(",", ":"),
    )
    return str(uuid.UUID(bytes=hashlib.blake2b(identity.encode(), digest_size=16).digest()))


def part_uid(run: str, *parts: object) -> str:
    """Return the uid of a descriptor or stop document of the derived run `run`."""
    identity = json.dumps([run, *map(str, parts)])
    return str(uuid.UUID(bytes=hashlib.blake2b(identity.encode(), digest_size=16).digest()))


def event_uids(run: str, identities: Sequence[str]) -> list[str]:
    """Return the uids of derived events: a hash (XXH3, 128 bit) of run and raw identity each.

    Parameters
    ----------
    run : str
        Uid of the derived run.
    identities : sequence of str
        Raw event uids, or ``"<stream_datum uid>/<index>"``.
    """
    return [xxh3_128_hexdigest(f"{run}/{identity}".encode()) for identity in identities]
