"""Directories of CURVE certificates: who makes them, what is in them, and who may read it.

A site has one directory, which every host with services has a copy of:

=========================  ====================================================
``bus.key``                public key of all sockets that bind; every peer has it
``bus.key_secret``         its secret; only services have it
``own.key(_secret)``       with which who has this directory connects
``peers/NAME.key``         public keys of the peers that may connect
``issued/NAME/``           the directory of a peer that only connects, to be moved
                           to its host: ``bus.key`` and its ``own.key(_secret)``
=========================  ====================================================

The files are those of `zmq.auth`.
"""

import os
import re
import shutil
import stat
from pathlib import Path

import zmq
import zmq.auth

BUS = "bus"
OWN = "own"
PEERS = "peers"
ISSUED = "issued"
SERVICES = "services"
"""Name under which the services themselves are peers."""

Pair = tuple[bytes, bytes]
"""Public and secret key, 40 characters each."""


class KeysError(ValueError):
    """A directory of keys that cannot be used, or be changed so; says what to do."""


def create(directory: Path) -> None:
    """Make a site's directory: a certificate of the bus, and one of its services.

    Raises
    ------
    KeysError
        If there are keys already.
    OSError
        If it cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise KeysError(
            f"{directory} is not empty: keys are not overwritten, because no peer could connect "
            "any more; name another directory, or move this one away"
        )
    directory.chmod(0o700)
    (directory / PEERS).mkdir(mode=0o700)
    (directory / ISSUED).mkdir(mode=0o700)
    _make(directory, BUS)
    _make(directory, OWN)
    shutil.copy(directory / f"{OWN}.key", directory / PEERS / f"{SERVICES}.key")


def add(directory: Path, name: str) -> Path:
    """Make a peer's certificate and let it in; return the directory for its host.

    Raises
    ------
    KeysError
        If the name is taken or cannot be one, or the directory is not a site's.
    OSError
        If it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", name, re.ASCII):
        raise KeysError(
            f"{name!r} cannot name a peer: take letters, digits, '.', '_' and '-', at most 64"
        )
    _check_site(directory)
    certificate = directory / PEERS / f"{name}.key"
    issued = directory / ISSUED / name
    if certificate.exists() or issued.exists():
        raise KeysError(
            f"{directory} has a peer {name!r} already: p06bs keys revoke {name} ends it, "
            "or take another name"
        )
    issued.mkdir(mode=0o700, parents=True)
    _make(issued, OWN)
    shutil.copy(directory / f"{BUS}.key", issued)
    # Complete when it appears: services that look meanwhile shall not find half a file.
    part = directory / PEERS / f".{name}"
    shutil.copy(issued / f"{OWN}.key", part)
    part.replace(certificate)
    return issued


def revoke(directory: Path, name: str) -> None:
    """Let a peer in no more, and forget its secret if that is still here.

    Raises
    ------
    KeysError
        If there is no such peer, or it is the services themselves.
    OSError
        If it cannot be written.
    """
    _check_site(directory)
    if name == SERVICES:
        raise KeysError(
            "services cannot be revoked, only replaced: make a new directory with p06bs keys "
            "create, and new keys for each peer"
        )
    known = names(directory)
    # One whose making was cut short has a directory already, and no certificate.
    if name not in {*known, *(path.name for path in (directory / ISSUED).glob("*"))}:
        raise KeysError(f"{directory} has no peer {name!r}; there are {', '.join(known)}")
    (directory / PEERS / f"{name}.key").unlink(missing_ok=True)
    if (directory / ISSUED / name).is_dir():
        shutil.rmtree(directory / ISSUED / name)


def names(directory: Path) -> list[str]:
    """Return the names of the peers that may connect.

    Raises
    ------
    KeysError
        If the directory is not a site's.
    """
    _check_site(directory)
    return sorted(path.stem for path in (directory / PEERS).glob("*.key"))


def pair(directory: Path, name: str) -> Pair:
    """Return a certificate's keys.

    Raises
    ------
    KeysError
        If it is not there, is none, or others than its owner may read it.
    """
    path = directory / f"{name}.key_secret"
    public, secret = _load(path, 0o077)
    if secret is None:
        raise KeysError(f"{path} has no secret-key")
    if zmq.curve_public(secret) != public:
        raise KeysError(f"{path}: its public-key is not that of its secret-key")
    return public, secret


def public_key(path: Path) -> bytes:
    """Return the public key in a file.

    Raises
    ------
    KeysError
        If it is not there, has none, or others than its owner may write it.
    """
    return _load(path, 0o022)[0]


def check_directory(directory: Path) -> None:
    """Raise a `KeysError` if a directory is not there, or others than its owner may write it."""
    try:
        mode = directory.stat().st_mode
    except OSError as error:
        raise KeysError(
            f"{directory}: {error.strerror}; p06bs keys create makes a directory of keys"
        ) from None
    if not stat.S_ISDIR(mode):
        raise KeysError(f"{directory} is no directory")
    if mode & 0o022:
        raise KeysError(
            f"{directory} has mode {stat.S_IMODE(mode):o}: others may not write it, or they could "
            f"let themselves in (chmod 700 {directory})"
        )


def _check_site(directory: Path) -> None:
    check_directory(directory)
    if not (directory / PEERS).is_dir() or not (directory / f"{BUS}.key").is_file():
        raise KeysError(
            f"{directory} is not the directory of a site (it has no {BUS}.key or no {PEERS}/): "
            "p06bs keys create makes one"
        )


def _make(directory: Path, name: str) -> None:
    before = os.umask(0o077)  # a secret shall not be readable even for a moment
    try:
        zmq.auth.create_certificates(directory, name)
    finally:
        os.umask(before)


def _load(path: Path, forbidden: int) -> tuple[bytes, bytes | None]:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & forbidden:
            raise KeysError(
                f"{path} has mode {mode:o}: only its owner may "
                f"{'read' if forbidden & 0o044 else 'write'} it (chmod 600 {path}); "
                "if others could, make new keys"
            )
        public, secret = zmq.auth.load_certificate(path)
    except OSError as error:
        said = error.strerror or str(error)
        raise KeysError(f"{path}: {said}; see p06bs keys --help for what belongs there") from None
    except KeysError:
        raise
    except Exception as error:  # of a file that is cut short it says all kinds of things
        raise KeysError(f"{path} is no certificate, or only a part of one ({error})") from None
    for key in filter(None, (public, secret)):
        try:
            zmq.curve_public(key)  # 40 characters that say 32 bytes
        except (ValueError, zmq.ZMQError):
            raise KeysError(f"{path} holds a key that is none") from None
    return public, secret
