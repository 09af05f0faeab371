"""What start and stop documents say of a run that it is found by: one list, for everybody.

Everything else is in the documents, too, and is searched slowly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["text", "integer", "number", "texts"]


@dataclass(frozen=True, slots=True)
class Indexed:
    """A field that the offline DB keeps in an index of its own.

    Attributes
    ----------
    key : str
        Where it is in a run's metadata ``{"start": ..., "stop": ...}``, as queries name it.
    kind : str
        Type of its values; of another type it is not in the index. ``texts`` is a list
        of text.
    """

    key: str
    kind: Kind = "text"

    @property
    def column(self) -> str:
        """Name of the field in a table: ``start.sample.name`` is ``sample_name``."""
        return self.key.partition(".")[2].replace(".", "_")

    def of(self, metadata: Mapping[str, Any]) -> Any:
        """Return the field's value; None where there is none of its kind."""
        value = value_at(metadata, self.key)
        return value if _IS[self.kind](value) else None


def value_at(metadata: Mapping[str, Any], key: str) -> Any:
    """Return what is at a key like ``start.sample.name``, None where nothing is."""
    value: Any = metadata
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_IS: Mapping[str, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": _is_number,
    "texts": lambda value: (
        isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    ),
}

INDEXED = (
    Indexed("start.uid"),
    Indexed("start.time", "number"),
    Indexed("start.scan_id", "integer"),
    Indexed("start.beamtime_id"),
    Indexed("start.proposal_id"),
    Indexed("start.sample.name"),
    Indexed("start.sample.uid"),
    Indexed("start.sample.elements", "texts"),
    Indexed("start.scan.kind"),
    Indexed("start.technique"),
    Indexed("start.endstation"),
    Indexed("start.plan_name"),
    Indexed("start.original_run_uid"),
    Indexed("start.process.name"),
    Indexed("start.process.settings_digest"),
    Indexed("stop.exit_status"),
)
"""The fields by which the offline DB finds a run among 1e5 quickly."""

BY_KEY = {field.key: field for field in INDEXED}
LISTS = tuple(field for field in INDEXED if field.kind == "texts")


def found_at(metadata: Mapping[str, Any], key: str) -> Any:
    """Return what runs are counted and sorted by: of an indexed field a value of its kind only."""
    field = BY_KEY.get(key)
    return value_at(metadata, key) if field is None else field.of(metadata)


FOLDER = "beamtime_folder"
"""Field of the start document: who may read this folder may see the run."""


def folder_of(start: Mapping[str, Any]) -> str | None:
    """Return the beamtime folder of a run; None where its start document names none."""
    folder = start.get(FOLDER)
    return folder if isinstance(folder, str) and folder else None
