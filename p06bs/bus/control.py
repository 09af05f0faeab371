"""Ask a service something, and answer: by verbs, over ROUTER/DEALER, in MessagePack.

A question is ``[number, verb, {argument: value}]``, its answer ``[number, "ok", result]``
or ``[number, "refused", text]``.
"""

import inspect
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import zmq

from p06bs.bus import enquiry
from p06bs.bus.closing import Closing
from p06bs.bus.curve import Keys
from p06bs.bus.errors import WireError
from p06bs.bus.sockets import HERE, bind, connect

logger = logging.getLogger(__name__)

LARGEST_QUESTION = 1 << 22
"""Bytes."""
LARGEST_ANSWER = 64 << 20
"""Bytes."""
ASK_SECONDS = 10.0


class RefusedError(ValueError):
    """A service does not do what it was asked for; says why."""


class Control(Closing):
    """Answer what others ask a service, in a thread of its own.

    Parameters
    ----------
    verbs : mapping of str to callable
        What it can be asked for. One is called with the arguments of the question by name,
        in this object's thread, one at a time; it returns what MessagePack can carry, and
        refuses by raising an error, whose text is sent.
    address : str
        Where it listens; a free port of the loopback interface by default.
    keys : Keys, optional
        With them only authorised peers are answered, also of other hosts.

    Attributes
    ----------
    address : str
        The one in use.
    """

    def __init__(
        self,
        verbs: Mapping[str, Callable[..., Any]],
        address: str = HERE,
        keys: Keys | None = None,
    ) -> None:
        self._verbs = dict(verbs)
        self._closing = threading.Event()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.set(zmq.LINGER, 500)
        self._socket.set(zmq.MAXMSGSIZE, LARGEST_QUESTION)
        try:
            self.address = bind(self._socket, address, keys)
        except (ValueError, zmq.ZMQError):
            self._give_back()
            raise
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nothing more; may be called twice."""
        if self._closing.is_set():
            return
        self._closing.set()
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._give_back()

    def _give_back(self) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._wake)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        while not self._closing.is_set():
            poller.poll()
            with suppress(zmq.Again):
                who, *parts = self._socket.recv_multipart(zmq.NOBLOCK)
                with suppress(zmq.Again):  # it does not read its answers
                    self._socket.send_multipart([who, self._answer(parts)], zmq.NOBLOCK)

    def _answer(self, parts: list[bytes]) -> bytes:
        number = 0
        try:
            (data,) = parts
            number, verb, arguments = enquiry.unpacked(data)
            return enquiry.packed(number, "ok", self._do(verb, arguments))
        except Exception as error:  # whatever was asked or went wrong, others ask on
            text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
            if not isinstance(error, ValueError | KeyError):
                logger.warning("a question cannot be answered", exc_info=True)
                text = f"{type(error).__name__}: {text}"
            said = text[:10_000].encode(errors="replace").decode()  # names of files may be no text
            return enquiry.packed(number, "refused", said)

    def _do(self, verb: Any, arguments: Any) -> Any:
        if verb not in self._verbs:
            raise ValueError(f"cannot {verb}; can {', '.join(sorted(self._verbs))}")
        action = self._verbs[verb]
        try:
            bound = inspect.signature(action).bind(**arguments)
        except TypeError as error:
            raise ValueError(f"{verb}: {error}") from None
        return action(*bound.args, **bound.kwargs)


def ask(
    address: str,
    verb: str,
    *,
    seconds: float = ASK_SECONDS,
    keys: Keys | None = None,
    **arguments: Any,
) -> Any:
    """Ask a service, and return what it answers.

    Parameters
    ----------
    address : str
        Its control address, as it is registered.
    verb : str
        For example ``health``.
    seconds : float
        How long to wait.
    keys : Keys, optional
        With which to connect, to any host.

    Raises
    ------
    RefusedError
        If it refuses; says why.
    WireError
        If what it answers is no answer.
    TimeoutError
        If it does not answer in time.
    ValueError
        If the address is not on this host and there are no keys.
    """
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.MAXMSGSIZE, LARGEST_ANSWER)
        connect(socket, address, keys)
        socket.send(enquiry.packed(1, verb, arguments))
        if not socket.poll(int(seconds * 1000)):
            raise TimeoutError(f"no answer from {address} to {verb} in {seconds:g} s")
        try:
            return result_of(socket.recv())
        except WireError as error:
            raise WireError(f"{address} gives no answer to {verb}: {error}") from error


def result_of(answer: bytes) -> Any:
    """Return what a service answers.

    Raises
    ------
    RefusedError
        If it refuses; says why.
    WireError
        If it is no answer.
    """
    message = enquiry.unpacked(answer)
    if len(message) != 3:
        raise WireError(f"an answer has three parts, not {len(message)}")
    _, status, result = message
    if status != "ok":
        raise RefusedError(str(result))
    return result
