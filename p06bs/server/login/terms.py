"""Terms of a token: whose it is, what it is for, how long it lives.

Nothing here needs Tiled, whose import takes seconds: the shell completes with it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal

Kind = Literal["user", "service"]

READ = ("read:metadata", "read:data")
SUBSCRIBE = (*READ, "create:apikeys", "revoke:apikeys")
WRITE = (*READ, "create:node", "write:metadata", "write:data", "delete:node", "delete:revision")

ROLES = {
    "user": (*SUBSCRIBE,),
    "service": (*SUBSCRIBE, *WRITE[len(READ) :], "metrics"),
    "admin": (*SUBSCRIBE, "admin:apikeys", "read:principals", "metrics"),
}
"""What a kind of principal may do at most. Only services write; nobody registers files."""


PURPOSES: dict[str, tuple[str, ...]] = {
    "reading": READ,
    "subscribing": SUBSCRIBE,
    "writing": WRITE,
    "metrics": ("metrics",),
}
"""Scopes by what a token is for. Stock ``subscribe()`` makes a short-lived token of its own."""

DEFAULT_PURPOSE: dict[Kind, str] = {"user": "subscribing", "service": "reading"}

NOTE_LENGTH = 255

_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}", re.ASCII)
_SERVICE = re.compile(r"[a-z0-9][a-z0-9_.-]{0,62}", re.ASCII)
_UNITS = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.0}


class TokenError(ValueError):
    """Something that cannot be done with tokens; says what and why."""


def is_user_name(name: object) -> bool:
    """Return whether a name looks like a system user's; root is none that anybody logs in as."""
    return isinstance(name, str) and bool(_USER.fullmatch(name)) and name != "root"


def is_service_name(name: str) -> bool:
    """Return whether a service may be called this."""
    return bool(_SERVICE.fullmatch(name))


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose token it is: a user of the system, or a service.

    Raises
    ------
    TokenError
        If nobody can be called this.
    """

    kind: Kind
    name: str

    def __post_init__(self) -> None:
        if self.kind == "user" and not is_user_name(self.name):
            raise TokenError(f"{self.name!r} is no name of a system user")
        if self.kind == "service" and not is_service_name(self.name):
            raise TokenError(
                f"{self.name!r} is no name of a service: small letters, digits, '_', '.' and '-'"
            )

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def check_scopes(kind: Kind, scopes: Sequence[str]) -> None:
    """Complain of scopes that an owner of this kind can never have.

    Raises
    ------
    TokenError
        If there are such, or none at all.
    """
    if not scopes:
        raise TokenError("a token without scopes is of no use")
    for scope in scopes:
        if scope not in ROLES[kind]:
            hint = "; only services write" if kind == "user" and scope in WRITE else ""
            raise TokenError(
                f"a {kind} cannot have the scope {scope!r}{hint}; there are "
                + ", ".join(ROLES[kind])
            )


def parse_expiry(text: str, now: datetime) -> datetime | None:
    """Return when a token ends, or None for never.

    Parameters
    ----------
    text : str
        A length of time like ``30d`` (m, h, d, w, y), a date (to its end, UTC), a date and
        time, or ``never``.
    now : datetime

    Raises
    ------
    TokenError
        If it is none of these, or in the past.
    """
    if text == "never":
        return None
    if found := re.fullmatch(r"(\d{1,6})([mhdwy])", text):
        days = int(found[1]) * _UNITS[found[2]]
        if days > 100 * 365:
            raise TokenError(f"{text} is more than a hundred years; say never")
        until = now + timedelta(days=days)
    else:
        until = _moment(text)
    if until <= now:
        raise TokenError(f"{text} is not in the future")
    return until


def _moment(text: str) -> datetime:
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return datetime.combine(date.fromisoformat(text), time.max, UTC).replace(microsecond=0)
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise TokenError(
            f"{text!r} is no time: write 30d, 12h, 2027-01-31, 2027-01-31T12:00 or never"
        ) from None
    return moment.astimezone(UTC)
