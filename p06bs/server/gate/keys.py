"""API keys of the users' database as the gate asks for them, and what a key may make.

Stock ``subscribe()`` makes a short-lived key with all scopes of its owner, and
so needs ``create:apikeys``: whoever has such a key for reading could make one
for everything, for ever. Here a key makes no key with more scopes or a longer
life than its own, nor one that lives for long: whoever revokes a key does not
know of those made with it.

A key that a session makes for a handshake ends with the session, as far as WebSockets go.
"""

import asyncio
import json
import logging
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import FastAPI
from sqlalchemy import select, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from tiled.authn_database import orm
from tiled.authn_database.core import lookup_valid_api_key
from tiled.server.connection_pool import get_database_engine
from tiled.server.settings import get_settings

from p06bs.server import sessions
from p06bs.server.gate.bodies import RefusedError
from p06bs.server.gate.databases import ERRORS, NO_ANSWER, fault_of

logger = logging.getLogger(__name__)

INHERIT = "inherit"

NOTE_LENGTH = 255
"""Tiled stores longer ones and then cannot show them."""

MADE_WITH = re.compile(r"(?: \[made with ([0-9a-f]{8})\])+\Z")
"""At the end of the notes of keys that were made with keys: who lists them sees it, too.

It is set here only: where a client's own note ends so, that is taken away.
"""

CHILD_LIFE = timedelta(minutes=10)
"""Most that a key lives that was made with a key: so long it may outlive a revoked parent.

Stock ``subscribe()`` needs its key for the handshake and asks for a minute. A
chain of keys ends no later than its first, as none outlives its parent.
"""

FRESH_SECONDS = 0.5
"""Age up to which names answer for all WebSockets: those of sessions are in no index."""

SESSION_KEY_LIFE = timedelta(days=90)
"""Life of a key that a user makes after a login without saying how long, as of ``p06bs token``."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key may do, and whose it is.

    Attributes
    ----------
    name : str
        Its first eight characters.
    maker : str
        Name of the key that it was made with, or of that one's maker; of the session that
        made it for a handshake; else empty.
    """

    owner: str
    scopes: frozenset[str]
    tags: tuple[str, ...] | None
    expires: datetime | None
    name: str = ""
    maker: str = ""

    def lasting(self, now: datetime) -> str:
        """Return the name of the key that counts after a handshake; empty if that is none.

        Stock ``subscribe()`` makes a key for the handshake and revokes it at once.
        """
        brief = self.expires is not None and self.expires - now <= CHILD_LIFE
        return self.maker or ("" if brief else self.name)


class Keys:
    """Look keys up in the database of a Tiled application with several users."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._names: frozenset[str] = frozenset()
        self._read = -FRESH_SECONDS
        self._reading = asyncio.Lock()

    async def find(self, secret: str) -> Key | None:
        """Return what is known of a key, None if it is not valid.

        Raises
        ------
        RefusedError
            503 if the database does not answer.
        """
        try:
            return await self._find(bytes.fromhex(secret))
        except ValueError:
            return None
        except ERRORS as error:
            if fault_of(error) != "away":
                raise
            logger.warning("a key cannot be looked up: %s: %.200s", type(error).__name__, error)
            raise RefusedError(503, NO_ANSWER, 5.0) from error

    async def _find(self, digits: bytes) -> Key | None:
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
                name=found.first_eight,
                maker=made[1] if (made := MADE_WITH.search(found.note or "")) else "",
            )

    async def holds(self, name: str) -> bool:
        """Return whether a key or session of this name is there, neither revoked nor expired.

        Raises
        ------
        OSError, sqlalchemy.exc.SQLAlchemyError
            If the database cannot be read.
        """
        async with self._reading:
            begun = time.monotonic()
            if begun - self._read >= FRESH_SECONDS:
                self._names = await self._all_names()
                self._read = begun
            return name in self._names

    async def _all_names(self) -> frozenset[str]:
        key, session = orm.APIKey, orm.Session
        ends = union_all(
            select(key.first_eight, key.expiration_time),
            select(session.state[sessions.NAME].as_string(), session.expiration_time).where(
                ~session.revoked
            ),
        )
        now = datetime.now(UTC)
        async with self._engine().connect() as connection:
            found = await connection.execute(ends)
            return frozenset(
                name for name, end in found if end is None or end.replace(tzinfo=UTC) > now
            )

    async def answers(self) -> bool:
        """Return True if the database can be read: SQLite answers without a table when locked.

        Raises
        ------
        OSError, sqlalchemy.exc.SQLAlchemyError
            If it cannot.
        """
        async with self._engine().connect() as connection:
            await connection.execute(select(orm.Principal.id).limit(1))
        return True

    def _engine(self) -> Any:
        return get_database_engine(self._app.dependency_overrides[get_settings]())


def bounded_request(
    body: bytes, parent: Key | None, now: datetime, own: bool = True, session: str = ""
) -> bytes:
    """Return the request for a new key with no more scopes and life than its parent gives.

    Parameters
    ----------
    body : bytes
        JSON, as the client sent it.
    parent : Key or None
        The key that asks; None is a session, which may have all that its user has.
    now : datetime
    own : bool
        Whether the new key's owner is the parent's; admins make keys for others, whose
        scopes are not those of the parent.
    session : str
        Name of the session that asks, where there is no parent.

    Raises
    ------
    RefusedError
        If it names scopes that the parent has not, no life at all, or has too long a note.
    """
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return body  # for Tiled to refuse
    if not isinstance(asked, dict):
        return body
    note = MADE_WITH.sub("", str(asked.get("note") or ""))
    if len(note) > NOTE_LENGTH:
        raise RefusedError(422, f"The note has more than {NOTE_LENGTH} characters.")
    asked["expires_in"] = life = _life(asked.get("expires_in"), parent, now)
    if parent is not None:
        maker = parent.maker or parent.name
    else:  # a token for longer is made to outlive the session
        maker = session if life <= CHILD_LIFE.total_seconds() else ""
    made = f" [made with {maker}]" if maker and own else ""
    if note or made:
        asked["note"] = note[: NOTE_LENGTH - len(made)] + made
    if parent is not None and own:
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


def _life(asked: Any, parent: Key | None, now: datetime) -> int:
    """Return the seconds that the key lives."""
    if asked is not None and (type(asked) is not int or asked <= 0):
        raise RefusedError(422, "expires_in is a whole number of seconds, more than 0.")
    if parent is None:
        return int(SESSION_KEY_LIFE.total_seconds()) if asked is None else asked
    most = CHILD_LIFE
    if parent.expires is not None:
        most = min(most, parent.expires - now)
    seconds = int(most.total_seconds())
    return seconds if asked is None else min(asked, seconds)
