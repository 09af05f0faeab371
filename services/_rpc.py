"""One question to supervisord, by XML-RPC on its socket; see http://supervisord.org/api.html."""

import socket
import xmlrpc.client
from typing import Any

from supervisor.xmlrpc import SupervisorTransport, UnixStreamHTTPConnection

ANSWER_SECONDS = 60.0
"""It answers at once, but for the stop of a group, which takes as long as a service may."""


class _Connection(UnixStreamHTTPConnection):  # type: ignore[misc]
    """A connection that does not wait for ever; supervisor's own does."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socketfile)


class _Transport(SupervisorTransport):  # type: ignore[misc]
    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(None, None, url)
        connection = _Connection("localhost", timeout=seconds)
        connection.socketfile = url.removeprefix("unix://")
        self._get_connection = lambda: connection


def call(url: str, method: str, *arguments: Any, seconds: float | None = None) -> Any:
    """Call a method of the supervisord at a ``unix://`` URL, and wait for its answer.

    Raises
    ------
    TimeoutError
        If it does not answer.
    OSError
        If it is not there.
    xmlrpc.client.Fault
        If it refuses.
    """
    transport = _Transport(url, ANSWER_SECONDS if seconds is None else seconds)
    try:
        proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)
        return getattr(proxy.supervisor, method)(*arguments)
    finally:
        transport.close()
