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

from p06bs.server.gate.bodies import RefusedError

INHERIT = "inherit"

NOTE_LENGTH = 255
"""Tiled stores longer ones and then cannot show them."""


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

    async def answers(self) -> bool:
        """Return True if the database answers.

        Raises
        ------
        OSError, sqlalchemy.exc.SQLAlchemyError
            If it does not answer.
        """
        async with self._engine().connect() as connection:
            return bool((await connection.execute(text("SELECT 1"))).scalar())

    def _engine(self) -> Any:
        return get_database_engine(self._app.dependency_overrides[get_settings]())


def bounded_request(body: bytes, parent: Key | None, now: datetime) -> bytes:
    """Return the request for a new key with no more scopes and life than its parent has.

    Parameters
    ----------
    body : bytes
        JSON, as the client sent it.
    parent : Key or None
        The key that asks; None is a session, which may have all that its user has.
    now : datetime

    Raises
    ------
    RefusedError
        If it names scopes that the parent has not, or has too long a note.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return body  # for Tiled to refuse
    if not isinstance(asked, dict):
        return body
    if len(str(asked.get("note") or "")) > NOTE_LENGTH:
        raise RefusedError(422, f"The note has more than {NOTE_LENGTH} characters.")
    if parent is None:
        return body
    asked = _lived(asked, parent, now)
    if INHERIT not in parent.scopes:
        asked["scopes"] = _scopes(asked.get("scopes"), parent)
    if parent.tags is not None:
        asked["access_tags"] = _tags(asked.get("access_tags"), parent.tags)
    return json.dumps(asked).encode()


def _scopes(asked: Any, parent: Key) -> list[str]:
    if asked is None or asked == [INHERIT]:
        return sorted(parent.scopes)
    if not isinstance(asked, list) or not set(map(str, asked)) <= parent.scopes:
        raise RefusedError(
            403,
            "A key makes no key with more scopes than its own, "
            f"which are {', '.join(sorted(parent.scopes))}.",
        )
    return asked


def _tags(asked: Any, own: tuple[str, ...]) -> list[str]:
    if not asked:
        return list(own)
    if not isinstance(asked, list) or not set(map(str, asked)) <= set(own):
        raise RefusedError(403, "A key makes no key with more access tags than its own.")
    return asked


def _lived(asked: Mapping[str, Any], parent: Key, now: datetime) -> dict[str, Any]:
    left = None if parent.expires is None else int((parent.expires - now).total_seconds())
    seconds = asked.get("expires_in")
    if left is None or (isinstance(seconds, int) and seconds <= left):
        return dict(asked)
    return {**asked, "expires_in": left}
