"""Responses that cost memory: which they are, whose are made, and for how long."""

import asyncio
import contextlib
import socket
from collections import Counter
from urllib.parse import urlsplit

import httpx
import numpy as np
import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiled.adapters.mapping import MapAdapter
from tiled.adapters.table import TableAdapter

from p06bs.config.server import Authentication
from p06bs.server.gate.gate import Gate
from p06bs.server.gate.in_flight import BODY_LIMIT, EACH, InFlight, wants_octets
from p06bs.server.gate.keys import Keys
from p06bs.server.gate.turns import Allowance, Turns
from p06bs.server.login import terms
from p06bs.server.login.authentication import providers_of
from p06bs.server.login.terms import Owner
from p06bs.server.login.tokens import Tokens
from tests.doors import Gated
from tests.live_server import serving


@pytest.mark.parametrize(
    ("query", "accept", "octets"),
    [
        (b"", None, True),
        (b"", "*/*", True),
        (b"", "application/octet-stream, image/png", True),
        (b"", "image/png, */*", False),
        (b"format=application/octet-stream", "image/png", True),
        (b"format=image/png", "*/*", False),
        # Of a parameter that comes twice the last one counts.
        (b"format=application/octet-stream&format=image/png", None, False),
        (b"format=", None, False),
    ],
)
def test_octets_are_what_is_asked_for(query, accept, octets):
    headers = [] if accept is None else [(b"accept", accept.encode())]
    scope = {"type": "http", "query_string": query, "headers": headers}
    assert wants_octets(scope) is octets


@given(
    count=st.integers(1, 4),
    each=st.integers(1, 3),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60),
)
def test_turns_are_bounded_fair_and_never_idle(count, each, steps):
    turns = Turns(count, each)
    number, waiting, going = 0, {}, {}  # tickets by the client that asked, in order
    for asks, choice in steps:
        if asks:
            number += 1
            waiting[number] = choice % 3
            begun = turns.ask(number, choice % 3)
        elif waiting or going:
            left = [*going, *waiting][choice % (len(going) + len(waiting))]
            waiting.pop(left, None)
            going.pop(left, None)
            begun = turns.leave(left)
        else:
            continue
        for ticket in begun:
            has = Counter(going.values())
            client = waiting.pop(ticket)
            # Of its client it asked first, and no waiting client has fewer going.
            assert all(t > ticket for t, other in waiting.items() if other == client)
            assert has[client] == min(has[other] for other in [client, *waiting.values()])
            going[ticket] = client
        has = Counter(going.values())
        assert len(going) <= count
        assert max(has.values(), default=0) <= each
        # A place is free only if nobody who waits may take it.
        assert len(going) == count or all(has[client] == each for client in waiting.values())


@given(
    grace=st.floats(0.1, 10),
    rate=st.floats(1, 1e6),
    messages=st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 1)), max_size=20),
)
def test_a_response_has_so_long_as_its_size_says(grace, rate, messages):
    allowance = Allowance(grace, rate)
    spent = sent = 0.0
    for nbytes, part in messages:
        sent += nbytes
        left = allowance.more(nbytes)
        assert left == pytest.approx(grace + sent / rate - spent, rel=1e-6, abs=1e-6)
        allowance.took(left * part)
        spent += left * part


ROWS = 2_000_000
TABLE = "/api/v1/table/full/live/run/internal?format=application/vnd.apache.arrow.file"


@contextlib.contextmanager
def users(tmp_path, **patience):
    """Serve a table of 16 MB to two users; gives the URL and their keys."""
    config = Authentication(
        database=f"sqlite:///{tmp_path}/tokens.db", secret_key_file=tmp_path / "secret"
    )
    table = TableAdapter.from_pandas(pandas.DataFrame({"x": np.arange(float(ROWS))}), npartitions=1)
    root = MapAdapter({"live": MapAdapter({"run": MapAdapter({"internal": table})})})
    gated = Gated(config, root=root)
    tokens = Tokens(config.database, providers_of(config))
    scopes = terms.ROLES["service"]
    keys = [tokens.create(Owner("service", name), scopes, None, "")[0] for name in "ab"]
    in_flight = InFlight(gated.app, Keys(gated.app), **patience)
    with serving(Gate(in_flight, keys=Keys(gated.app))) as url:
        yield url, keys


