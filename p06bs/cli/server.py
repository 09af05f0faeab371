"""What commands that speak to a server share: its address and the token."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p06bs.cli.errors import UsageError
from p06bs.http_api import KEY_VARIABLE

if TYPE_CHECKING:
    from p06bs.remote import Server

ServerOption = Annotated[
    str, typer.Option("--server", envvar="P06BS_SERVER", help="URL of the server")
]
KeyFileOption = Annotated[
    Path,
    typer.Option(
        "--api-key-file", help=f"file with the API key or token; ${KEY_VARIABLE} wins over it"
    ),
]
ConfigOption = Annotated[
    Path,
    typer.Option("--config", envvar="P06BS_CONFIG", help="configuration of the server"),
]
DEFAULT_CONFIG = Path("services/p06.toml")
DEFAULT_SERVER = "http://127.0.0.1:8000"
DEFAULT_KEY_FILE = Path("var/api-key")


def api_key(file: Path) -> str:
    """Return the token from the environment, else from the file.

    Raises
    ------
    UsageError
        If there is none.
    """
    if key := os.environ.get(KEY_VARIABLE):
        return key
    try:
        return file.read_text().strip()
    except OSError as error:
        raise UsageError(
            f"no API key: ${KEY_VARIABLE} is not set, and {file} cannot be read "
            f"({error.strerror}); say --api-key-file"
        ) from None


def connect(url: str, file: Path) -> "Server":
    """Return the server at `url`.

    Raises
    ------
    UsageError
        If Tiled's client is not installed.
    ServerError
        If nobody answers there, or the token is not accepted.
    """
    try:
        from p06bs.remote import Server

        return Server(url, api_key(file))
    except ImportError as error:
        raise UsageError(
            f"to speak to a server install the extra client: pip install 'p06bs[client]' ({error})"
        ) from error
