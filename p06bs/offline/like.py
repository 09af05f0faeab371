"""How a recorded derived run was made, so that it can be made again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from p06bs.model.documents import NamedDocument, worked_on
from p06bs.model.revisions import settings_history


@dataclass(frozen=True)
class Like:
    """How a recorded derived run was made, so that it can be made again."""

    raw: str
    modality: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    history: list[tuple[str, dict[str, Any]]]
    reprocessing: int
    rows: int | None
    upstream: list[str]

    @classmethod
    def of(cls, derived: Iterable[NamedDocument]) -> "Like":
        """Read it from a derived run's documents.

        Raises
        ------
        ValueError
            If the run is no derived run.
        """
        documents = list(derived)
        settings, history = settings_history(documents)
        start = documents[0][1]
        process = start["process"]
        return cls(
            raw=worked_on(start),
            modality=process["modality"],
            settings=settings,
            inputs={name: _path(bound) for name, bound in process["inputs"].items()},
            history=history,
            reprocessing=process.get("reprocessing", 0),
            rows=process.get("rows"),
            upstream=list(
                dict.fromkeys(i["run"] for i in process["inputs"].values() if "run" in i)
            ),
        )


def _path(bound: Mapping[str, str]) -> str:
    """Return what an explicit input calls what fed one."""
    return "/".join(bound[part] for part in ("pipeline", "stream", "data_key") if part in bound)
