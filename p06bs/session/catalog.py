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


def root_of(peers: Membership | None, key_file: Path) -> Any:
    """Return the root of the server that is registered at the Topology Manager.

    ``root["archive"]`` has all runs if the server has an offline DB, ``root["live"]`` the newest.

    Raises
    ------
    NoCatalogError
        If there is no server, no key to it, or it does not answer.
    """
    url = peers.address_of("server", "http") if peers is not None else None
    if url is None:
        raise NoCatalogError("no server is registered at the Topology Manager")
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
