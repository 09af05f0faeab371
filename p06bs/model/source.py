"""Where columns come from, and where in it rows lie."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """Where columns come from: the events of a stream, or the frames of one external data key."""

    stream: str
    data_key: str | None = None

    @property
    def key(self) -> str:
        """Name of the source, unique within a run."""
        return self.stream if self.data_key is None else f"{self.stream}/{self.data_key}"


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start` to `start + count - 1` of what lies at `where`.

    `where` is a frame of the document log (offset, nbytes), or of another run's log (offset,
    nbytes, run uid), or the document itself where there is no log, or the uid of a stream
    resource, whose rows are then absolute indices. `lacking` says why there is nothing to be read
    for these rows; "" if there is.
    """

    where: Any
    start: int
    count: int
    lacking: str = ""
