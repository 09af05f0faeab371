"""No secret is logged: each kind is sent in each way to a server that logs all it can."""

import contextlib
import json
import secrets
import sqlite3

import httpx
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from p06bs.server.login.browser import COOKIE
from p06bs.server.login.terms import Owner
from p06bs.server.login.tokens import Tokens
from tests.identity_provider import identity_provider
from tests.server_process import ServerProcess

OIDC = "/api/v1/auth/provider/oidc"
DATA = "/api/v1/metadata/live"
STREAM = "/api/v1/stream/single/live"
NAMES = ("api_key", "access_token", "refresh_token", "id_token", "device_code", "code", "user_code")

CONFIGURATION = """
[server]
port = 0
[server.archive]
database = "sqlite:///{0}/catalog.db"
storage = "{0}/runs"
[server.authentication]
database = "sqlite:///{0}/tokens.db"
secret_key_file = "{0}/secret-key"
failed_logins_per_minute = 1000
[server.authentication.pam]
[server.authentication.oidc]
well_known_uri = "%s/.well-known/openid-configuration"
client_id = "p06"
client_secret_file = "{0}/client-secret"
audience = "p06"
[server.access]
roots = ["{0}"]
rights = "mode-bits"
"""


class Secrets:
    """Makes secrets, each different, and remembers what each is called."""

    def __init__(self):
        self.known = {}

    def __call__(self, name, value=None):
        value = value or secrets.token_hex(32)
        self.known[value] = name
        return value

    def found_in(self, text):
        """Names of the secrets of which a part is in a text, eight characters of it."""
        pieces = {
            value[start : start + 12]: name
            for value, name in self.known.items()
            # What a token is called is the beginning of it, which is no secret.
            for start in range(8, len(value) - 11)
        }
        return sorted({name for piece, name in pieces.items() if piece in text})


def send_keys(http, secret):
    """Each kind of secret in a URL, in headers, in forms and in JSON; good ones and wrong ones."""
    for name in NAMES:
        for method, path in (("GET", DATA), ("GET", "/ui/"), ("GET", f"{OIDC}/code")):
            http.request(method, path, params={name: secret(f"{name} in the URL of {path}")})
            http.cookies.clear()
        body = {name: secret(f"{name} in JSON"), "grant_type": "x"}
        for path in ("auth/session/refresh", "auth/session/revoke", "auth/provider/oidc/token"):
            http.post(f"/api/v1/{path}", json=body)
            http.post(f"/api/v1/{path}", content=json.dumps(body)[:-1])  # malformed
        form = {name: secret(f"{name} in a form"), "user_code": secret("user_code in a form")[:8]}
        http.post(f"{OIDC}/device_code", data=form)
        http.post("/api/v1/auth/provider/pam/token", data=form)
        http.get(
            "/health", headers={"Referer": f"http://x/ui/?{name}={secret(f'{name} in a Referer')}"}
        )
        http.get(f"/api/v1/nothing/{name}={secret(f'{name} in a path')}")
    for scheme in ("Apikey", "Bearer", "Basic", "apikey", "BEARER"):
        for key in (secret(f"{scheme} in a header"), f"a.{secret(f'a JWT by {scheme}')}.c"):
            http.get(DATA, headers={"Authorization": f"{scheme} {key}"})
    http.get(DATA, headers={"Cookie": f"tiled_api_key={secret('key in a cookie')}"})
    http.get(DATA, headers={"Cookie": f"tiled_csrf={secret('csrf in a cookie')}; a=b"})
    http.post(DATA, headers={"x-csrf": secret("csrf in a header")}, json={})
    for path in ("pam/token", "oidc/token"):
        password = secret(f"password for {path}")
        form = {"grant_type": "password", "username": "nobody", "password": password}
        http.post(f"/api/v1/auth/provider/{path}", data=form)
        http.post(f"/api/v1/auth/provider/{path}", json=form)
        http.post(f"/api/v1/auth/provider/{path}", params=form)


def send_by_socket(url, secret):
    """Secrets in the URL, in headers and in first messages of WebSockets."""
    place = url.replace("http", "ws", 1) + STREAM

    def knock(query="", headers=None, message="{}"):
        with (
            contextlib.suppress(WebSocketException, EOFError),
            connect(place + query, additional_headers=headers) as one,
        ):
            one.send(message)
            one.recv(timeout=30)

    for name in ("api_key", "access_token", "refresh_token"):
        knock(f"?{name}={secret(f'{name} in the URL of a socket')}")
        knock(message=json.dumps({name: secret(f"{name} in a message")}))
        binary = secret(f"{name} in a binary message")
        secret(f"{name} in hex", binary.encode().hex(" "))
        knock(message=json.dumps({name: binary}).encode())
    knock(headers={"Authorization": f"Apikey {secret('key in a header of a socket')}"})
    knock(headers={"Cookie": f"tiled_api_key={secret('key in a cookie of a socket')}"})