class Slow:
    """A client that asks for the table, and takes nothing but the head of the answer."""

    def __init__(self, url, key):
        place = urlsplit(url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect((place.hostname, place.port))
        self._socket.settimeout(60)
        request = f"GET {TABLE} HTTP/1.1\r\nHost: x\r\nAuthorization: Apikey {key}\r\n\r\n"
        self._socket.sendall(request.encode())

    def begin(self):
        """Wait until the response begins."""
        assert self._socket.recv(12) == b"HTTP/1.1 200"

    def rest(self):
        """Return how many bytes come until the connection ends."""
        nbytes = 0
        with contextlib.suppress(ConnectionError):
            while part := self._socket.recv(1 << 20):
                nbytes += len(part)
        return nbytes

    def close(self):
        self._socket.close()


def rows(url, key):
    """Read the table; return its number of rows."""
    headers = {"Authorization": f"Apikey {key}"}
    answer = httpx.get(url + TABLE, headers=headers, timeout=60).raise_for_status()
    return pyarrow.ipc.open_file(answer.content).read_all().num_rows


@pytest.mark.logs_errors  # of connections that end when the server stops
def test_slow_readers_of_one_user_stop_no_other_user(tmp_path):
    with users(tmp_path) as (url, (one, other)), contextlib.ExitStack() as stack:
        for number in range(6):
            reader = stack.enter_context(contextlib.closing(Slow(url, one)))
            if number < EACH:
                reader.begin()  # the rest has to wait
        assert rows(url, other) == ROWS
        assert rows(url, other) == ROWS


@pytest.mark.logs_errors  # of responses that are not completed
def test_who_does_not_take_a_response_in_time_loses_it(tmp_path, caplog):
    with users(tmp_path, grace=0.5, rate=1e9) as (url, (one, _)), contextlib.ExitStack() as stack:
        slow = [stack.enter_context(contextlib.closing(Slow(url, one))) for _ in range(EACH)]
        for reader in slow:
            reader.begin()
        assert rows(url, one) == ROWS  # it waits until the others have lost theirs
        for reader in slow:
            assert reader.rest() < 8 * ROWS
    assert "a client took less than" in caplog.text


def test_none_is_made_for_a_client_that_goes_while_it_waits_and_bodies_stay_whole():
    made, free = [], asyncio.Event()

    async def app(scope, receive, send):
        message = await receive()
        assert not message["more_body"]
        made.append((scope["n"], message["body"]))
        await free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    in_flight, said = InFlight(app), {}

    async def request(number):
        scope = {
            "type": "http", "method": "POST", "path": "/api/v1/table/full/x", "headers": [],
            "query_string": b"", "client": ("a", 1), "n": number,
        }  # fmt: skip

        async def send(message):
            pass

        await in_flight(scope, said[number].get, send)

    def part(body, more):
        return {"type": "http.request", "body": body, "more_body": more}

    async def main():
        said.update({number: asyncio.Queue() for number in range(EACH + 3)})
        requests = [asyncio.create_task(request(number)) for number in said]
        for queue in said.values():
            queue.put_nowait(part(b"fir", True))
        unfinished, *others = said
        gone = others[-1]
        for number in others:
            said[number].put_nowait(part(b"st", False))
        said[gone].put_nowait({"type": "http.disconnect"})
        await requests[gone]
        assert made == [(number, b"first") for number in others[:EACH]]
        said[unfinished].put_nowait({"type": "http.disconnect"})
        free.set()
        await asyncio.gather(*requests)
        assert made == [(number, b"first") for number in others[:-1]]

    asyncio.run(main())


def test_requests_whose_bodies_do_not_come_hold_up_nobody(tmp_path):
    with users(tmp_path) as (url, (one, _)), contextlib.ExitStack() as stack:
        place = urlsplit(url)
        head = (
            f"POST {TABLE} HTTP/1.1\r\nHost: x\r\nAuthorization: Apikey {one}\r\n"
            "Content-Type: application/json\r\nContent-Length: {}\r\n\r\n["
        )
        for _ in range(100):
            client = stack.enter_context(socket.create_connection((place.hostname, place.port)))
            client.sendall(head.format(1000).encode())
        assert rows(url, one) == ROWS
        too_long = stack.enter_context(socket.create_connection((place.hostname, place.port)))
        too_long.sendall(head.format(2 * BODY_LIMIT).encode() + b" " * BODY_LIMIT)
        assert too_long.recv(12) == b"HTTP/1.1 413"
