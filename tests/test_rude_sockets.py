"""WebSockets whose clients leave at any time or send anything: no error, and nothing stays."""

import socket
import struct
import threading

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from p06bs.server.app import Operation, build_app
from p06bs.server.gate import errors
from p06bs.server.sink.sink import Sink
from tests.live_server import KEY, serving

PATH = "/api/v1/stream/single/live"

HEAD = (
    f"GET {PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
STRANGER = f"{HEAD}\r\n".encode()
USER = f"{HEAD}Authorization: Apikey {KEY}\r\n\r\n".encode()


def frame(opcode, data):
    return bytes([0x80 | opcode, 0x80 | len(data)]) + b"\0\0\0\0" + data  # masked by nothing


CLOSE = frame(8, struct.pack("!H", 1000))


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def says_so_and_resets(client):
    client.sendall(CLOSE)
    reset(client)


def waits_for_the_end(client):
    client.shutdown(socket.SHUT_WR)
    while client.recv(65536):
        pass


def says_so_and_waits(client):
    client.sendall(CLOSE)
    while client.recv(65536):
        pass


ENDS = (socket.socket.close, reset, says_so_and_resets, waits_for_the_end, says_so_and_waits)


@pytest.fixture(scope="module")
def server():
    """Serve a gate whose handshakes wait while the second is not set; with its address."""
    filled = threading.Event()
    gate = build_app(Sink(500_000_000), KEY, operation=Operation(filled=filled.is_set))
    with serving(gate) as url:
        host, port = url.removeprefix("http://").split(":")
        yield gate, filled, (host, int(port))


def until_there_are(gate, count):
    """Wait until so many WebSockets are served."""
    for _ in range(600):
        if gate.sockets == count:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"{gate.sockets} WebSockets, not {count}")


def connected(address, head):
    client = socket.create_connection(address, timeout=30)
    client.sendall(head)
    return client


@pytest.mark.parametrize("head", [STRANGER, USER], ids=["before its first message", "subscribed"])
@pytest.mark.parametrize("end", ENDS)
def test_a_client_may_leave_after_the_handshake(server, head, end):
    gate, filled, address = server
    filled.set()
    with connected(address, head) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 101")
        until_there_are(gate, 1)
        end(client)
        until_there_are(gate, 0)


@pytest.mark.parametrize("head", [STRANGER, USER], ids=["a stranger", "a user"])
@pytest.mark.parametrize("end", [socket.socket.close, reset, says_so_and_resets])
def test_a_client_may_leave_while_its_handshake_waits(server, head, end):
    gate, filled, address = server
    filled.clear()
    with connected(address, head) as client:
        until_there_are(gate, 1)
        end(client)
    filled.set()
    until_there_are(gate, 0)


MESSAGES = {
    "no UTF-8": frame(1, b"\xff\xfe"),
    "no UTF-8, again and again": frame(1, b"\xff\xfe") * 3,
    "no UTF-8, and the end": frame(1, b"\xff\xfe") + CLOSE,
    "no opcode": b"\xff" * 20,
    "not masked": b"\x81\x02hi",
    "the middle of nothing": frame(0, b"hi"),
    "no close code": frame(8, b"\0\1"),
    "half a close code": frame(8, b"\3"),
    "a reason that is no UTF-8": frame(8, b"\3\xe8\xff"),
    "too long": b"\x81\xff" + struct.pack("!Q", 1 << 40) + b"\0\0\0\0",
}


@pytest.mark.parametrize("head", [STRANGER, USER], ids=["a stranger", "a user"])
@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_a_client_may_send_anything(server, head, message):
    gate, filled, address = server
    filled.set()
    with connected(address, head) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 101")
        client.sendall(message)
        while client.recv(65536):  # the server hangs up
            pass
    until_there_are(gate, 0)


ODD = {
    "a long header": ("Host: x", f"Host: {'x' * 9000}"),
    "a long query": (PATH, f"{PATH}?{'x' * 9000}"),
    "many headers": ("Host: x", "\r\n".join(f"X-{i}: y" for i in range(130))),
    "a body": ("Host: x", "Content-Length: 5"),
    "another version": ("Version: 13", "Version: 9"),
}


@pytest.mark.parametrize(("there", "instead"), ODD.values(), ids=ODD)
def test_a_handshake_that_cannot_be_read_is_refused(server, there, instead):
    _, _, address = server
    head = STRANGER.replace(there.encode(), instead.encode())
    with connected(address, head) as client, client.makefile("rb") as answer:
        assert answer.read().startswith(b"HTTP/1.1 4")


@pytest.mark.parametrize("accepts", [False, True])
def test_what_is_away_is_said_to_websockets_too(accepts):
    app = FastAPI()

    @app.websocket("/")
    async def ask(websocket: WebSocket) -> None:
        if accepts:
            await websocket.accept()
        raise httpx.ConnectError("no route to host")

    errors.install(app)
    with serving(app) as url:
        if accepts:
            with connect(url.replace("http", "ws")) as client:
                with pytest.raises(ConnectionClosed):
                    client.recv()
                assert client.close_code == 1013
        else:
            with pytest.raises(InvalidStatus) as denied:
                connect(url.replace("http", "ws"))
            assert denied.value.response.status_code == 503
