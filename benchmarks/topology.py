"""What 10 000 leases cost the Topology Manager: processor time, beside a bare echo of as many.

Each side is a process of its own, which a third one drives: 200 connections with 50 names each,
all renewed at the rhythm of a member.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import zmq

from benchmarks.report import Row, ratios, turns
from p06bs.bus import enquiry
from p06bs.bus.enrolment import RENEWALS
from p06bs.bus.topology import Service
from p06bs.bus.topology_manager import TTL, TopologyManager

REPEAT = 5
CONNECTIONS = 200
NAMES = 50
LEASES = CONNECTIONS * NAMES
WAIT_MS = 60_000


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure shares of a core, over `seconds` each."""
    found: dict[str, list[float]] = {"Topology Manager": [], "ROUTER that echoes": []}
    sides = dict(zip(found, (manage, echo), strict=True))
    context = multiprocessing.get_context("spawn")
    for name in turns(list(found), repeat):
        ours, theirs = context.Pipe()
        process = context.Process(target=sides[name], args=(theirs,))
        process.start()
        try:
            found[name].append(100 * drive(ours, seconds))
        finally:
            ours.send("stop")
            process.join()
    ours, theirs = (tuple(values) for values in found.values())
    what = f"{LEASES:,} leases, {RENEWALS} renewals each in {TTL:g} s"
    return [
        Row(f"{what}", "% of core", ours, at_most=5.0),
        Row("as many messages through a ROUTER that echoes", "% of core", theirs),
        Row("Topology Manager / ROUTER that echoes", "", ratios(ours, theirs)),
    ]


def drive(side: Connection, seconds: float) -> float:
    """Register, renew for so many seconds, and return the share of a core that it cost."""
    with zmq.Context() as context:
        sockets = [context.socket(zmq.DEALER) for _ in range(CONNECTIONS)]
        address = side.recv()
        members = [(socket, f"s-{n}-{m}") for n, socket in enumerate(sockets) for m in range(NAMES)]
        for socket in sockets:
            socket.linger = 0
            socket.connect(address)
        for socket, name in members:
            said = Service(name, "example", "1", "host", 1, {"control": "tcp://127.0.0.1:1"})
            socket.send(enquiry.packed(1, "register", enquiry.plain(said)))
        answers(sockets, NAMES)
        renewals = [(s, enquiry.packed(2, "renew", name, "1")) for s, name in members]
        interval = TTL / RENEWALS / len(renewals)
        side.send("cost")
        before = side.recv()
        began = time.monotonic()
        sent = 0
        while (passed := time.monotonic() - began) < seconds:
            while sent < passed / interval:
                socket, renewal = renewals[sent % len(renewals)]
                socket.send(renewal)
                sent += 1
            for socket in sockets:
                while socket.poll(0):
                    socket.recv()
            time.sleep(0.005)
        side.send("cost")
        cost: float = (side.recv() - before) / passed
        for socket in sockets:
            socket.close()
    return cost


def answers(sockets: list["zmq.Socket[bytes]"], number: int) -> None:
    """Wait for so many answers on each socket."""
    for socket in sockets:
        for _ in range(number):
            if not socket.poll(WAIT_MS):
                raise TimeoutError("no answer")
            socket.recv()


def manage(driver: Connection) -> None:
    """Run a Topology Manager."""
    with TopologyManager("tcp://127.0.0.1:*") as manager:
        serve(driver, manager.address, manager.serve, manager.stop)


def echo(driver: Connection) -> None:
    """Run a ROUTER that sends back what comes."""
    stopping = threading.Event()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        port = socket.bind_to_random_port("tcp://127.0.0.1")

        def answer() -> None:
            while not stopping.is_set():
                if socket.poll(100):
                    socket.send_multipart(socket.recv_multipart())

        serve(driver, f"tcp://127.0.0.1:{port}", answer, stopping.set)


def serve(
    driver: Connection, address: str, work: Callable[[], Any], stop: Callable[[], Any]
) -> None:
    """Work in a thread, and tell the driver of the cost until it says stop."""
    thread = threading.Thread(target=work)
    thread.start()
    driver.send(address)
    while driver.recv() == "cost":
        driver.send(time.process_time())
    stop()
    thread.join()
