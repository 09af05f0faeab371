"""CURVE: sockets that bind let only authorised peers in, and everything is encrypted."""

import logging
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import zmq

from p06bs.bus import authenticator, certificates
from p06bs.bus.certificates import BUS, OWN, PEERS, KeysError

logger = logging.getLogger(__name__)

HANDSHAKE_MS = 5000
"""How long a connection may take to be let in; who was refused tries again after it."""
SAID = 1000
"""So many refusals are told one by one."""


class Keys:
    """The keys of a directory that ``p06bs keys`` made.

    A peer that only connects has its own certificate and the public key of the bus; one
    that binds has the secret of the bus, too, and the public keys of those it lets in.

    Attributes
    ----------
    directory : Path
    refused : Counter
        Refused connections by reason; each is logged once per address and key.

    Raises
    ------
    KeysError
        If something is missing, is no key, or is open to others; says what.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory).absolute()
        self.refused: Counter[str] = Counter()
        certificates.check_directory(self.directory)
        self._bus = certificates.public_key(self.directory / f"{BUS}.key")
        self._own = certificates.pair(self.directory, OWN)
        self._said: set[tuple[str, str, str]] = set()
        self._refusing = threading.Lock()

    def __repr__(self) -> str:
        return f"Keys({str(self.directory)!r})"

    def connecting(self, socket: "zmq.Socket[Any]") -> None:
        """Have a socket show our key, and connect only to who has the secret of the bus."""
        socket.curve_serverkey = self._bus
        socket.curve_publickey, socket.curve_secretkey = self._own

    def binding(self, socket: "zmq.Socket[Any]") -> None:
        """Have a socket let only authorised peers in.

        Its context gets a thread that knows them, which ends with the context.

        Raises
        ------
        KeysError
            If the directory is that of a peer that only connects.
        """
        if not (self.directory / f"{BUS}.key_secret").exists():
            raise KeysError(
                f"{self.directory} has no {BUS}.key_secret: with it a peer can connect, and not "
                "bind; a service needs the directory that p06bs keys create made"
            )
        public, secret = certificates.pair(self.directory, BUS)
        if public != self._bus:
            raise KeysError(f"{self.directory}: {BUS}.key and {BUS}.key_secret do not match")
        socket.curve_server = True
        socket.curve_secretkey = secret
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        authenticator.let_in(socket, self.directory / PEERS, self.refuse)

    def refuse(self, address: str, reason: str, key: str = "") -> None:
        """Count a connection that was refused, and tell of it if that is new. Any thread."""
        with self._refusing:
            self.refused[reason] += 1
            news = (address, reason, key)
            if news in self._said or len(self._said) >= SAID:
                return
            self._said.add(news)
        logger.warning(
            "a peer at %s is refused: %s%s (further times are only counted)",
            address,
            reason,
            f", {key}" if key else "",
        )
