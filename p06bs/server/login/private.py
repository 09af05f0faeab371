"""Files that hold secrets: mode 0600, made where they are missing."""

import os
import secrets
import stat
from pathlib import Path


def read_secret(path: Path, what: str) -> str:
    """Return the text of a file that only its owner may read.

    Parameters
    ----------
    path : Path
    what : str
        What it holds, for the error.

    Raises
    ------
    PermissionError
        If others than the owner may read or write the file.
    ValueError
        If it is empty.
    OSError
        If it cannot be read.
    """
    # The file that is open is the one whose mode counts: no other can take its place.
    with path.open(encoding="utf-8") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise PermissionError(
                f"{path} holds {what} and has mode {mode:o}: others may not read it "
                f"(chmod 600 {path})"
            )
        text = file.read().strip()
    if not text:
        raise ValueError(f"{path} shall hold {what} and is empty")
    return text


def make_secret(path: Path, what: str) -> str:
    """Return the secret in a file; 32 random bytes in hexadecimal where there is no file.

    Raises
    ------
    PermissionError, ValueError, OSError
        As `read_secret`.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return read_secret(path, what)
    secret = secrets.token_hex(32)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{secret}\n")
    return secret


def make_private(path: Path) -> None:
    """Make an empty file of mode 0600 where there is none, for somebody else to fill."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
