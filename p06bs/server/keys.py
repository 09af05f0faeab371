"""API keys of the users' database as the gate asks for them, and what a key may make.

Stock ``subscribe()`` makes a short-lived key with all scopes of its owner, and
so needs ``create:apikeys``: whoever has such a key for reading could make one
for everything, for ever. Here a key makes no key with more scopes or a longer
life than its own.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from tiled.authn_database.core import lookup_valid_api_key
from tiled.server.connection_pool import get_database_engine
from tiled.server.settings import get_settings

from p06bs.server.bodies import RefusedError

INHERIT = "inherit"


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may do, and whose it is."""

    owner: str
    scopes: frozenset[str]
    tags: tuple[str, ...] | None
    expires: datetime | None


class Keys:
    """Look keys up in the database of a Tiled application with several users."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def find(self, secret: str) -> Key | None:
        """Return what is known of a key, None if it is not valid."""
        try:
            digits = bytes.fromhex(secret)
        except ValueError:
            return None
        async with AsyncSession(self._engine(), expire_on_commit=False) as db:
            found = await lookup_valid_api_key(db, digits)
            if found is None:
                return None
            expires = found.expiration_time
            return Key(
                owner=str(found.principal.uuid),
                scopes=frozenset(found.scopes),
                tags=None if found.access_tags is None else tuple(found.access_tags),
                expires=expires and expires.replace(tzinfo=UTC),
            )

    async def ping(self) -> None:
        """Ask the database something.

        Raises
        ------
        OSError, sqlalchemy.exc.SQLAlchemyError
            If it does not answer.
        """
        async with self._engine().connect() as connection:
            await connection.execute(text("SELECT 1"))

    def _engine(self) -> Any:
        return get_database_engine(self._app.dependency_overrides[get_settings]())


def bounded_request(body: bytes, parent: Key, now: datetime) -> bytes:
    """Return the request for a new key with no more scopes and life than its parent has.

    Raises
    ------
    RefusedError
        If it names scopes that the parent has not.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return body  # for Tiled to refuse
    if not isinstance(asked, dict) or INHERIT in parent.scopes:
        return body if not isinstance(asked, dict) else _encoded(_lived(asked, parent, now))
    scopes = asked.get("scopes")
    if scopes is None or scopes == [INHERIT]:
        asked["scopes"] = sorted(parent.scopes)
    elif not isinstance(scopes, list) or not set(map(str, scopes)) <= parent.scopes:
        raise RefusedError(
            403,
            "A key makes no key with more scopes than its own, "
            f"which are {', '.join(sorted(parent.scopes))}.",
        )
    if parent.tags is not None and not set(asked.get("access_tags") or ()) <= set(parent.tags):
        raise RefusedError(403, "A key makes no key with more access tags than its own.")
    if parent.tags is not None:
        asked["access_tags"] = asked.get("access_tags") or list(parent.tags)
    return _encoded(_lived(asked, parent, now))


def _lived(asked: Mapping[str, Any], parent: Key, now: datetime) -> dict[str, Any]:
    left = None if parent.expires is None else int((parent.expires - now).total_seconds())
    seconds = asked.get("expires_in")
    if left is None or (isinstance(seconds, int) and seconds <= left):
        return dict(asked)
    return {**asked, "expires_in": left}


def _encoded(asked: Mapping[str, Any]) -> bytes:
    return json.dumps(asked).encode()
