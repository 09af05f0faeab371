"""Keep keys, tokens and passwords out of everything that is logged."""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

HIDDEN = "[hidden]"

_NAMES = (
    "api_key|apikey|tiled_api_key|access_token|refresh_token|id_token|client_secret|password"
    "|device_code|user_code|code|secret|csrf"
)

SECRETS = (
    # ?api_key=..., api_key=..., Cookie: tiled_api_key=...
    re.compile(rf"(\b(?:{_NAMES})=)[^&\s\"';,)>\]]+", re.IGNORECASE),
    # {"api_key": "..."}, and as Python shows dictionaries
    re.compile(rf"(['\"](?:{_NAMES})['\"]\s*:\s*b?['\"])[^'\"]+", re.IGNORECASE),
    # Authorization: Apikey ..., also as pairs of bytes
    re.compile(r"(\b(?:apikey|bearer|basic)\s+)[\w.~+/=-]{4,}", re.IGNORECASE),
    # ://user:password@host
    re.compile(r"(://[^/\s:@]+:)[^/\s@]+(?=@)"),
)


def redacted(text: str) -> str:
    """Return the text without secrets."""
    for secret in SECRETS:
        text = secret.sub(rf"\g<1>{HIDDEN}", text)
    return text


def install() -> Callable[[], None]:
    """Take secrets out of all that this process logs, tracebacks too; return what undoes it."""
    before = logging.getLogRecordFactory()
    formatter = logging.Formatter()

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = before(*args, **kwargs)
        try:
            said = made.getMessage()
        except (TypeError, ValueError, KeyError):
            return made  # logging complains of a wrong format by itself
        if (clean := redacted(said)) != said:
            made.msg, made.args = clean, None
        if made.exc_info and made.exc_info[0] is not None:
            shown = formatter.formatException(made.exc_info)
            if (clean := redacted(shown)) != shown:
                made.exc_text, made.exc_info = clean, None
        return made

    logging.setLogRecordFactory(record)
    return lambda: logging.setLogRecordFactory(before)


@contextmanager
def redacting() -> Iterator[None]:
    """Redact what is logged within."""
    undo = install()
    try:
        yield
    finally:
        undo()
