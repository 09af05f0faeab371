"""The beamtime, as DESY says it in a file ``beamtime-metadata-<id>.json``.

Its section ``onlineAnalysis`` has paths of keys and tokens: neither that nor anything else
that sounds like a secret goes into a document.
"""

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from p06bs.metadata.indexed import FOLDER
from p06bs.metadata.records import Person, Proposal, Record, Text, said

PATTERN = "beamtime-metadata-*.json"

SECRET = re.compile(
    r"(^|_)(ssh|rsa)|token|passwd|pass_?(word|phrase)|secret|credential|"
    r"(private|public|api|access|ssh|rsa)_?key|(^|_)key_?(file|path)"
)
"""Names of fields that no document gets; as words in small letters with `_` between them."""


class BeamtimeError(ValueError):
    """A file of a beamtime that cannot be used; says which, and why."""


class Users(Record):
    """Names of accounts that may take part."""

    door_db: tuple[Text, ...] = ()
    special: tuple[Text, ...] = ()
    unknown: tuple[Text, ...] = ()


class Beamtime(Record):
    """A beamtime. Times are local, as in the file."""

    beamtime_id: Text
    proposal_id: Text | None = None
    proposal_type: Text | None = None
    title: Text | None = None
    facility: Text | None = None
    beamline: Text | None = None
    beamline_alias: Text | None = None
    beamline_setup: Text | None = None
    core_path: Text | None = None
    event_start: Text | None = None
    event_end: Text | None = None
    generated: Text | None = None
    contact: Text | None = None
    unix_id: Text | None = None
    pi: Person | None = None
    leader: Person | None = None
    applicant: Person | None = None
    users: Users | None = None

    @classmethod
    def read(cls, path: Path) -> "Beamtime":
        """Read a file, or the one such file in a folder such as ``/gpfs/current``.

        Raises
        ------
        BeamtimeError
            If there is none or more than one, or it is not as it should be.
        """
        file = _only(path) if path.is_dir() else path
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise BeamtimeError(f"{file} holds no JSON object")
            return cls.model_validate(public(content))
        except OSError as error:
            raise BeamtimeError(f"{file} cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            raise BeamtimeError(f"{file}: {said(error)}") from error
        except ValueError as error:
            if isinstance(error, BeamtimeError):
                raise
            raise BeamtimeError(f"{file} is no JSON: {error}") from error

    def start(self) -> dict[str, Any]:
        """Return the fields of a start document."""
        beamtime = self.document()
        proposal = Proposal(id=self.proposal_id, type=beamtime.pop("proposal_type", None))
        people = {
            role: beamtime.pop(role)
            for role in ("pi", "leader", "applicant", "contact", "users")
            if role in beamtime
        }
        fields = {
            "beamtime_id": beamtime.pop("beamtime_id"),
            "proposal_id": beamtime.pop("proposal_id", None),
            FOLDER: beamtime.pop("core_path", None),
            "beamtime": beamtime,
            "proposal": proposal.document(),
            "people": people,
        }
        return {key: value for key, value in fields.items() if value}


def public(value: Any) -> Any:
    """Return JSON without what sounds like a secret, at any depth."""
    if isinstance(value, dict):
        return {key: public(inner) for key, inner in value.items() if not _is_secret(key)}
    return [public(inner) for inner in value] if isinstance(value, list) else value


def _is_secret(name: str) -> bool:
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z]+", "_", name)
    words = parted.lower()
    return bool(SECRET.search(words)) or "onlineanalysis" in words.replace("_", "")


def _only(folder: Path) -> Path:
    files = sorted(folder.glob(PATTERN))
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise BeamtimeError(f"{folder} must have one {PATTERN}; found {found}")
    return files[0]
