"""The runs on the server, as a Tiled client."""

import os
from pathlib import Path
from typing import Any

from p06bs.bus.membership import Membership
from p06bs.http_api import KEY_VARIABLE

SECONDS = 3.0
"""How long the server is waited for."""


class NoCatalogError(LookupError):
    """There is no server whose runs could be shown; says why."""


class ServerRuns:
    """The runs on the server that is registered at the Topology Manager, whenever it comes up.

    Parameters
    ----------
    peers : Membership or None
        Who is there; None if that cannot be known.
    key_file : Path
        Has the key to the server, unless the environment has it.
    """

    def __init__(self, peers: Membership | None, key_file: Path) -> None:
        self._peers, self._key_file = peers, key_file
        self._url: str | None = None
        self._root: Any = None

    def root(self) -> Any:
        """Return the root of the server that is there now; the same object while it is the same.

        ``root["archive"]`` has all runs if the server has an offline DB, ``root["live"]`` the
        newest.

        Raises
        ------
        NoCatalogError
            If there is no server, no key to it, or it does not answer.
        """
        url = self._peers.address_of("server", "http") if self._peers is not None else None
        if url is None and self._root is None:
            raise NoCatalogError("no server is registered at the Topology Manager")
        if url is not None and url != self._url:
            root = _connected(url, self._key_file)
            self.close()
            self._url, self._root = url, root
        return self._root

    def close(self) -> None:
        """Close the connection."""
        if self._root is not None:
            self._root.context.close()
            self._url = self._root = None


def _connected(url: str, key_file: Path) -> Any:
    try:
        key = os.environ.get(KEY_VARIABLE) or key_file.read_text().strip()
    except OSError as error:
        raise NoCatalogError(
            f"no key to the server at {url}: ${KEY_VARIABLE} is not set, and {key_file} cannot "
            f"be read ({error.strerror})"
        ) from None
    try:
        import httpx
        from tiled.client import from_uri

        # Tiled's client would try for most of a minute whether anybody answers.
        httpx.get(f"{url.rstrip('/')}/healthz", timeout=SECONDS).raise_for_status()
        return from_uri(url, api_key=key)
    except Exception as error:  # whatever a client or a server runs into, the session goes on
        raise NoCatalogError(f"the server at {url} cannot be used: {error}") from error


def all_runs(root: Any) -> Any:
    """Return the tree with all runs: the offline DB, else the newest in memory."""
    return root["archive"] if "archive" in root else root["live"]