def log_in_by_device(http, provider, secret):
    """A login from a terminal, with a code of the provider's that is good and one that is not."""
    asked = http.post(f"{OIDC}/authorize").json()
    poll = {"device_code": secret("device code", asked["device_code"]), "grant_type": "x"}
    http.post(asked["verification_uri"], json=poll)
    user_code = asked["user_code"]
    code = secret("the provider's code")
    token = secret("id token", provider.token(provider.claims()))
    provider.code(code, token, access_token=secret("the provider's access token"))
    path = f"{OIDC}/device_code?code={code}"
    http.post(path, data={"code": code, "user_code": "0000-0000"})
    http.post(path, data={"code": code, "user_code": user_code})
    session = http.post(asked["verification_uri"], json=poll).json()
    for name in ("access_token", "refresh_token"):
        secret(f"{name} of a session", session[name])
    return user_code, session


def log_in_by_browser(http, provider, secret):
    """A login in a browser that ends well, and one with a token that is none."""
    for good in (True, False):
        asked = http.get(f"{OIDC}/authorize")
        state = http.cookies[COOKIE]
        code = secret("code in a browser")
        token = provider.token(provider.claims()) if good else secret("garbage for a token")
        provider.code(code, token)
        answer = http.get(f"{OIDC}/code", params={"code": code, "state": state})
        assert asked.status_code == 302
        assert answer.status_code == (200 if good else 401)


def test_no_secret_is_in_logs_or_files(tmp_path):
    secret = Secrets()
    client_secret = tmp_path / "client-secret"
    client_secret.write_text(secret("client secret"))
    client_secret.chmod(0o600)
    with identity_provider() as provider:
        server = ServerProcess(tmp_path, CONFIGURATION % provider.url, P06BS_VERBOSE="1")
        with contextlib.closing(server), httpx.Client(base_url=server.url, timeout=60) as http:
            tokens = Tokens(f"sqlite:///{tmp_path}/tokens.db", ["pam", "oidc"])
            key, _ = tokens.create(
                Owner("service", "x"), ["read:metadata", "create:apikeys"], None, ""
            )
            secret("a good key", key)
            good = {"Authorization": f"Apikey {key}"}
            assert http.get(DATA, headers=good).status_code == 200
            assert http.get(DATA, params={"api_key": key}).status_code == 200
            http.get("/ui/", params={"api_key": key})
            http.cookies.clear()
            made = http.post("/api/v1/auth/apikey", json={"expires_in": 60}, headers=good).json()
            secret("a key made with a key", made["secret"])
            send_keys(http, secret)
            send_by_socket(server.url, secret)
            user_code, session = log_in_by_device(http, provider, secret)
            bearer = {"Authorization": f"Bearer {session['access_token']}"}
            assert http.get("/api/v1/auth/whoami", headers=bearer).status_code == 200
            refresh = {"refresh_token": session["refresh_token"]}
            again = http.post("/api/v1/auth/session/refresh", json=refresh).json()
            secret("access token after a refresh", again["access_token"])
            log_in_by_browser(http, provider, secret)
            # Errors with tracebacks, which show what the database was asked.
            with contextlib.closing(sqlite3.connect(tmp_path / "tokens.db")) as other:
                for table in ("api_keys", "pending_sessions"):
                    other.execute(f"ALTER TABLE {table} RENAME TO lost_{table}")
            key = {"Authorization": f"Apikey {secret('key then')}"}
            form = {"code": secret("code then"), "user_code": user_code}
            lost = http.get(DATA, headers=key), http.post(f"{OIDC}/device_code?code=x", data=form)
            assert {answer.status_code for answer in lost} <= {500, 503}
    said = server.output.read_text() + server.errors.read_text()
    assert "DEBUG" in said  # as verbose as it gets
    assert "GET /api/v1/metadata/live?api_key=[hidden]" in said
    assert "Logging error" not in said
    assert secret.found_in(said) == []
    for form in (user_code, user_code.replace("-", "")):
        assert form not in said
    assert "no such table" in said
    assert server.process.returncode == 0
    ours = {client_secret, tmp_path / "secret-key", server.output, server.errors}
    for file in tmp_path.rglob("*"):
        if file.is_file() and file not in ours:
            assert secret.found_in(file.read_bytes().decode("latin-1")) == [], file
