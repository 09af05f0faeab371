"""The gate before Tiled's routes, over real sockets; and the holes that it closes."""

import asyncio
import contextlib
import json
import logging
import re
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.mapping import MapAdapter
from tiled.catalog import in_memory
from tiled.client import from_uri
from tiled.server.app import build_app
from tiled.server.connection_pool import close_database_connection_pool, get_database_engine
from tiled.server.settings import get_settings
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from p06bs.config.server import Authentication
from p06bs.server.gate import redact
from p06bs.server.gate.bodies import RefusedError
from p06bs.server.gate.gate import Gate, Guard
from p06bs.server.gate.growing import bounded_query
from p06bs.server.gate.keys import Key, Keys, bounded_request
from p06bs.server.gate.logins import WINDOW, FailedLogins, Seats, Seen
from p06bs.server.gate.routes import ROUTES, Routes
from p06bs.server.gate.sockets import FIRST_MESSAGE_SECONDS
from p06bs.server.login.authentication import single_user
from p06bs.server.login.terms import Owner
from p06bs.server.login.tokens import Tokens
from tests.doors import KEY, Gated
from tests.live_server import serving

HEADERS = {"Authorization": f"Apikey {KEY}"}
DATA = "/api/v1/array/full/live/run1/primary/Fe"


@pytest.fixture(scope="module")
def gated():
    return Gated(guard=Guard(body=100_000, body_seconds=1.0, failed_logins=10**6))


@pytest.fixture(scope="module")
def url(gated):
    with serving(gated.gate) as url:
        yield url


@pytest.fixture
def http(url):
    with httpx.Client(base_url=url, headers=HEADERS, timeout=30) as client:
        yield client


