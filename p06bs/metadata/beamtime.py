"""The beamtime, as DESY says it in a file ``beamtime-metadata-<id>.json``.

Its section ``onlineAnalysis`` has paths of keys and tokens: neither that nor anything else
that sounds like a secret goes into a document.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from p06bs.metadata.indexed import FOLDER
from p06bs.metadata.records import Person, Record, Text, said

PATTERN = "beamtime-metadata-*.json"

SECRET = re.compile(
    r"(^|_)(ssh|rsa)|token|passwd|pass_?(word|phrase)|secret|credential|"
    r"(private|public|api|access|ssh|rsa)_?key|(^|_)key_?(file|path)"
)
"""Names of fields that no document gets; as words in small letters with `_` between them."""


class BeamtimeError(ValueError):
    """A file of a beamtime that cannot be used; says which, and why."""


T = TypeVar("T")
Loosely = Annotated[T | Any, Field(union_mode="left_to_right")]
"""As said, if it is not of the form: the rest of the file is known all the same."""


class Users(Record):
    """Names of accounts that may take part."""

    door_db: tuple[Text, ...] = ()
    special: tuple[Text, ...] = ()
    unknown: tuple[Text, ...] = ()


class Beamtime(Record):
    """A beamtime. Times are local, as in the file."""

    beamtime_id: Text
    proposal_id: Loosely[Text] = None
    proposal_type: Loosely[Text] = None
    title: Loosely[Text] = None
    facility: Loosely[Text] = None
    beamline: Loosely[Text] = None
    beamline_alias: Loosely[Text] = None
    beamline_setup: Loosely[Text] = None
    core_path: Loosely[Text] = None
    event_start: Loosely[Text] = None
    event_end: Loosely[Text] = None
    generated: Loosely[Text] = None
    contact: Loosely[Text] = None
    unix_id: Loosely[Text] = None
    pi: Loosely[Person] = None
    leader: Loosely[Person] = None
    applicant: Loosely[Person] = None
    users: Loosely[Users] = None

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
        proposal = {"id": beamtime.get("proposal_id"), "type": beamtime.pop("proposal_type", None)}
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
            "proposal": {key: value for key, value in proposal.items() if value},
            "people": people,
        }
        return {key: value for key, value in fields.items() if value}


def public(value: Any, hidden: list[str] | None = None) -> Any:
    """Return JSON without what sounds like a secret, at any depth.

    Parameters
    ----------
    value
    hidden : list of str, optional
        Gets the names of what was left out.
    """
    hidden = [] if hidden is None else hidden
    if isinstance(value, dict):
        secret = {key for key in value if _is_secret(key)}
        hidden += sorted(secret)
        return {key: public(value[key], hidden) for key in value if key not in secret}
    return [public(inner, hidden) for inner in value] if isinstance(value, list) else value


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
