"""Ask many services the same thing at once."""

import time
from collections.abc import Mapping
from typing import Any

import zmq

from p06bs.bus import enquiry
from p06bs.bus.control import LARGEST_ANSWER, result_of
from p06bs.bus.curve import Keys
from p06bs.bus.sockets import connect


def ask_all(
    addresses: Mapping[str, str], verb: str, *, seconds: float, keys: Keys | None = None
) -> dict[str, Any]:
    """Return what services answer, by name; an exception where one does not.

    Parameters
    ----------
    addresses : mapping of str to str
        Control addresses by the names of the services.
    verb : str
        For example ``health``.
    seconds : float
        How long to wait for all of them together.
    keys : Keys, optional
        With which to connect, to any host.

    Returns
    -------
    dict
        An answer, or RefusedError, TimeoutError or ValueError with what is wrong.
    """
    until = time.monotonic() + seconds
    answers: dict[str, Any] = {}
    asked: dict[zmq.Socket[bytes], str] = {}
    poller = zmq.Poller()
    with zmq.Context() as context:
        try:
            for name, address in addresses.items():
                try:
                    socket = context.socket(zmq.DEALER)  # a process may have so many
                    asked[socket] = name
                    socket.set(zmq.LINGER, 0)
                    socket.set(zmq.MAXMSGSIZE, LARGEST_ANSWER)
                    connect(socket, address, keys)
                    socket.send(enquiry.packed(1, verb, {}))
                except (ValueError, zmq.ZMQError) as error:
                    answers[name] = ValueError(str(error))
                else:
                    poller.register(socket, zmq.POLLIN)
            while len(answers) < len(addresses) and (left := until - time.monotonic()) > 0:
                for socket, _ in poller.poll(int(left * 1000) + 1):
                    answers[asked[socket]] = _answer(socket.recv())
                    poller.unregister(socket)
        finally:
            for socket in asked:
                socket.close()
    late = TimeoutError(f"no answer to {verb} in {seconds:g} s")
    return {name: answers.get(name, late) for name in addresses}


def _answer(data: bytes) -> Any:
    try:
        return result_of(data)
    except ValueError as error:
        return error
