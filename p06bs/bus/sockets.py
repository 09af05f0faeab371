"""What all 0MQ sockets of the bus share: addresses and bounds."""

import ipaddress

HIGH_WATER_MARK = 1000
"""Messages that a socket keeps per peer; what exceeds it is dropped and read from the log."""
MAX_MESSAGE = 1 << 30
"""Largest message that is received, bytes; a peer that announces more is disconnected."""


def zmq_address(address: str) -> str:
    """Return a 0MQ endpoint for ``tcp://host:port``, ``host:port`` or ``ipc://path``.

    Raises
    ------
    ValueError
        If it is none, or lies beyond this host: documents travel unencrypted,
        so other hosts must not reach them.
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
        raise ValueError(
            f"address {address!r} lies beyond this host; without encryption only "
            "127.0.0.1, localhost, [::1] and ipc:// are allowed"
        )
    return f"tcp://{host}:{port}"


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
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # another host's name, or a wildcard
