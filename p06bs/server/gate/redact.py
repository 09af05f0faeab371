"""Keep keys, tokens and passwords out of everything that is logged."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HIDDEN = "[hidden]"

_NEW = r"(?!\[hidden\])"
"""What has been hidden before is left as it is."""

_NAMES = (
    "api_key|apikey|tiled_api_key|access_token|refresh_token|id_token|client_secret|password"
    "|device_code|user_code|code|secret|csrf|tiled_csrf"
)

SECRETS = (
    # ?api_key=..., api_key=..., Cookie: tiled_api_key=...
    re.compile(rf"(\b(?:{_NAMES})(?:=|%+3D)){_NEW}[^&\s\"';,)>\]]+", re.IGNORECASE),
    # {"api_key": "..."}, and as Python shows dictionaries
    re.compile(rf"(['\"](?:{_NAMES})['\"]\s*:\s*b?['\"]){_NEW}[^'\"]+", re.IGNORECASE),
    # Authorization: Apikey ..., also as pairs of bytes
    re.compile(r"(\b(?:apikey|bearer|basic)\s+)(?!HTTP/\d)[\w.~+/=-]{4,}", re.IGNORECASE),
    # ://user:password@host
    re.compile(rf"(://[^/\s:@]+:){_NEW}[^/\s@]+(?=@)"),
    # What SQLAlchemy's errors tell of a statement, like codes of logins
    re.compile(rf"(\[parameters: ){_NEW}.*(?=\]$)", re.MULTILINE),
)


TALKATIVE = ("aiosqlite", "sqlalchemy")
"""Loggers that show values of statements, bare, if they say more than warnings."""


def redacted(text: str) -> str:
    """Return the text without secrets."""
    for secret in SECRETS:
        text = secret.sub(rf"\g<1>{HIDDEN}", text)
    return text


def _clean(value: Any) -> Any:
    """Return a value without secrets, itself where it shows none."""
    if isinstance(value, int | float | None):
        return value
    said = str(value)
    return value if (clean := redacted(said)) == said else clean


def install() -> Callable[[], None]:
    """Take secrets out of all that this process logs, tracebacks too; return what undoes it."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in TALKATIVE}
    for logger in levels:
        logger.setLevel(logging.WARNING)
    before = logging.getLogRecordFactory()
    formatter = logging.Formatter()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = before(*args, **kwargs)
        if isinstance(made.args, tuple):
            made.args = tuple(_clean(value) for value in made.args)
        try:
            said = made.getMessage()
        except (TypeError, ValueError, KeyError):
            return made  # logging complains of a wrong format by itself, and shows what is here
        # A secret that begins in the format and ends in a value; formatters of access logs
        # want the values, so these stay where they can.
        if (clean := redacted(said)) != said:
            made.msg, made.args = clean, None
        if made.exc_info and made.exc_info[0] is not None:
            shown = formatter.formatException(made.exc_info)
            if (clean := redacted(shown)) != shown:
                made.exc_text, made.exc_info = clean, None
        return made

    def undo() -> None:
        logging.setLogRecordFactory(before)
        for logger, level in levels.items():
            logger.setLevel(level)

    logging.setLogRecordFactory(record)
    return undo


@contextmanager
def redacting() -> Iterator[None]:
    """Redact what is logged within."""
    undo = install()
    try:
        yield
    finally:
        undo()
