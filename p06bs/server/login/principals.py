"""The database of users, services and hashed tokens: Tiled's, with our roles.

A user is somebody who has an account on the system; whatever the user logs in
by, all identities of one name are one principal. A service has a name, too,
and is nobody's account.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import ColumnElement, event, select
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from tiled import alembic_utils
from tiled.authn_database import alembic_constants, core, orm
from tiled.utils import ensure_specified_sql_driver

from p06bs.server.login.private import make_private
from p06bs.server.login.terms import ROLES

SERVICE = "service"
"""Provider of a service's identity: the identity's id is the service's name."""

TOKEN = "token"
"""Provider of a user's identity where nobody can log in, only tokens count."""


class DatabaseError(RuntimeError):
    """The database of principals cannot be used; says why and what to do."""


@asynccontextmanager
async def session(uri: str) -> AsyncIterator[AsyncSession]:
    """Open a session of its own on the database.

    Raises
    ------
    OSError, sqlalchemy.exc.SQLAlchemyError
        If the database does not answer.
    """
    engine = _engine(uri)
    try:
        async with AsyncSession(engine, autoflush=False, expire_on_commit=False) as db:
            yield db
    finally:
        await engine.dispose()


def prepare(uri: str, providers: Iterable[str], admins: Iterable[str] = ()) -> None:
    """Make the database if there is none, bring an older one up to date, set roles and admins.

    An SQLite file has mode 0600, and a copy is left beside it before it is
    changed to a newer version. Runs an event loop of its own.

    Parameters
    ----------
    uri : str
        ``sqlite:///PATH`` or ``postgresql://USER@HOST/NAME``.
    providers : iterable of str
        What users log in by: each user gets an identity for each.
    admins : iterable of str
        The users who administer tokens, and nobody else.

    Raises
    ------
    DatabaseError
        If it does not answer, or holds something else or something newer.
    """
    path = _file(uri)
    if path is not None:
        make_private(path)
    try:
        revision = asyncio.run(_revision(uri))
        if revision is None:
            asyncio.run(_create(uri))
            command.stamp(_alembic(uri), "head")
        elif revision != core.REQUIRED_REVISION:
            if path is not None:
                _copy(path, path.with_name(f"{path.name}.{revision}"))
            command.upgrade(_alembic(uri), core.REQUIRED_REVISION)
        asyncio.run(_settle(uri, tuple(providers), frozenset(admins)))
    except alembic_utils.UnrecognizedDatabase as error:
        raise DatabaseError(str(error)) from error
    except OSError as error:
        raise DatabaseError(f"the database of tokens, {shown(uri)}: {error}") from error


def shown(uri: str) -> str:
    """Return a database's URI without a password."""
    return make_url(uri).render_as_string(hide_password=True)


async def user(db: AsyncSession, name: str, providers: Iterable[str]) -> orm.Principal:
    """Return the principal of a user, made where there is none, with all identities."""
    wanted = tuple(providers)
    principal = await find_user(db, name) or await core.create_user(db, wanted[0], name)
    known = select(orm.Identity.provider).where(orm.Identity.id == name)
    for provider in sorted({*wanted} - {*(await db.execute(known)).scalars()}):
        db.add(orm.Identity(provider=provider, id=name, principal_id=principal.id))
    await db.commit()
    return principal


async def service(db: AsyncSession, name: str) -> orm.Principal:
    """Return the principal of a service, made where there is none."""
    principal = await find_service(db, name)
    if principal is None:
        principal = await core.create_service(db, "service")
        db.add(orm.Identity(provider=SERVICE, id=name, principal_id=principal.id))
        await db.commit()
    return principal


async def find_user(db: AsyncSession, name: str) -> orm.Principal | None:
    """Return the principal of a user, whatever the user has logged in by."""
    return await _find(db, orm.Identity.id == name, orm.Identity.provider != SERVICE)


async def find_service(db: AsyncSession, name: str) -> orm.Principal | None:
    """Return the principal of a service."""
    return await _find(db, orm.Identity.id == name, orm.Identity.provider == SERVICE)


async def _find(db: AsyncSession, *which: ColumnElement[bool]) -> orm.Principal | None:
    query = select(orm.Principal).join(orm.Identity).where(*which).order_by(orm.Principal.id)
    principal: orm.Principal | None = (await db.execute(query)).unique().scalars().first()
    return principal


async def _revision(uri: str) -> str | None:
    engine = _engine(uri)
    try:
        found: str | None = await alembic_utils.get_current_revision(engine, core.ALL_REVISIONS)
    finally:
        await engine.dispose()
    return found


async def _create(uri: str) -> None:
    engine = _engine(uri)
    try:
        await core.initialize_database(engine)
    finally:
        await engine.dispose()


async def _settle(uri: str, providers: tuple[str, ...], admins: frozenset[str]) -> None:
    async with session(uri) as db:
        roles = {role.name: role for role in (await db.execute(select(orm.Role))).scalars()}
        for name, scopes in ROLES.items():
            if name not in roles:
                roles[name] = orm.Role(name=name, description=f"p06bs: {name}", scopes=[*scopes])
                db.add(roles[name])
            elif roles[name].scopes != [*scopes]:
                roles[name].scopes = [*scopes]
        await db.commit()
        known = select(orm.Identity.id).where(orm.Identity.provider != SERVICE)
        for name in {*(await db.execute(known)).scalars(), *admins}:
            principal = await user(db, name, providers)
            await db.refresh(principal, ["roles"])
            wanted = [roles["user"], *([roles["admin"]] if name in admins else [])]
            if {*principal.roles} != {*wanted}:
                principal.roles = wanted
        await db.commit()


def _engine(uri: str) -> AsyncEngine:
    engine = create_async_engine(ensure_specified_sql_driver(uri))
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _enforce_references)
    return engine


def _enforce_references(connection: Any, record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _alembic(uri: str) -> Config:
    config = Config()
    # Percent signs of a URI would be taken for references to other options.
    url = ensure_specified_sql_driver(uri).replace("%", "%%")
    config.set_main_option("sqlalchemy.url", url)
    config.set_main_option("script_location", alembic_constants.ALEMBIC_DIR)
    config.set_main_option("path_separator", "os")
    return config


def _file(uri: str) -> Path | None:
    url = make_url(uri)
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _copy(path: Path, to: Path) -> None:
    make_private(to)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(to)) as copy:
        source.backup(copy)
