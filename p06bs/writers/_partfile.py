"""A file that appears complete or not at all, and never replaces another."""

import os
import uuid
from pathlib import Path


class PartFile:
    """A hidden file beside its final name, until `publish` links it there.

    Raises
    ------
    FileExistsError
        If the final name is taken; asked at the start, because a scan takes hours.
    OSError
        If the directory cannot be made or used.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.{uuid.uuid4().hex[:12]}.part")
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            raise FileExistsError(_taken(final))

    def publish(self) -> None:
        """Give the file its final name: on the disk first, then linked in one step.

        Raises
        ------
        FileExistsError
            If another writer took the name meanwhile; this one's part file is removed.
        OSError
            If the disk fails, or the file system has no hard links.
        """
        _fsync(self.path)
        try:
            os.link(self.path, self.final)
        except FileExistsError:
            raise FileExistsError(_taken(self.final)) from None
        finally:
            self.discard()
        _fsync(self.final.parent)

    def discard(self) -> None:
        """Remove the part file, if it is there."""
        self.path.unlink(missing_ok=True)


def _taken(final: Path) -> str:
    return f"{final} exists; p06bs never overwrites a file: move it away or choose another prefix"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
