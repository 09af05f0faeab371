"""Run the 0MQ proxy between publishers and followers.

``python -m p06bs.services.proxy --in tcp://127.0.0.1:5567 --out tcp://127.0.0.1:5568``
"""

import signal
import threading
from typing import Annotated, Any

import typer
import zmq
from bluesky.callbacks import zmq as bluesky_zmq

from p06bs.bus.sockets import HIGH_WATER_MARK, MAX_MESSAGE, zmq_address

IN_ADDRESS = "tcp://127.0.0.1:5567"
OUT_ADDRESS = "tcp://127.0.0.1:5568"


class Proxy(bluesky_zmq.Proxy):
    """Bluesky's proxy with bounded queues, loopback binds, and an end.

    Parameters
    ----------
    in_address, out_address : str
        Where publishers and followers connect to: ``tcp://127.0.0.1:port`` (port
        ``*`` for a free one) or ``ipc://path``. The attributes `in_port` and
        `out_port` are the full addresses in use.

    Raises
    ------
    ValueError
        If an address is not on this host.
    zmq.ZMQError
        If it is in use.
    """

    def __init__(self, in_address: str = IN_ADDRESS, out_address: str = OUT_ADDRESS) -> None:
        super().__init__(zmq_address(in_address), zmq_address(out_address))

    @staticmethod
    def configure_server_socket(
        ctx: "zmq.Context[zmq.Socket[bytes]]", *args: Any, **kwargs: Any
    ) -> Any:
        """Make a socket; our bounds become the context's defaults, since a bind fixes them."""
        ctx.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        ctx.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        ctx.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
        ctx.setsockopt(zmq.LINGER, 0)
        return bluesky_zmq.Proxy.configure_server_socket(ctx, *args, **kwargs)

    def start(self) -> None:
        """Forward messages until `stop` is called from another thread."""
        try:
            zmq.proxy(self._frontend, self._backend)
        except zmq.ContextTerminated:
            self.closed = True
            self._frontend.close()
            self._backend.close()

    def stop(self) -> None:
        """End `start`, wait until it has closed its sockets, and free the addresses."""
        self._context.term()


def run(
    in_address: Annotated[
        str, typer.Option("--in", help="Where publishers connect to.")
    ] = IN_ADDRESS,
    out_address: Annotated[
        str, typer.Option("--out", help="Where followers connect to.")
    ] = OUT_ADDRESS,
) -> None:
    """Forward documents from publishers to followers until SIGTERM or SIGINT comes."""
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked in every thread, those of 0MQ included, so that only sigtimedwait takes them.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        proxy = Proxy(in_address, out_address)
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
