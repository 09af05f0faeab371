"""Tokens of users and services, made on the server's host: Tiled's API keys."""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from fastapi import HTTPException
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import selectinload
from starlette.requests import Request
from tiled.authn_database import orm
from tiled.server.authentication import generate_apikey
from tiled.server.schemas import APIKeyRequestParams

from p06bs.server.login import principals
from p06bs.server.login.terms import NOTE_LENGTH, PURPOSES, Owner, TokenError, check_scopes

T = TypeVar("T")

SHOWN = 8
"""Characters of a token by which it is listed and revoked."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; the secret itself is kept nowhere."""

    first_eight: str
    owner: str
    kind: str
    scopes: tuple[str, ...]
    note: str
    created: datetime | None
    expires: datetime | None
    last_used: datetime | None

    @property
    def purpose(self) -> str:
        """Return what it is for in a word, or its scopes where there is none."""
        known = {frozenset(scopes): purpose for purpose, scopes in PURPOSES.items()}
        return known.get(frozenset(self.scopes)) or " ".join(self.scopes)

    @property
    def expired(self) -> bool:
        """Return whether it is of no use any more."""
        return self.expires is not None and self.expires <= datetime.now(UTC)


class Tokens:
    """The tokens in a database of principals. Each method runs an event loop of its own.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``; made where there is none.
    providers : sequence of str
        What users log in by, as `authentication.providers_of` says.

    Raises
    ------
    principals.DatabaseError
        By every method, if the database does not answer.
    """

    def __init__(self, uri: str, providers: Sequence[str]) -> None:
        self._uri = uri
        self._providers = tuple(providers)

    def create(
        self, owner: Owner, scopes: Sequence[str], expires: datetime | None, note: str
    ) -> tuple[str, Token]:
        """Return a new token's secret, which cannot be had again, and what is known of it.

        Raises
        ------
        TokenError
            If the owner may not have these scopes, or has too many tokens already.
        """
        check_scopes(owner.kind, scopes)
        if len(note) > NOTE_LENGTH:
            raise TokenError(f"the note has {len(note)} characters, {NOTE_LENGTH} are the limit")
        return self._run(self._create(owner, scopes, expires, note))

    def find(self, owner: Owner | None = None) -> list[Token]:
        """Return the tokens, of one owner or of all, the newest last."""
        return self._run(self._find(owner))

    def revoke(self, first_eight: str) -> Token:
        """Delete the one token that begins like this.

        Raises
        ------
        TokenError
            If there is none, or more than one.
        """
        if not re.fullmatch(r"[0-9a-f]{8,}", first_eight):
            raise TokenError(
                f"{first_eight[:SHOWN]!r} names no token: write its first {SHOWN} characters, "
                "as p06bs token list shows them"
            )
        return self._run(self._revoke(first_eight[:SHOWN]))

    def revoke_all(self, owner: Owner) -> list[Token]:
        """Delete all tokens of an owner.

        Raises
        ------
        TokenError
            If there is none.
        """
        return self._run(self._revoke_all(owner))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return asyncio.run(work)
        except (OSError, SQLAlchemyError) as error:
            said = getattr(error, "orig", None) or error
            raise principals.DatabaseError(
                f"the database of tokens, {principals.shown(self._uri)}: {said}"
            ) from error

    async def _create(
        self, owner: Owner, scopes: Sequence[str], expires: datetime | None, note: str
    ) -> tuple[str, Token]:
        seconds = None
        if expires is not None:
            seconds = int((expires - datetime.now(UTC)).total_seconds())
        async with principals.session(self._uri) as db:
            if owner.kind == "user":
                principal = await principals.user(db, owner.name, self._providers)
            else:
                principal = await principals.service(db, owner.name)
            await db.refresh(principal, ["roles"])
            params = APIKeyRequestParams(expires_in=seconds, scopes=[*scopes], note=note or None)
            try:
                answer = await generate_apikey(db, principal, params, _json_request())
            except HTTPException as error:
                raise TokenError(f"{owner}: {error.detail}") from error
            secret: str = json.loads(answer.body)["secret"]
            (made,) = await _keys(db, lambda token: token.first_eight == secret[:SHOWN])
        return secret, made[1]

    async def _find(self, owner: Owner | None) -> list[Token]:
        async with principals.session(self._uri) as db:
            return [token for _, token in await _keys(db, _is_of(owner))]

    async def _revoke(self, first_eight: str) -> Token:
        async with principals.session(self._uri) as db:
            found = await _keys(db, lambda token: token.first_eight == first_eight)
            if len(found) != 1:
                raise TokenError(f"{len(found) or 'no'} token begins with {first_eight}")
            return (await _delete(db, found))[0]

    async def _revoke_all(self, owner: Owner) -> list[Token]:
        async with principals.session(self._uri) as db:
            found = await _keys(db, _is_of(owner))
            if not found:
                raise TokenError(f"{owner} has no token")
            return await _delete(db, found)


async def _keys(db: Any, wanted: Callable[[Token], bool]) -> list[tuple[Any, Token]]:
    query = (
        select(orm.APIKey)
        .options(selectinload(orm.APIKey.principal).selectinload(orm.Principal.identities))
        .order_by(orm.APIKey.time_created)
    )
    keys = (await db.execute(query)).unique().scalars()
    return [(key, token) for key in keys if wanted(token := _token(key))]


async def _delete(db: Any, found: Sequence[tuple[Any, Token]]) -> list[Token]:
    for key, _ in found:
        await db.delete(key)
    await db.commit()
    return [token for _, token in found]


def _token(key: Any) -> Token:
    names = sorted({identity.id for identity in key.principal.identities})
    return Token(
        first_eight=key.first_eight,
        owner=", ".join(names) or str(key.principal.uuid),
        kind=getattr(key.principal.type, "value", key.principal.type),
        scopes=tuple(key.scopes),
        note=key.note or "",
        created=_utc(key.time_created),
        expires=_utc(key.expiration_time),
        last_used=_utc(key.latest_activity),
    )


def _utc(moment: datetime | None) -> datetime | None:
    """Return a time with its zone, which SQLite does not keep."""
    return moment and (moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment)


def _is_of(owner: Owner | None) -> Callable[[Token], bool]:
    return lambda token: owner is None or (token.kind, token.owner) == (owner.kind, owner.name)


def _json_request() -> Request:
    """Return what Tiled asks for the form of its answer."""
    request = Request({"type": "http", "headers": [(b"accept", b"application/json")]})
    request.state.metrics = defaultdict(lambda: defaultdict(float))  # where it notes times
    return request