def raw(url, request):
    """Send bytes and return the status, 0 if the connection is closed without one."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            connection.sendall(request)
            answer = connection.makefile("rb").readline()
        except ConnectionError:
            return 0
    return int(answer.split()[1]) if answer else 0


def test_stock_client_reads_through_the_gate(url):
    client = from_uri(url, api_key=KEY)
    assert np.array_equal(
        client["live", "run1", "primary", "Fe"].read(), np.arange(12.0).reshape(3, 4)
    )
    assert client["live", "run1", "primary", "internal"].read()["n"].tolist() == [0, 1, 2, 3, 4]
    client.context.close()


OPEN = {"/", "/healthz", "/health", "/ready", "/api/v1/", "/ui/{path}", "/tiled-ui-settings"}


def test_every_route_of_tiled_is_open_or_closed_on_purpose(gated, http):
    """A route that a later Tiled adds is closed: it must be listed here to pass."""
    passed = set()
    routes = gated.app.openapi()["paths"]
    assert len(routes) > 30
    for path, methods in routes.items():
        for method in methods:
            place = path.replace("{path}", "live/run1").replace("{uuid}", "0" * 32)
            verb = method.upper()
            if Routes().refusal(verb, re.sub(r"\{[^}]*\}", "x", place)) is None:
                passed.add(f"{verb} {path}")
            else:
                answer = http.request(verb, re.sub(r"\{[^}]*\}", "x", place), params={"id": 1})
                assert answer.status_code in (403, 404, 405), (verb, path)
    written = {p for p in passed if not p.startswith("GET")}
    assert written == {
        "POST /api/v1/metadata/{path}", "PUT /api/v1/metadata/{path}",
        "PATCH /api/v1/metadata/{path}", "DELETE /api/v1/metadata/{path}",
        "PUT /api/v1/array/full/{path}", "PATCH /api/v1/array/full/{path}",
        "PUT /api/v1/array/block/{path}", "PUT /api/v1/table/full/{path}",
        "PUT /api/v1/table/partition/{path}", "PATCH /api/v1/table/partition/{path}",
        "DELETE /api/v1/stream/close/{path}",
        "POST /api/v1/table/full/{path}", "POST /api/v1/table/partition/{path}",
        "POST /api/v1/container/full/{path}",
    }  # fmt: skip


CLOSED = [
    ("GET", "/zarr/v2/live/run1/primary/Fe/.zarray", 404),
    ("GET", "//zarr/v3/live/run1/primary/Fe/zarr.json", 404),
    ("GET", "/api/v1/asset/bytes/live/run1?id=1", 403),
    ("GET", "/api/v1/asset/bytes/live/run1?id=1&relative_path=../../etc/passwd", 403),
    ("GET", "/api/v1/asset/manifest/live/run1?id=1", 403),
    ("POST", "/api/v1/register/live", 403),
    ("PUT", "/api/v1/data_source/live/run1", 403),
    ("POST", "/api/v1/metadata/archive", 405),
    ("POST", "/api/v1/metadata/", 405),
    ("POST", "/api/v1/metadata//live", 405),
    ("POST", "/api/v1/metadata/live/../archive", 404),
    ("DELETE", "/api/v1/metadata/archive/run1", 405),
    ("PUT", "/api/v1/array/full/archive/run1", 405),
    ("PUT", "/api/v1/awkward/full/live/run1", 405),
    ("PUT", "/api/v1/node/full/live/run1", 405),
    ("DELETE", "/api/v1/revisions/live/run1?number=1", 405),
    ("GET", "/custom/anything", 404),
    ("GET", "/api/v1/webhooks/live", 404),
    ("GET", "/api/graphql", 404),
    ("POST", "/api/v1/auth/principal?role=admin", 405),
    ("PROPFIND", "/api/v1/metadata/live", 405),
    ("TRACE", "/", 405),
    ("GET", "/api/v1/metadata/live/%2e%2e/%2E%2E/etc", 404),
    ("GET", "/ui/..%2f..%2f..%2fetc/passwd", 404),
    ("GET", "/static/..%5c..%5cetc", 400),
    ("GET", f"/ui/{'x' * 300}", 404),
    ("GET", f"{DATA}?slice=::0", 400),
    ("GET", f"{DATA}?slice=:,::-0", 400),
    ("GET", "/api/v1/metadata/live/%00", 400),
    ("GET", "/api/v1/metadata/live/%ff%fe", 400),
    ("GET", "/api/v1/metadata/live/a%0d%0aX-Evil:1", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), CLOSED)
def test_closed_doors_say_why(url, method, path, status):
    host = url.removeprefix("http://")
    with socket.create_connection(tuple(host.split(":")), timeout=30) as connection:
        # As it stands: clients would resolve the dots.
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Apikey {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: 0\r\nConnection: close\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode()
    assert answer.split()[1] == str(status)
    assert "passwd" not in answer
    assert "root:" not in answer
    assert json.loads(answer.partition("\r\n\r\n")[2])["detail"]


@pytest.mark.logs_errors  # of stock Tiled
def test_stock_tiled_serves_zarr_without_a_key_and_links_to_a_strangers_host():
    """The holes are there: if one of these fails, Tiled has mended it and a guard may go."""
    gated = Gated()
    path = "/zarr/v2/live/run1/primary/Fe/.zarray"
    forged = {"X-Forwarded-Host": "evil.example", **HEADERS}
    with serving(gated.app) as bare, serving(gated.gate) as guarded:
        assert httpx.get(bare + path).status_code != 404
        assert httpx.get(guarded + path).status_code == 404
        answers = [
            httpx.get(f"{u}/api/v1/metadata/live/run1", headers=forged).text
            for u in (bare, guarded)
        ]
    assert ["evil.example" in answer for answer in answers] == [True, False]


def test_a_configured_proxy_is_believed_about_itself_only():
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "http":
            seen.append((scope["client"][0], scope["scheme"]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body"})
        else:
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})

    said = {"X-Forwarded-For": "6.6.6.6, 10.0.0.9", "X-Forwarded-Proto": "https"}
    for proxy in (False, True):
        with serving(Gate(app, Guard(proxy=proxy))) as url:
            answer = httpx.get(f"{url}/health", headers=said)
            assert ("strict-transport-security" in answer.headers) is proxy
    assert seen == [("127.0.0.1", "http"), ("10.0.0.9", "https")]


def test_bodies_end_at_the_limit_announced_or_not(url, http):
    path = "/api/v1/table/full/live/run1/primary/internal"
    assert http.post(path, json=["x"]).status_code == 200
    assert http.post(path, content=b" " * 100_001).status_code == 413
    assert http.post(path, content=iter([b" " * 60_000] * 2)).status_code == 413
    answer = http.post(path, content=iter([b'["x"', b"]"]))
    assert answer.status_code == 200
    huge = "9" * 5000
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {huge}\r\n\r\n"
    assert raw(url, head.encode()) == 400


def test_slow_bodies_end(url):
    path = "/api/v1/table/full/live/run1/primary/internal"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Apikey {KEY}\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n["
    )
    assert raw(url, head.encode()) == 408


def test_long_urls_and_heads_are_refused(url, http):
    assert http.get(f"{DATA}?{'x' * 20_000}").status_code == 414
    assert http.get(DATA, headers={f"x-{i}": "y" for i in range(120)}).status_code == 431
    assert http.get(DATA, headers={"x": "y" * 40_000}).status_code == 431
    # A head without end: the server hangs up.
    assert raw(url, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 200_000) in (0, 431)


def test_browsers_are_told_to_protect_their_users(http):
    for path in ("/", "/docs", "/ui/", DATA, "/api/v1/metadata/nothing", "/zarr/v2/x"):
        answer = http.get(path)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert "strict-transport-security" not in answer.headers
        assert "server" not in answer.headers
        for cookie in answer.headers.get_list("set-cookie"):
            assert "httponly" in cookie.lower()
            assert "samesite=lax" in cookie.lower()
    assert (
        "unsafe-inline" not in http.get(DATA).headers["content-security-policy"].split("style")[0]
    )


def test_a_key_leaves_the_url_of_a_page(url):
    with httpx.Client(base_url=url) as http:
        for page in ("/", "/ui/browse/live"):
            answer = http.get(page, params={"api_key": KEY, "tab": "1"})
            assert (answer.status_code, answer.headers["location"]) == (303, f"{page}?tab=1")
            assert KEY not in answer.text
        assert http.get("/api/v1/metadata/live").status_code == 200  # by the cookie
        # A page of a stranger has the cookie, but not the token.
        path = "/api/v1/table/full/live/run1/primary/internal"
        assert http.post(path, json=["x"]).status_code == 403
        assert http.post(f"{path}?csrf=%C3%A9", json=["x"]).status_code == 403
        token = {"x-csrf": http.cookies["tiled_csrf"]}
        assert http.post(path, json=["x"], headers=token).status_code in (200, 403)


def test_other_origins_only_by_configuration():
    page = "https://p06.example"
    ask = {"Origin": page, "Access-Control-Request-Method": "GET"}
    for origins in ((), (page,)):
        with serving(Gated(guard=Guard(origins=origins)).gate) as url:
            answer = httpx.options(url + DATA, headers=ask)
            assert ("access-control-allow-origin" in answer.headers) is bool(origins)
            answer = httpx.get(url + DATA, headers={"Origin": page, **HEADERS})
            assert ("access-control-allow-origin" in answer.headers) is bool(origins)
            evil = {**ask, "Origin": "https://evil.example"}
            answer = httpx.options(url + DATA, headers=evil)
            assert "access-control-allow-origin" not in answer.headers


def test_keys_that_no_key_can_be_are_wrong_not_errors(url):
    for headers in (
        {"Authorization": b"Apikey \xff\xfe"},
        {"Cookie": b"tiled_api_key=\xe9"},
        {"Authorization": "Apikey " + "x" * 1000},
        {"Authorization": "Apikey"},
        {"Cookie": "tiled_api_key=wrong"},
    ):
        assert httpx.get(url + DATA, headers=headers).status_code == 401, headers
    assert httpx.get(f"{url}{DATA}?api_key=%C3%A9").status_code == 401
    assert httpx.get(url + DATA, headers={"Authorization": "Basic eDp5"}).status_code in (400, 401)


def test_guessing_keys_ends_while_those_who_have_one_go_on():
    now = [0.0]
    gated = Gated()
    gate = Gate(gated.app, Guard(failed_logins=5), clock=lambda: now[0])
    with serving(gate) as url, httpx.Client(base_url=url) as http:
        assert http.get(DATA, headers=HEADERS).status_code == 200
        stale = {"Authorization": "Apikey stale"}  # tried again and again, but no guess
        assert {http.get(DATA, headers=stale).status_code for _ in range(9)} == {401}
        guesses = [http.get(DATA, headers={"Authorization": f"Apikey guess{i}"}) for i in range(8)]
        assert [g.status_code for g in guesses] == [401] * 4 + [429] * 4
        assert 0 < int(guesses[-1].headers["retry-after"]) <= WINDOW
        # By every way that a key comes, also the right one if it was not known before.
        assert http.get(DATA, params={"api_key": "guess"}).status_code == 429
        assert http.get(DATA, headers={"Cookie": "tiled_api_key=guess"}).status_code == 429
        assert http.get(DATA, headers=HEADERS).status_code == 200
        assert http.get(DATA, headers=stale).status_code == 401
        assert http.get("/health").status_code == 200
        assert gate.failed_logins == 5
        now[0] += WINDOW
        assert http.get(DATA, headers={"Authorization": "Apikey guess"}).status_code == 401


def test_an_answer_that_needs_no_key_proves_none():
    gate = Gate(Gated().app, Guard(failed_logins=2), clock=lambda: 0.0)
    with serving(gate) as url, httpx.Client(base_url=url) as http:
        http.headers["Authorization"] = "Apikey guess"
        for path in ("/api/v1/", "/health", "/", "/openapi.json"):
            assert http.get(path).status_code == 200
        preflight = {"Origin": "http://x", "Access-Control-Request-Method": "GET"}
        http.options(DATA, headers=preflight)
        assert http.get(DATA).status_code == 401
        assert http.get(DATA, headers={"Authorization": "Apikey second"}).status_code == 401
        assert http.get(DATA, headers={"Authorization": "Apikey third"}).status_code == 429


class Echo(ArrayAdapter):
    """An array that is subscribed to: says hello, and waits for the client to go."""

    def make_ws_handler(self, websocket, formatter, uri):
        async def handler(start, already_accepted=False):
            if not already_accepted:
                await websocket.accept()
            await websocket.send_text("hello")
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass

        return handler


def echoing(authentication=None, **guard):
    run = MapAdapter({"Fe": Echo.from_array(np.arange(3.0))})
    return Gated(authentication, Guard(**guard), MapAdapter({"live": MapAdapter({"run1": run})}))


ECHO = "/api/v1/stream/single/live/run1/Fe"


def opened(url, path=ECHO, headers=HEADERS, **more):
    return connect(
        url.replace("http", "ws", 1) + path, additional_headers=headers, legacy=True, **more
    )


def refused(url, status, path=ECHO, headers=HEADERS, **more):
    with pytest.raises(InvalidStatus) as why:
        opened(url, path, headers, **more)
    assert why.value.response.status_code == status
    assert b"detail" in why.value.response.body


def first_message(url, message, path=ECHO):
    """Send this and return the first answer, or the close code."""
    with opened(url, path, headers={}) as one:
        one.send(message)
        try:
            return one.recv()
        except ConnectionClosed as ended:
            return ended.rcvd.code


def auth(key):
    return json.dumps({"type": "auth", "api_key": key})


def test_sockets_are_few_for_each_address():
    gated = echoing(sockets=2)
    with serving(gated.gate) as url, opened(url) as first:
        assert first.recv() == "hello"
        with opened(url) as second:
            assert second.recv() == "hello"
            assert gated.gate.sockets == 2
            refused(url, 429)
        until = time.monotonic() + 30
        while gated.gate.sockets > 1:  # the server has yet to notice
            assert time.monotonic() < until
        with opened(url) as third:
            assert third.recv() == "hello"


@pytest.mark.parametrize("query", ["access_token=", "xaccess_token=1", "x=access_token="])
def test_what_looks_like_a_sessions_token_is_none(query):
    gate = Gate(echoing().app, Guard(failed_logins=2), clock=lambda: 0.0)
    with serving(gate) as url:
        codes = [first_message(url, auth(f"no{i}"), f"{ECHO}?{query}") for i in range(4)]
    assert codes == [4003, 4003, 1013, 1013]


def test_sockets_are_authenticated_by_header_or_first_message():
    now = [0.0]
    gate = Gate(echoing().app, Guard(failed_logins=4), clock=lambda: now[0])
    wrong = [{"Authorization": f"Apikey no{i}"} for i in range(3)]
    with serving(gate) as url:
        assert first_message(url, auth(KEY)) == "hello"
        for odd in ("no json", "[]", '{"type": "auth"}', auth(5), auth("\xe9"), "[" * 9999):
            assert first_message(url, odd) in (4001, 4003), odd
        now[0] += WINDOW
        for i in range(2):
            refused(url, 401, headers=wrong[i])
            assert first_message(url, auth(f"nono{i}")) == 4003
        refused(url, 429, headers=wrong[2])
        assert first_message(url, auth("nono2")) == 1013
        assert first_message(url, auth(KEY)) == "hello"
        with opened(url) as one:
            assert one.recv() == "hello"


def test_sockets_of_strange_pages_and_paths_are_refused():
    with serving(echoing(origins=("https://p06.example",)).gate) as url:
        for origin in (url, "https://p06.example"):
            with opened(url, origin=origin) as one:
                assert one.recv() == "hello"
        refused(url, 403, origin="http://evil.example")
        for path in ("/", "/api/v1/stream/many/live", "/api/v1/stream/single/../x"):
            refused(url, 404, path)


def test_who_says_nothing_keeps_no_place(monkeypatch):
    assert FIRST_MESSAGE_SECONDS <= 10
    monkeypatch.setattr("p06bs.server.gate.sockets.FIRST_MESSAGE_SECONDS", 0.05)
    with serving(echoing().gate) as url, opened(url, headers={}) as silent:
        with pytest.raises(ConnectionClosed) as ended:
            silent.recv(timeout=30)
        assert ended.value.rcvd.code == 4001


def test_a_revoked_token_ends_its_websockets_and_those_of_keys_made_with_it(tmp_path):
    config = Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret"
    )
    gated = echoing(config)
    tokens = Tokens(config.database, ["token"])
    scopes = ["read:data", "read:metadata", "create:apikeys", "revoke:apikeys"]
    kept, revoked = (
        tokens.create(Owner("user", name), scopes, None, "")[0] for name in ("ada", "bob")
    )

    def subscribed(url, secret):
        """As stock `subscribe()` does it: with a key that is revoked after the handshake."""
        with httpx.Client(base_url=url, headers={"Authorization": f"Apikey {secret}"}) as http:
            asked = {"expires_in": 60, "scopes": ["inherit"], "note": "websocket"}
            made = http.post("/api/v1/auth/apikey", json=asked).json()
            one = stack.enter_context(opened(url, headers=bearer(made["secret"])))
            assert one.recv() == "hello"
            gone = http.delete("/api/v1/auth/apikey", params={"first_eight": made["first_eight"]})
            assert gone.status_code == 204
            return one

    def bearer(secret):
        return {"Authorization": f"Apikey {secret}"}

    with serving(gated.gate) as url, contextlib.ExitStack() as stack:
        stays = subscribed(url, kept)
        ends = [
            subscribed(url, revoked),
            stack.enter_context(opened(url, headers=bearer(revoked))),
            stack.enter_context(opened(url, headers={})),
        ]
        ends[2].send(auth(revoked))
        assert [one.recv() for one in ends[1:]] == ["hello"] * 2
        tokens.revoke(revoked[:8])
        for one in ends:
            with pytest.raises(ConnectionClosed) as ended:
                one.recv(timeout=30)
            assert ended.value.rcvd.code == 4410
        with pytest.raises(TimeoutError):
            stays.recv(timeout=0)
        refused(url, 401, headers=bearer(revoked))


def test_one_statement_finds_the_keys_of_all_websockets(tmp_path, monkeypatch):
    """No index finds names of sessions, and all WebSockets ask each second."""
    config = Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret"
    )
    gated = echoing(config)
    tokens = Tokens(config.database, ["token"])
    owner, until = Owner("service", "maps"), datetime.now(UTC) + timedelta(days=1)
    names = [tokens.create(owner, ["metrics"], until, "")[0][:8] for _ in range(2)]
    monkeypatch.setattr("p06bs.server.gate.keys.FRESH_SECONDS", 3600.0)
    settings = gated.app.dependency_overrides[get_settings]()
    statements = []

    async def ask():
        engine = get_database_engine(settings).sync_engine
        event.listen(engine, "before_cursor_execute", lambda *said: statements.append(said[2]))
        keys = Keys(gated.app)
        asked = [*names, "deadbeef"] * 10
        assert await asyncio.gather(*map(keys.holds, asked)) == [True, True, False] * 10
        assert len(statements) == 1
        await asyncio.to_thread(tokens.revoke, names[0])
        monkeypatch.setattr("p06bs.server.gate.keys.FRESH_SECONDS", 0.0)
        assert [await keys.holds(name) for name in names] == [False, True]
        await close_database_connection_pool(settings.database_settings)

    asyncio.run(ask())


def test_sockets_are_few_for_each_user_whatever_the_key(tmp_path):
    config = Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret"
    )
    # A proxy tells addresses apart here, to see whose places they are.
    gated = echoing(config, sockets=2, proxy=True)
    tokens = Tokens(config.database, ["token"])
    scopes = ["read:data", "read:metadata"]

    def shown(name, address):
        secret, _ = tokens.create(Owner("user", name), scopes, None, "")
        return {"Authorization": f"Apikey {secret}", "X-Forwarded-For": address}

    with (
        serving(gated.gate) as url,
        opened(url, headers=shown("alice", "10.0.0.1")) as first,
        opened(url, headers=shown("alice", "10.0.0.2")) as second,
        opened(url, headers=shown("bob", "10.0.0.3")) as third,
    ):
        assert [one.recv() for one in (first, second, third)] == ["hello"] * 3
        refused(url, 429, headers=shown("alice", "10.0.0.4"))


def test_strangers_who_say_nothing_take_no_place_of_those_who_do(tmp_path):
    config = Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret"
    )
    gated = echoing(config, sockets=2)
    secret, _ = Tokens(config.database, ["token"]).create(
        Owner("user", "alice"), ["read:data", "read:metadata"], None, ""
    )
    key = {"Authorization": f"Apikey {secret}"}
    with serving(gated.gate) as url, opened(url, headers={}), opened(url, headers={}) as stranger:
        refused(url, 429, headers={})
        with opened(url, headers=key) as first, opened(url, headers=key) as second:
            assert [one.recv() for one in (first, second)] == ["hello"] * 2
            # Who says something needs a place of those who have.
            stranger.send(json.dumps({"type": "auth", "api_key": secret}))
            with pytest.raises(ConnectionClosed):
                stranger.recv()
            assert stranger.close_code == 1013


def test_a_proxy_that_does_not_say_who_its_clients_are_is_told_of_once(caplog):
    with serving(Gated(guard=Guard(proxy=True)).gate) as url:
        for path in ("/health", "/", "/"):
            httpx.get(f"{url}{path}")
    assert caplog.text.count("no X-Forwarded-For") == 1


@given(
    limit=st.integers(1, 5),
    events=st.lists(
        st.tuples(st.sampled_from("fw"), st.sampled_from("ab"), st.floats(0, 40)), max_size=60
    ),
)
def test_nobody_fails_more_often_than_allowed_within_a_minute(limit, events):
    logins, now, failures = FailedLogins(limit), 0.0, []
    for kind, who, passed in events:
        now += passed
        wait = logins.wait(now, [who])
        recent = [t for t, one in failures if one == who and t + WINDOW - now > 0]
        # Exactly those wait whose failures within the window are as many as allowed.
        assert (wait > 0) == (len(recent) >= limit)
        if wait:
            assert wait <= WINDOW + 1e-9
            assert logins.wait(now + wait + 1e-9, [who]) == 0
        elif kind == "f":
            logins.failed(now, [who])
            failures.append((now, who))
    assert logins.total == len(failures)


@given(st.lists(st.integers(0, 50), max_size=200))
def test_memory_of_failures_and_keys_is_bounded(who):
    logins, known = FailedLogins(3, kept=10), Seen(kept=10)
    for i, one in enumerate(who):
        logins.failed(float(i), [one])
        known.add(bytes([one]))
    assert len(logins._failures) <= 10
    assert len(known._digests) <= 10
    if who:
        assert bytes([who[-1]]) in known


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("ab")), max_size=60))
def test_seats_are_taken_and_left(events):
    seats, taken = Seats(3), {"a": 0, "b": 0}
    for take, who in events:
        if take:
            assert seats.take(who) == (taken[who] < 3)
            taken[who] = min(3, taken[who] + 1)
        elif taken[who]:
            seats.leave(who)
            taken[who] -= 1
    assert seats.total == sum(taken.values())


@given(
    st.none() | st.lists(st.sampled_from(["inherit", "read:data", "write:data", "metrics"])),
    st.sets(st.sampled_from(["read:data", "metrics", "create:apikeys"]), min_size=1),
)
def test_no_key_makes_a_mightier_one(asked, own):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    parent = Key("o", frozenset(own), None, datetime(2026, 1, 2, tzinfo=UTC))
    body = json.dumps({"scopes": asked, "expires_in": None}).encode()
    try:
        made = json.loads(bounded_request(body, parent, now))
    except RefusedError:
        assert not set(asked) <= own
    else:
        assert set(made["scopes"]) <= own
        assert made["expires_in"] == 600


@given(
    st.none() | st.integers(1, 10**9),
    st.none() | st.integers(0, 10**6),
    st.sampled_from([("inherit",), ("read:data",)]),
)
def test_a_key_made_with_a_key_ends_within_minutes_and_with_its_parent(asked, left, scopes):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ends = None if left is None else now + timedelta(seconds=left)
    parent = Key("o", frozenset(scopes), None, ends)
    body = json.dumps({"scopes": None, "expires_in": asked}).encode()
    for own in (True, False):
        life = json.loads(bounded_request(body, parent, now, own))["expires_in"]
        assert life == min(n for n in (asked, left, 600) if n is not None)
    in_session = json.loads(bounded_request(body, None, now))
    assert in_session == {"scopes": None, "expires_in": asked or 90 * 86400}


@pytest.mark.parametrize("mark", [" [made with deadbeef]", " [made with deadbeef]" * 2])
def test_no_note_that_comes_in_says_what_a_key_was_made_with(mark):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    parent = Key("o", frozenset({"inherit"}), None, None, "aaaaaaaa")

    def note(sent, *args, life=86400):
        body = json.dumps({"note": sent, "expires_in": life}).encode()
        return json.loads(bounded_request(body, *args))["note"]

    assert note(f"x{mark}", None, now, True, "bbbbbbbb") == "x"
    assert note(f"x{mark}", None, now, True, "bbbbbbbb", life=60) == "x [made with bbbbbbbb]"
    assert note(f"x{mark}", parent, now) == "x [made with aaaaaaaa]"
    assert note(f"x{mark}", parent, now, False) == "x"
    assert note(f"x{mark} y", None, now) == f"x{mark} y"


@pytest.mark.parametrize("life", [0, -1, 1.5, "60", True, [], {}])
def test_a_key_without_a_life_is_refused(life):
    now = datetime(2026, 1, 1, tzinfo=UTC)
    for parent in (None, Key("o", frozenset({"inherit"}), None, None)):
        with pytest.raises(RefusedError, match="expires_in"):
            bounded_request(json.dumps({"expires_in": life}).encode(), parent, now)


@given(st.binary(max_size=200))
def test_any_query_is_bounded_or_left_alone(query):
    assert isinstance(bounded_query(b"expected_shape=5&slice=" + query), bytes)
    assert bounded_query(b"expected_shape=" + b"9" * 5000) == b"expected_shape=" + b"9" * 5000


@given(st.text(max_size=60), st.sampled_from(["GET", "POST", "DELETE"]))
def test_paths_are_decided_whatever_they_are(path, method):
    refusal = Routes().refusal(method, path)
    assert refusal is not None or any(r.path.fullmatch(path) for r in ROUTES)


def test_file_names_that_break_headers_are_refused(http):
    for name in ("a\r\nX-Evil: 1", "\U0001f600", 'a"b', "../x", "a\\b", "x" * 300):
        answer = http.get(DATA, params={"filename": name})
        assert (answer.status_code, "x-evil" in answer.headers) == (400, False), name
    answer = http.get(DATA, params={"filename": "Fe K.bin"})
    assert answer.headers["content-disposition"] == 'attachment; filename="Fe K.bin"'


@pytest.mark.parametrize(
    ("pattern", "quick"),
    [
        ("steel.*", True), ("^a.*b$", True), (r"\(x\)+", True), ("[(]+", True), ("(ab)?c", True),
        ("*", False), ("(", False), ("(a+)+$", False),
        ("((a+))+", False), ("(a|a)*b", False), ("a*a*a*b", False),
        (r"(a)\1", False), ("(a{1,9}){1,9}", False), ("x" * 300, False), ("a{0,}.*.*", False),
    ],
)  # fmt: skip
def test_patterns_that_search_for_ever_are_refused(http, pattern, quick):
    params = {
        "filter[regex][condition][pattern]": pattern,
        "filter[regex][condition][key]": "start.sample",
    }
    answer = http.get("/api/v1/search/live", params=params)
    assert answer.status_code == (200 if quick else 400)


SECRET = "0123456789abcdef" * 4
LOGGED = [
    f"GET /api/v1/metadata/live?api_key={SECRET}&x=1 HTTP/1.1",
    f"http://host/ui?tab=1&api_key={SECRET}",
    f"Authorization: Apikey {SECRET}",
    f"headers [(b'authorization', b'Bearer {SECRET}')]",
    f"{{'api_key': '{SECRET}', 'x': 1}}",
    f'{{"access_token": "{SECRET}"}}',
    f"Cookie: a=b; tiled_api_key={SECRET}; tiled_csrf=1",
    f"redirect to /ui/auth-callback?access_token={SECRET}&refresh_token={SECRET}",
    f"postgresql://user:{SECRET}@host/db",
    f"grant_type=password&username=a&password={SECRET}",
    f"Cookie: tiled_csrf={SECRET}",
    f"GET /api/v1/x/code%3D{SECRET} HTTP/1.1",
    f"(OperationalError) locked\n[SQL: SELECT ?]\n[parameters: ('{SECRET}', 1)]\n(Background on)",
]


@pytest.mark.parametrize("text", LOGGED)
def test_secrets_do_not_reach_the_log(text, caplog):
    logger = logging.getLogger("p06bs.test")
    with redact.redacting(), caplog.at_level(logging.INFO):
        logger.info("%s", text)
        logger.info(text.replace("%", "%%"))
        try:
            raise ValueError(text)
        except ValueError:
            logger.warning("it failed", exc_info=True)
    assert SECRET not in caplog.text
    assert caplog.text.count(redact.HIDDEN) >= 3
    assert "Traceback" in caplog.text


def test_values_of_a_wrong_format_are_clean_too():
    """Logging shows them when it complains."""
    with redact.redacting():
        made = logging.getLogger("p06bs.test").makeRecord(
            "x", logging.INFO, "f", 1, "%s %s %s", (f"api_key={SECRET}", 7), None
        )
    assert SECRET not in f"{made.msg} {made.args}"
    assert made.args[1] == 7


def test_what_is_no_secret_is_logged_as_it_is(caplog):
    with redact.redacting(), caplog.at_level(logging.INFO):
        logging.getLogger("p06bs.test").info("run %s has code %d", "abc", 5)
    assert "run abc has code 5" in caplog.text


def test_a_slow_reader_does_not_hold_up_others(url, http):
    """The gate hands answers on as they come: it buffers none."""
    done = threading.Event()

    def other():
        assert httpx.get(url + DATA, headers=HEADERS).status_code == 200
        done.set()

    with http.stream("GET", DATA) as slow:
        thread = threading.Thread(target=other)
        thread.start()
        assert done.wait(30)
        thread.join()
        assert slow.read() == np.arange(12.0).tobytes()


@pytest.mark.parametrize("slashes", ["/", "%2F", "//", "assets//", "..%2f..%2f", "%2e%2e/"])
def test_the_ui_gives_away_no_other_file(http, tmp_path, slashes):
    """Stock Tiled serves any file of the machine as /ui//PATH, without a key."""
    (tmp_path / "private.txt").write_text("private")
    url = httpx.URL(f"{http.base_url}/ui/").copy_with(
        raw_path=f"/ui/{slashes}{str(tmp_path)[1:]}/private.txt".encode()
    )
    answer = http.get(url)
    assert answer.status_code == (200 if slashes == "assets//" else 404)  # the UI shows that
    assert "private" not in answer.text


