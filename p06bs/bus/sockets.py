"""What all 0MQ sockets of the bus share: addresses, keys and bounds."""

import ipaddress
import logging
import os
import re
import time
from collections.abc import Callable
from socket import gethostname
from typing import Any

import zmq

from p06bs.bus.curve import Keys

logger = logging.getLogger(__name__)

Address = str | Callable[[], str | None]
"""Where to connect to; a callable says where it is now, None while nobody knows."""

HERE = "tcp://127.0.0.1:*"
"""Where to bind by default: a free port, for this host alone."""
EVERYWHERE = "tcp://*:*"
"""Where to bind for other hosts, which takes keys: a free port."""
LOOK_SECONDS = 0.5
"""Interval at which a callable is asked."""
HIGH_WATER_MARK = 1000
"""Messages that a socket keeps per peer; what exceeds it is dropped and read from the log."""
MAX_MESSAGE = 1 << 30
"""Largest message that is received, bytes; a peer that announces more is disconnected."""


def zmq_address(address: str, *, keys: bool = False) -> str:
    """Return a 0MQ endpoint for ``tcp://host:port``, ``host:port`` or ``ipc://path``.

    Parameters
    ----------
    keys : bool
        Whether peers show keys and what travels is encrypted. Without, other hosts must not
        reach it.

    Raises
    ------
    ValueError
        If it is none, or lies beyond this host and there are no keys.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "tcp", address
    if scheme in ("ipc", "inproc") and rest:
        return f"{scheme}://{rest}"
    host, separator, port = rest.rpartition(":")
    if scheme != "tcp" or not separator or not (port.isdecimal() or port == "*"):
        raise ValueError(f"address {address!r} is neither tcp://host:port nor ipc://path")
    if not _is_loopback(host):
        if not keys:
            raise ValueError(
                f"address {address!r} lies beyond this host; without keys (see p06bs keys) only "
                "127.0.0.1, localhost, [::1] and ipc:// are allowed"
            )
        if not _is_host(host):
            raise ValueError(f"address {address!r} names no host")
    return f"tcp://{host}:{port}"


def is_local(address: str) -> bool:
    """Return whether only this host reaches an address."""
    try:
        zmq_address(address)
    except ValueError:
        return False
    return True


def connect(socket: "zmq.Socket[Any]", address: str, keys: Keys | None = None) -> str:
    """Connect a socket, encrypted if there are keys; return the endpoint.

    Raises
    ------
    ValueError
        If the address is none, or beyond this host and there are no keys.
    """
    endpoint = zmq_address(address, keys=keys is not None)
    if keys is not None:
        keys.connecting(socket)
    _allow_ipv6(socket, endpoint)
    socket.connect(endpoint)
    return endpoint


def bind(socket: "zmq.Socket[Any]", address: str, keys: Keys | None = None) -> str:
    """Bind a socket, only for authorised peers if there are keys; return where to connect to.

    Parameters
    ----------
    address : str
        Port ``*`` takes a free one. With keys the host may be ``*``, for all interfaces: this
        host's name stands for it in what is returned.

    Raises
    ------
    ValueError
        If the address is none, or beyond this host and there are no keys, or with these keys
        one can only connect; or there is no directory for it.
    zmq.ZMQError
        If it is in use, or not on this host.
    """
    endpoint = zmq_address(address, keys=keys is not None)
    if keys is not None:
        keys.binding(socket)
    _allow_ipv6(socket, endpoint)
    folder = os.path.dirname(endpoint.removeprefix("ipc://"))
    if endpoint.startswith("ipc://") and folder and not os.path.isdir(folder):
        raise ValueError(f"address {address!r}: there is no directory {folder}")
    socket.bind(endpoint)
    bound = socket.get_string(zmq.LAST_ENDPOINT).rstrip("\0")
    for anywhere in ("tcp://0.0.0.0:", "tcp://[::]:"):
        if bound.startswith(anywhere):
            return f"tcp://{gethostname()}:{bound.removeprefix(anywhere)}"
    return bound


class SocketFile:
    """The file of an ``ipc://`` address that was bound just now; 0MQ leaves it behind.

    Parameters
    ----------
    endpoint : str
        Nothing is done for those that have none.
    """

    def __init__(self, endpoint: str) -> None:
        scheme, _, path = endpoint.partition("://")
        self._path = path if scheme == "ipc" and not path.startswith("@") else ""
        self._made = self._seen()

    def remove(self) -> None:
        """Remove it, unless somebody else has bound the address since."""
        if self._made is not None and self._seen() == self._made:
            os.unlink(self._path)

    def _seen(self) -> tuple[int, int] | None:
        if not self._path:
            return None
        try:
            about = os.stat(self._path)
        except FileNotFoundError:
            return None
        return about.st_ino, about.st_mtime_ns  # numbers of files are used again at once


class Connection:
    """Keep a socket connected to an address that may move, in the socket's own thread.

    Parameters
    ----------
    socket : zmq.Socket
    address : str or callable
        A callable returns the present address, or None while nobody knows it: the last one
        is kept then.
    keys : Keys, optional

    Attributes
    ----------
    endpoint : str or None
        Where the socket is connected to.

    Raises
    ------
    ValueError
        If a fixed address is none, or beyond this host and there are no keys.
    """

    def __init__(
        self, socket: "zmq.Socket[Any]", address: Address, keys: Keys | None = None
    ) -> None:
        self._socket = socket
        self._keys = keys
        self._find = None if isinstance(address, str) else address
        self._refused: str | None = None
        self._look_at = 0.0
        self.endpoint = connect(socket, address, keys) if isinstance(address, str) else None
        self.look()

    def look(self) -> None:
        """Follow the address if it has moved; asks every `LOOK_SECONDS` at most."""
        if self._find is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        found = self._find()
        if found is None or found == self._refused:
            return
        try:
            endpoint = zmq_address(found, keys=self._keys is not None)
            if endpoint == self.endpoint:
                return
            connect(self._socket, endpoint, self._keys)
        except (ValueError, zmq.ZMQError) as error:
            self._refused = found
            logger.error("%s is not connected to: %s", found, error)
            return
        if self.endpoint is not None:
            self._socket.disconnect(self.endpoint)
        self.endpoint = endpoint


def check_prefix(prefix: bytes) -> bytes:
    """Return the prefix of messages.

    Raises
    ------
    ValueError
        If it is not bytes, or contains a space, at which messages are split.
    """
    if not isinstance(prefix, bytes) or b" " in prefix:
        raise ValueError(f"prefix {prefix!r} must be bytes without a space")
    return prefix


def _is_loopback(host: str) -> bool:
    ip = _ip(host)
    return host == "localhost" if ip is None else ip.is_loopback


def _is_host(host: str) -> bool:
    named = re.fullmatch(r"[A-Za-z0-9_]([\w.-]*\w)?", host, re.ASCII)
    return host == "*" or bool(named) or _ip(host) is not None


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that stands for a host, in brackets if it is one of IPv6; or None."""
    try:
        if host.startswith("[") and host.endswith("]"):
            return ipaddress.IPv6Address(host[1:-1])
        return ipaddress.IPv4Address(host)
    except ValueError:
        return None  # a name, or a wildcard


def _allow_ipv6(socket: "zmq.Socket[Any]", endpoint: str) -> None:
    if endpoint.startswith("tcp://["):
        socket.ipv6 = True
