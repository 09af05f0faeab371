"""Run the 0MQ proxy between publishers and followers.

``python -m p06bs.services.proxy --in tcp://127.0.0.1:5567 --out tcp://127.0.0.1:5568``
"""

import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import typer
import zmq
from pydantic import Field

from p06bs import config
from p06bs.bus.curve import Keys
from p06bs.bus.service import Service, Surroundings
from p06bs.bus.sockets import HIGH_WATER_MARK, MAX_MESSAGE, SocketFile, bind
from p06bs.config.base import Listening

IN_ADDRESS = "tcp://127.0.0.1:5567"
OUT_ADDRESS = "tcp://127.0.0.1:5568"


class Proxy:
    """Forward documents from publishers to followers, with bounded queues.

    As bluesky's own proxy, whose publishers and dispatchers it serves; that one starts an
    authenticator for each of its two sockets, and 0MQ allows one for both.

    Parameters
    ----------
    in_address, out_address : str
        Where publishers and followers connect to: ``tcp://127.0.0.1:port`` (port
        ``*`` for a free one) or ``ipc://path``. The attributes `in_port` and
        `out_port` are the full addresses in use.
    keys : Keys, optional
        With them only authorised peers are served, also of other hosts: the addresses may be
        any of this one, or ``tcp://*:port``.

    Raises
    ------
    ValueError
        If an address is not on this host and there are no keys.
    zmq.ZMQError
        If it is in use.
    """

    def __init__(
        self,
        in_address: str = IN_ADDRESS,
        out_address: str = OUT_ADDRESS,
        keys: Keys | None = None,
    ) -> None:
        self.closed = False
        self._files: list[SocketFile] = []
        self._context = zmq.Context()
        self._frontend = self._context.socket(zmq.SUB)
        self._backend = self._context.socket(zmq.PUB)
        for socket in (self._frontend, self._backend):
            socket.hwm = HIGH_WATER_MARK  # a bind fixes them
            socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE)
            socket.linger = 0
        self._frontend.subscribe(b"")
        try:
            self.in_port = bind(self._frontend, in_address, keys)
            self._files.append(SocketFile(self.in_port))
            self.out_port = bind(self._backend, out_address, keys)
            self._files.append(SocketFile(self.out_port))
        except BaseException:
            self._close()
            self.stop()
            raise

    def start(self) -> None:
        """Forward messages until `stop` is called from another thread."""
        try:
            zmq.proxy(self._frontend, self._backend)
        except zmq.ContextTerminated:
            pass
        finally:
            self._close()

    def stop(self) -> None:
        """End `start`, wait until it has closed its sockets, and free the addresses."""
        self._context.term()
        for file in self._files:
            file.remove()

    def _close(self) -> None:
        self.closed = True
        self._frontend.close()
        self._backend.close()


class ProxyDefinition(config.Definition):
    """The table of a proxy."""

    inbound: Listening = Field(IN_ADDRESS, description="where publishers connect to")
    outbound: Listening = Field(OUT_ADDRESS, description="where followers connect to")


class ProxyService(Service[ProxyDefinition]):
    """The proxy: found as ``inbound`` and ``outbound``."""

    Definition = ProxyDefinition

    def __init__(self, name: str, definition: ProxyDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._proxy = Proxy(definition.inbound, definition.outbound, here.keys)
        self._stop = threading.Event()

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where publishers and followers connect to."""
        return {"inbound": self._proxy.in_port, "outbound": self._proxy.out_port}

    def run(self, ready: Callable[[], None]) -> None:
        """Forward documents until it is told to stop."""
        forwarding = threading.Thread(target=self._proxy.start, name="proxy", daemon=True)
        forwarding.start()
        ready()
        while not self._stop.wait(1.0) and forwarding.is_alive():
            pass
        if not forwarding.is_alive():
            raise RuntimeError("the proxy has ended by itself")
        self._proxy.stop()
        forwarding.join()

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()


def run(
    in_address: Annotated[
        str, typer.Option("--in", help="Where publishers connect to.")
    ] = IN_ADDRESS,
    out_address: Annotated[
        str, typer.Option("--out", help="Where followers connect to.")
    ] = OUT_ADDRESS,
    keys: Annotated[
        Path | None, typer.Option(help="Directory of keys; needed beyond this host.")
    ] = None,
) -> None:
    """Forward documents from publishers to followers until SIGTERM or SIGINT comes."""
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked in every thread, those of 0MQ included, so that only sigtimedwait takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        proxy = Proxy(in_address, out_address, None if keys is None else Keys(keys))
    except (ValueError, zmq.ZMQError) as error:
        raise typer.BadParameter(f"{error} (in {in_address}, out {out_address})") from None
    forwarding = threading.Thread(target=proxy.start, name="proxy", daemon=True)
    forwarding.start()
    typer.echo(f"proxy ready: in {proxy.in_port}, out {proxy.out_port}")
    while forwarding.is_alive():
        if signal.sigtimedwait(signals, 1.0) is not None:
            proxy.stop()
            forwarding.join()
            return
    raise typer.Exit(1)  # its thread has shown why


def main() -> None:
    """Start from the command line."""
    typer.run(run)


if __name__ == "__main__":
    main()