@pytest.mark.parametrize("path", ["assets", "assets/", "index.html/x", "assets/x/"])
def test_the_ui_has_no_directories(http, path):
    answer = http.get(f"/ui/{path}")
    assert answer.status_code == (200 if path == "assets/x/" else 404)  # the UI shows that


def test_files_that_stock_tiled_gives_away_stay_where_they_are(tmp_path):
    """Whoever may register makes a directory an asset, and leads out of it."""
    (tmp_path / "data").mkdir()
    (tmp_path / "private.txt").write_text("private")
    source = {
        "structure_family": "array", "mimetype": "application/x-zarr", "parameters": {},
        "structure": {
            "data_type": {"endianness": "little", "kind": "f", "itemsize": 8},
            "chunks": [[1]], "shape": [1], "dims": None, "resizable": False,
        },
        "management": "external",
        "assets": [{
            "data_uri": f"file://localhost{tmp_path}/data", "is_directory": True,
            "parameter": "data_uri",
        }],
    }  # fmt: skip
    body = {
        "id": "trap", "structure_family": "array", "metadata": {}, "data_sources": [source],
        "specs": [], "access_tags": None,
    }  # fmt: skip
    asset = "/api/v1/asset/bytes/trap?id=1&relative_path=../private.txt"
    catalog = in_memory(readable_storage=[str(tmp_path / "data")])
    stock = {"authentication": single_user(KEY).authentication}
    stock["server_settings"] = {"expose_raw_assets": True}
    app = build_app(catalog, **stock)
    with serving(app) as bare:
        registered = httpx.post(f"{bare}/api/v1/register/", json=body, headers=HEADERS)
        assert registered.status_code == 200
        assert httpx.get(bare + asset, headers=HEADERS).text == "private"
    catalog = in_memory(readable_storage=[str(tmp_path / "data")])
    app = build_app(catalog, **stock)
    with serving(Gate(app)) as guarded:
        for path in ("/api/v1/register/", "/api/v1/register/live"):
            registered = httpx.post(guarded + path, json=body, headers=HEADERS)
            assert registered.status_code == 403
        assert httpx.get(guarded + asset, headers=HEADERS).status_code == 403
