"""Identity: digests of settings, and the uids that a derived run and its events have.

Everything here is deterministic, so that a retried batch, a restarted pipeline
and an offline computation name the same event by the same uid.
"""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

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


def is_derived(start: Document) -> bool:
    """Return whether a start document is a derived run's (users may write ``process``, too)."""
    process = start.get("process")
    return (
        "original_run_uid" in start
        and bool(start.get("derived_from"))
        and isinstance(process, Mapping)
        and {"name", "settings", "settings_digest", "inputs"} <= process.keys()
    )


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
    """Return the uids of derived events: a keyed hash of each raw identity.

    Parameters
    ----------
    run : str
        Uid of the derived run, the key of the hash.
    identities : sequence of str
        Raw event uids, or ``"<stream_datum uid>/<index>"``.
    """
    keyed = hashlib.blake2b(run.encode(), digest_size=16)
    uids = []
    for identity in identities:
        one = keyed.copy()
        one.update(identity.encode())
        uids.append(one.hexdigest())
    return uids
