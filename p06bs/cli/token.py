"""``p06bs token``: make, list and revoke tokens on the server's host."""

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from p06bs.cli.errors import UsageError
from p06bs.cli.server import DEFAULT_CONFIG, ConfigOption
from p06bs.cli.terminal import AsJson, console, print_json, remark

if TYPE_CHECKING:
    from p06bs.server.login.terms import Owner
    from p06bs.server.login.tokens import Token, Tokens

DEFAULT_LIFE = "90d"


def complete_purpose(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield what tokens are for, and the scopes of each."""
    from p06bs.server.login.terms import PURPOSES

    for purpose, scopes in PURPOSES.items():
        if purpose.startswith(incomplete):
            yield purpose, " ".join(scopes)


def complete_token(ctx: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield the tokens that there are, and whose they are."""
    try:
        tokens = _tokens(ctx.params.get("config") or DEFAULT_CONFIG).find()
    except (UsageError, ValueError, RuntimeError):
        return
    for token in tokens:
        if token.first_eight.startswith(incomplete):
            yield token.first_eight, f"{token.kind} {token.owner} {token.note}"


User = Annotated[str, typer.Option(help="whose token: name of a user of the system")]
Service = Annotated[str, typer.Option(help="whose token: name of a service, like lavue")]


def create(
    config: ConfigOption = DEFAULT_CONFIG,
    user: User = "",
    service: Service = "",
    purpose: Annotated[
        str,
        typer.Option(
            "--for",
            help="reading, subscribing, writing or metrics; by default subscribing for a user, "
            "reading for a service",
            autocompletion=complete_purpose,
        ),
    ] = "",
    scopes: Annotated[
        str | None, typer.Option(help="scopes instead of --for, like read:metadata,read:data")
    ] = None,
    expires: Annotated[
        str, typer.Option(help="life like 30d, 12h, 2w; or a date like 2027-01-31; or never")
    ] = DEFAULT_LIFE,
    note: Annotated[str, typer.Option(help="what it is for, as the list shows it")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, once: it is kept nowhere."""
    from p06bs.server.access.users import system_user
    from p06bs.server.login.terms import parse_expiry

    owner = _owner(user, service)
    if owner is None:
        raise UsageError("say whose token with --user NAME or --service NAME")
    if owner.kind == "user" and system_user(owner.name) is None:
        raise UsageError(
            f"this system has no user {owner.name!r} (see: getent passwd {owner.name}): "
            "for what is no person use --service"
        )
    wanted = _scopes(owner, purpose, scopes)
    until = parse_expiry(expires, datetime.now(UTC))
    secret, token = _tokens(config).create(owner, wanted, until, note)
    if as_json:
        print_json({"secret": secret, **_plain(token)})
    else:
        remark(
            f"token {token.first_eight} of {owner}: {' '.join(token.scopes)}; "
            f"expires {_said(token.expires)}; it is shown only now"
        )
        print(secret)


def list_tokens(
    config: ConfigOption = DEFAULT_CONFIG,
    user: User = "",
    service: Service = "",
    as_json: AsJson = False,
) -> None:
    """List tokens: their first eight characters, whose they are, what for, how long."""
    tokens = _tokens(config).find(_owner(user, service))
    if as_json:
        print_json([_plain(token) for token in tokens])
        return
    long = ("owner", "for", "note")  # lists of scopes, too
    heads = ("token", *long, "expires", "last use")
    columns = [Column(h, no_wrap=h not in long, overflow="fold") for h in heads]
    table = Table(*columns, box=None)
    for token in tokens:
        table.add_row(
            token.first_eight,
            escape(f"{token.kind} {token.owner}"),
            token.purpose,
            escape(token.note),
            "expired" if token.expired else _day(token.expires),
            _day(token.last_used),
        )
    console.print(table)


def revoke(
    token: Annotated[
        str,
        typer.Argument(help="first eight characters of the token", autocompletion=complete_token),
    ] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    user: User = "",
    service: Service = "",
    as_json: AsJson = False,
) -> None:
    """Revoke one token, or with --user or --service all of an owner; it ends at once."""
    owner = _owner(user, service)
    if bool(token) == bool(owner):
        raise UsageError("say which token by its first eight characters, or whose tokens")
    tokens = _tokens(config)
    gone = tokens.revoke_all(owner) if owner is not None else [tokens.revoke(token)]
    if as_json:
        print_json([_plain(token) for token in gone])
        return
    for old in gone:
        print(f"revoked {old.first_eight} of {old.kind} {old.owner}")


def _tokens(path: Path) -> "Tokens":
    from p06bs import config
    from p06bs.server.login import principals
    from p06bs.server.login.authentication import providers_of
    from p06bs.server.login.tokens import Tokens

    server = config.load(path).server
    if server is None:
        raise UsageError(f"{path} has no [server]: there is nothing that takes tokens")
    if server.authentication is None:
        raise UsageError(
            f"{path} has no [server.authentication]: the server has one user, whose key is in "
            f"{server.api_key_file}; for tokens add [server.authentication] and [server.access]"
        )
    providers = providers_of(server.authentication)
    principals.prepare(server.authentication.database, providers, server.authentication.admins)
    return Tokens(server.authentication.database, providers)


def _owner(user: str, service: str) -> "Owner | None":
    from p06bs.server.login.terms import Owner

    if user and service:
        raise UsageError("a token has one owner: --user or --service")
    if user:
        return Owner("user", user)
    return Owner("service", service) if service else None


def _scopes(owner: "Owner", purpose: str, scopes: str | None) -> tuple[str, ...]:
    from p06bs.server.login.terms import DEFAULT_PURPOSE, PURPOSES

    if purpose and scopes is not None:
        raise UsageError("--for and --scopes exclude each other")
    if scopes is not None:
        named = tuple(dict.fromkeys(scopes.replace(",", " ").split()))
        if not named:
            raise UsageError("--scopes names none; leave it out for what --for says")
        return named
    found = PURPOSES.get(purpose or DEFAULT_PURPOSE[owner.kind])
    if found is None:
        raise UsageError(f"--for {purpose}: there are {', '.join(PURPOSES)}")
    return found


def _plain(token: "Token") -> dict[str, Any]:
    plain = asdict(token)
    for name in ("created", "expires", "last_used"):
        plain[name] = plain[name] and plain[name].isoformat()
    return plain


def _said(moment: datetime | None) -> str:
    return "never" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _day(moment: datetime | None) -> str:
    return _said(moment).partition(" ")[0]
