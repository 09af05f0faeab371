"""Be known at the Topology Manager, and know who else is there."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import zmq

from p06bs.bus import enquiry
from p06bs.bus.closing import Closing
from p06bs.bus.curve import Keys
from p06bs.bus.enrolment import Enrolment
from p06bs.bus.errors import WireError
from p06bs.bus.sockets import connect
from p06bs.bus.topology import Service

logger = logging.getLogger(__name__)

LARGEST_LIST = 64 << 20
"""Bytes of an answer."""
GOODBYE_SECONDS = 0.5
"""Time for the Topology Manager to take note that a service ends."""


class Membership(Closing):
    """Keep a service registered, and a list of all services, in a thread of its own.

    The Topology Manager may come later, be away, or be started anew at any time: what was
    known is kept until it has answered again.

    Parameters
    ----------
    address : str
        The Topology Manager's.
    keys : Keys, optional
        With which to connect, to any host.

    Raises
    ------
    ValueError
        If the address is not on this host and there are no keys.
    """

    def __init__(self, address: str, keys: Keys | None = None) -> None:
        self.address = address
        self._superseded: Callable[[], None] = lambda: None
        self._enrolment = Enrolment()
        self._changed = threading.Condition()  # guards the enrolment; notified when it changed
        self._closing = False
        self._number = 0
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, int(GOODBYE_SECONDS * 1000))
        self._socket.set(zmq.MAXMSGSIZE, LARGEST_LIST)
        # Nothing is to wait for a Topology Manager that is away: it would come too late.
        self._socket.set(zmq.IMMEDIATE, 1)
        try:
            connect(self._socket, address, keys)
        except (ValueError, zmq.ZMQError):
            self._give_back()
            raise
        self._thread = threading.Thread(target=self._run, name="membership", daemon=True)
        self._thread.start()

    @property
    def services(self) -> tuple[Service, ...]:
        """Who is there, as far as is known, in the order of their names."""
        with self._changed:
            return self._enrolment.services

    @property
    def listed(self) -> bool:
        """Whether the Topology Manager has ever answered."""
        with self._changed:
            return self._enrolment.listed

    def enrol(self, service: Service) -> None:
        """Register a service; again with other addresses if they changed."""
        with self._changed:
            self._enrolment.enrol(service)
        self._look()

    def work_on(self, runs: tuple[str, ...]) -> None:
        """Have it known which runs the service works on."""
        with self._changed:
            self._enrolment.work_on(runs)
        self._look()

    @property
    def superseded(self) -> bool:
        """Whether a newer instance has the name of the service: this one is to end."""
        with self._changed:
            return self._enrolment.superseded

    @property
    def refused(self) -> bool:
        """Whether a newer instance had the name already when the service first registered.

        It may be its own former process, if the clock was set back: then it is worth another try.
        """
        with self._changed:
            return self._enrolment.refused

    def on_superseded(self, action: Callable[[], None]) -> None:
        """Have `action` called, in a thread of this object, once the service is superseded."""
        self._superseded = action

    def address_of(self, kind: str, what: str) -> str | None:
        """Return where the first service of a kind that has it offers `what`; None if unknown."""
        for service in self.services:
            if service.kind == kind and what in service.addresses:
                return service.addresses[what]
        return None

    def wait_listed(self, seconds: float) -> bool:
        """Wait until the Topology Manager has answered; return False if it has not."""
        with self._changed:
            return self._changed.wait_for(lambda: self._enrolment.listed, seconds)

    def wait_heard(self, found: Callable[[tuple[Service, ...]], bool], seconds: float) -> bool:
        """Wait until somebody who is looked for is there, or everybody was heard of.

        Return False if neither is so in time: the Topology Manager has just begun.
        """

        def heard() -> bool:
            return self._enrolment.settled or found(self._enrolment.services)

        with self._changed:
            return self._changed.wait_for(heard, seconds)

    def wait_for(self, kind: str, what: str, seconds: float) -> str:
        """Return the address of a service of a kind, waiting for it.

        Raises
        ------
        TimeoutError
            If there is none in time; says what is there.
        """
        until = time.monotonic() + seconds
        while (found := self.address_of(kind, what)) is None:
            now = time.monotonic()
            if now >= until:
                raise TimeoutError(self._missing(kind, what, seconds))
            with self._changed:
                self._enrolment.hurry(now)
            self._look()
            with self._changed:
                self._changed.wait(min(0.5, until - now))
        return found

    def close(self) -> None:
        """Say that the service ends, and close; may be called twice."""
        with self._changed:
            if self._closing:
                return
            self._closing = True
        self._look()
        self._thread.join()
        self._give_back()

    def _missing(self, kind: str, what: str, seconds: float) -> str:
        if not self.listed:
            return f"no Topology Manager at {self.address} in {seconds:g} s"
        names = ", ".join(one.name for one in self.services) or "nobody"
        return f"no {kind} with {what} in {seconds:g} s; registered at {self.address}: {names}"

    def _give_back(self) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._wake)

    def _look(self) -> None:
        os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._socket, zmq.POLLIN)
        while True:
            now = time.monotonic()
            with self._changed:
                ending = self._closing
                asked = self._enrolment.release() if ending else self._enrolment.questions(now)
                wait = self._enrolment.next() - now
            for question in asked:
                self._ask(question)
            if ending:
                return
            poller.poll(max(0, min(1000, int(wait * 1000) + 1)))
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
            self._take()

    def _ask(self, question: list[Any]) -> None:
        self._number += 1
        with suppress(zmq.Again):  # it is away, and will be asked again
            self._socket.send(enquiry.packed(self._number, *question), zmq.NOBLOCK)

    def _take(self) -> None:
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            with self._changed:
                before = self._enrolment.superseded
                try:
                    self._enrolment.answer(enquiry.unpacked(data)[1:], time.monotonic())
                except WireError as error:
                    logger.warning("%s: %s", self.address, error)
                now = self._enrolment.superseded
                self._changed.notify_all()
            if now and not before:
                logger.error("a newer process is registered under the name of this one, which ends")
                self._superseded()
