"""Where files of detectors may lie."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlparse

from p06bs.config.server import Access
from p06bs.model.documents import Document

ZARR = "application/x-zarr"


class OutsideError(Exception):
    """A file lies outside the roots, or leads there."""


class FileRoots:
    """Directories under which detector files are read.

    Parameters
    ----------
    paths : iterable of Path, optional
        None is everywhere, which is for a single user.
    beamtimes : iterable of Path
        Below these a run's own beamtime folder counts, too.
    folder : str, optional
        That folder.

    The file system is asked in `real` only: it may be slow.
    """

    def __init__(
        self,
        paths: Iterable[Path] | None = None,
        beamtimes: Iterable[Path] = (),
        folder: str | None = None,
    ) -> None:
        self.paths = None if paths is None else tuple(paths)
        self._beamtimes = tuple(beamtimes)
        self._folder = folder

    def of(self, folder: str | None) -> "FileRoots":
        """Return the directories for a run with this beamtime folder.

        A run never gives away the files of another beamtime: who may see the run
        may read its own folder, and no more is known.
        """
        return FileRoots(self.paths, self._beamtimes, folder)

    def real(self, path: Path) -> Path:
        """Return the path without symbolic links.

        Raises
        ------
        OutsideError
            If it does not lie under a root.
        """
        try:
            real = path.resolve()
        except RuntimeError as error:  # symbolic links that lead to themselves
            raise OutsideError(f"{path} leads nowhere: {error}") from None
        self.check(real)
        return real

    def check(self, real: Path) -> None:
        """Make sure that a path without symbolic links lies under a root.

        Raises
        ------
        OutsideError
            If it does not.
        """
        if self.paths is not None and not any(map(real.is_relative_to, self._directories())):
            raise OutsideError(f"{real} is outside the directories that this server may read")

    def _directories(self) -> Iterator[Path]:
        yield from (root.resolve() for root in self.paths or ())
        if self._folder is not None:
            own = Path(self._folder).resolve()
            below = (root.resolve() for root in self._beamtimes)
            if any(own.is_relative_to(root) and own != root for root in below):
                yield own


class Described(Protocol):
    """What says where detector files may lie: a server, or an ingestion."""

    @property
    def assets(self) -> tuple[Path, ...]:
        """Directories."""
        ...

    @property
    def access(self) -> Access | None:
        """Who may see what; None where there is one user, who may see all."""
        ...


def roots_of(server: Described) -> FileRoots:
    """Return where detector files may lie: [server] assets, and a run's own beamtime folder.

    A single user without assets may read all.
    """
    if server.access is None:
        return FileRoots(server.assets or None)
    return FileRoots(server.assets, server.access.roots)


def check_resource(resource: Document) -> None:
    """Make sure that a stream resource says what is asked of it: a file, and whose rows it has.

    Raises
    ------
    KeyError, TypeError
        If it does not.
    """
    for key in ("data_key", "uri"):
        if not isinstance(resource[key], str):
            raise TypeError(f"{key} is {str(resource[key])[:80]}, and no text")
    parameters = resource.get("parameters")
    if not isinstance(parameters, Mapping | None):
        raise TypeError(f"parameters are {str(parameters)[:80]}: a mapping is needed")


def path_of(resource: Document) -> Path:
    """Return the file or directory that a stream resource names.

    Raises
    ------
    ValueError
        If it names none on this file system.
    """
    parsed = urlparse(resource["uri"])
    if parsed.scheme not in ("file", "") or parsed.netloc not in ("", "localhost"):
        raise ValueError(f"{resource['uri']!r} is no file on this machine's file systems")
    return Path(unquote(parsed.path))


def assets(resources: Iterable[Document], roots: FileRoots) -> list[tuple[str, bool]]:
    """Return URIs of the files under the roots, and whether each is a directory."""
    found = []
    for resource in resources:
        try:
            real = roots.real(path_of(resource))
        except (ValueError, OutsideError):
            continue
        found.append((f"file://localhost{quote(str(real))}", resource.get("mimetype") == ZARR))
    return list(dict.fromkeys(found))
