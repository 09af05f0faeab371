"""Logins: PAM with a real account, OpenID Connect with real providers, sessions, admins."""

import contextlib
import getpass
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from tiled.client import from_uri
from tiled.client.context import Context
from websockets.exceptions import ConnectionClosed

from p06bs.config.server import Authentication, Oidc, Pam
from p06bs.server.gate.gate import Guard
from p06bs.server.login import browser
from p06bs.server.login.authentication import LOGINS_AT_ONCE, several_users
from p06bs.server.login.terms import Owner
from p06bs.server.login.tokens import Tokens
from p06bs.services import server
from tests.doors import Gated
from tests.identity_provider import AUDIENCE, identity_provider
from tests.live_server import serving
from tests.test_gate import ECHO, echoing, opened

PASSWORD = "correct horse"
SERVICE = "p06bs-test"
DATA = "/api/v1/array/full/live/run1/primary/Fe"


def configuration(tmp_path, **more):
    return Authentication(
        database=f"sqlite:///{tmp_path}/t.db", secret_key_file=tmp_path / "secret", **more
    )


@pytest.fixture(scope="module")
def account():
    """A user of the system with a password, and a PAM service that checks it."""
    if os.geteuid() != 0 or not shutil.which("useradd") or not Path("/etc/pam.d").is_dir():
        pytest.skip("PAM IS NOT TESTED: it needs root, useradd and /etc/pam.d")
    pytest.importorskip("pamela", reason="PAM IS NOT TESTED: pamela is not installed")
    name = f"p06t{uuid.uuid4().hex[:8]}"
    subprocess.run(["useradd", "--no-create-home", name], check=True)
    service = Path("/etc/pam.d") / SERVICE
    try:
        subprocess.run(["chpasswd"], input=f"{name}:{PASSWORD}".encode(), check=True)
        service.write_text("auth required pam_unix.so nodelay\naccount required pam_unix.so\n")
        yield name
    finally:
        service.unlink(missing_ok=True)
        subprocess.run(["userdel", name], check=True, capture_output=True)


@pytest.fixture
def pam(account, tmp_path):
    config = configuration(tmp_path, pam=Pam(service=SERVICE), admins=())
    gated = Gated(config, Guard(failed_logins=5))
    with serving(gated.gate) as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def login(http, name, password=PASSWORD):
    form = {"grant_type": "password", "username": name, "password": password}
    return http.post("/api/v1/auth/provider/pam/token", data=form)


def test_a_user_logs_in_by_pam_with_the_stock_client(account, pam, monkeypatch, tmp_path):
    monkeypatch.setenv("TILED_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TILED_FORCE_PROMPT", "1")
    monkeypatch.setattr("builtins.input", lambda prompt="": account)
    monkeypatch.setattr(getpass, "getpass", lambda prompt="": PASSWORD)
    with Context.from_any_uri(str(pam.base_url))[0] as context:
        context.authenticate(remember_me=False)
        me = context.whoami()
        assert [(i["id"], i["provider"]) for i in me["identities"]] == [(account, "pam")]
        read = context.http_client.get(str(pam.base_url) + DATA)
        assert (read.status_code, len(read.content)) == (200, 96)
        made = context.create_api_key(expires_in=60, note="mine")
        client = from_uri(str(pam.base_url), api_key=made["secret"])
        assert client["live", "run1", "primary", "Fe"].read().shape == (3, 4)
        client.context.close()


def test_wrong_names_and_passwords_are_refused_and_few(account, pam):
    assert login(pam, account).status_code == 200
    wrong = [
        (account, "wrong"), (account, ""), (f"{account}\0x", PASSWORD), (account, f"{PASSWORD}\0x"),
        ("root", "wrong"), ("nobody", "wrong"),
    ]  # fmt: skip
    for name, password in wrong:
        answer = login(pam, name, password)
        assert answer.status_code in (401, 422), (name, password)
        assert PASSWORD not in answer.text
    answer = login(pam, account)
    assert (answer.status_code, int(answer.headers["retry-after"]) <= 60) == (429, True)


def test_anonymous_sees_nothing(pam):
    for path in (DATA, "/api/v1/metadata/", "/api/v1/search/live", "/api/v1/metrics"):
        answer = pam.get(path)
        assert answer.status_code == 401
        assert "secretsample" not in answer.text


def test_sessions_are_refreshed_and_revoked(account, pam):
    session = login(pam, account).json()
    bearer = {"Authorization": f"Bearer {session['access_token']}"}
    assert pam.get(DATA, headers=bearer).status_code == 200
    refresh = {"refresh_token": session["refresh_token"]}
    again = pam.post("/api/v1/auth/session/refresh", json=refresh)
    assert again.status_code == 200
    assert pam.post("/api/v1/auth/session/revoke", json=refresh).status_code == 204
    assert pam.post("/api/v1/auth/session/refresh", json=refresh).status_code == 401
    # Tokens that are other tokens, none, or forged.
    for token in (session["access_token"], "x", "", "a.b.c"):
        for kind in ("refresh", "revoke"):
            answer = pam.post(f"/api/v1/auth/session/{kind}", json={"refresh_token": token})
            assert answer.status_code in (401, 409, 422), (kind, token)
    for name in ("0" * 32, "abc", "-"):
        for headers in (bearer, {}):
            answer = pam.delete(f"/api/v1/auth/session/revoke/{name}", headers=headers)
            assert answer.status_code in (401, 404), (name, headers)


def test_a_revoked_session_ends_its_websockets_and_those_of_keys_made_with_it(account, tmp_path):
    config = configuration(tmp_path, pam=Pam(service=SERVICE), admins=())
    gated = echoing(config)

    def bearer(session):
        return {"Authorization": f"Bearer {session['access_token']}"}

    def subscribed(session):
        """As stock `subscribe()` does it."""
        asked = {"expires_in": 60, "scopes": ["inherit"], "note": "websocket"}
        key = http.post("/api/v1/auth/apikey", json=asked, headers=bearer(session)).json()
        shown = {"Authorization": f"Apikey {key['secret']}"}
        one = stack.enter_context(opened(url, headers=shown))
        http.delete(
            "/api/v1/auth/apikey",
            params={"first_eight": key["first_eight"]},
            headers=bearer(session),
        ).raise_for_status()
        return one

    with (
        serving(gated.gate) as url,
        httpx.Client(base_url=url) as http,
        contextlib.ExitStack() as stack,
    ):
        kept, revoked = (login(http, account).json() for _ in range(2))
        asked = {"expires_in": 3600, "scopes": ["inherit"], "note": "a token of one's own"}
        own = http.post("/api/v1/auth/apikey", json=asked, headers=bearer(revoked)).json()["secret"]
        stay = [
            subscribed(kept),
            stack.enter_context(opened(url, headers={"Authorization": f"Apikey {own}"})),
        ]
        refreshed = http.post(
            "/api/v1/auth/session/refresh", json={"refresh_token": revoked["refresh_token"]}
        ).json()
        end = [subscribed(revoked)]
        for token in (revoked["access_token"], refreshed["access_token"]):
            path = f"{ECHO}?access_token={token}"
            end.append(stack.enter_context(opened(url, path, headers={})))
            end.append(stack.enter_context(opened(url, headers={})))
            end[-1].send(json.dumps({"type": "auth", "access_token": token}))
        assert {one.recv(timeout=30) for one in (*stay, *end)} == {"hello"}
        refresh = {"refresh_token": refreshed["refresh_token"]}
        http.post("/api/v1/auth/session/revoke", json=refresh).raise_for_status()
        for one in end:
            with pytest.raises(ConnectionClosed) as ended:
                one.recv(timeout=30)
            assert ended.value.rcvd.code == 4410
        for one in stay:
            with pytest.raises(TimeoutError):
                one.recv(timeout=0)


def test_tokens_made_after_a_login_do_not_live_for_ever(account, pam):
    bearer = {"Authorization": f"Bearer {login(pam, account).json()['access_token']}"}
    for asked in ({"scopes": None}, {"scopes": ["inherit"], "expires_in": None}):
        answer = pam.post("/api/v1/auth/apikey", json=asked, headers=bearer)
        assert answer.status_code == 200, answer.text
        made = answer.json()
        until = datetime.fromisoformat(made["expiration_time"]).replace(tzinfo=UTC)
        life = until - datetime.now(UTC)
        assert timedelta(days=89) < life < timedelta(days=91), asked
    refused = pam.post(
        "/api/v1/auth/apikey", json={"scopes": None, "expires_in": 0}, headers=bearer
    )
    assert refused.status_code == 422


def test_admins_make_and_revoke_tokens_of_others(account, tmp_path):
    config = configuration(tmp_path, pam=Pam(service=SERVICE), admins=[account])
    gated = Gated(config)
    tokens = Tokens(config.database, ["pam"])
    tokens.create(Owner("user", "alice"), ["read:data"], None, "")
    with serving(gated.gate) as url, httpx.Client(base_url=url, timeout=60) as http:
        http.headers["Authorization"] = f"Bearer {login(http, account).json()['access_token']}"
        everybody = http.get("/api/v1/auth/principal").json()
        (alice,) = [p for p in everybody if p["identities"][0]["id"] == "alice"]
        path = f"/api/v1/auth/principal/{alice['uuid']}/apikey"
        asked = {"scopes": ["read:metadata"], "expires_in": 60, "note": "by the admin"}
        made = http.post(path, json=asked).json()
        assert [t.note for t in tokens.find(Owner("user", "alice"))] == ["", "by the admin"]
        beyond = http.post(path, json={**asked, "scopes": ["write:data"]})
        assert beyond.status_code == 403
        params = {"first_eight": made["first_eight"]}
        assert http.delete(path, params=params).status_code == 204
        # A user is no admin.
        mine = tokens.create(Owner("user", "alice"), ["read:data"], None, "")[0]
        http.headers["Authorization"] = f"Apikey {mine}"
        assert http.get("/api/v1/auth/principal").status_code == 401
        assert http.post(path, json=asked).status_code == 401


def test_a_server_without_pamela_says_what_to_install(tmp_path, monkeypatch, capsys):
    path = tmp_path / "p06.toml"
    path.write_text(f"""
[bus]
log = "{tmp_path}/log"
[server]
port = 0
[server.authentication]
database = "sqlite:///{tmp_path}/t.db"
secret_key_file = "{tmp_path}/secret-key"
[server.authentication.pam]
[server.access]
roots = ["{tmp_path}"]
""")
    monkeypatch.setitem(sys.modules, "pamela", None)  # as if it were not installed
    words = ["p06bs", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        server.main()
    assert ended.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert [line for line in said if "pip install" in line] == said[-1:]
    assert "Traceback" not in "".join(said)


def test_pam_does_not_hold_up_others():
    assert LOGINS_AT_ONCE < 40  # threads that Tiled reads with


@pytest.fixture
def secret_file(tmp_path):
    path = tmp_path / "client-secret"
    path.write_text("s3cret\n")
    path.chmod(0o600)
    return path


def oidc(provider_url, secret_file, claim="preferred_username"):
    return Oidc(
        well_known_uri=f"{provider_url}/.well-known/openid-configuration", client_id=AUDIENCE,
        client_secret_file=secret_file, audience=AUDIENCE, user_claim=claim,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the provider's own
def test_a_user_logs_in_at_an_independent_provider_as_the_stock_client_does(
    tmp_path, secret_file, monkeypatch
):
    mock = pytest.importorskip("oidc_provider_mock")
    with mock.run_server_in_thread() as server:
        issuer = f"http://localhost:{server.server_port}"
        config = configuration(tmp_path, oidc=oidc(issuer, secret_file, claim="sub"))
        with serving(Gated(config).gate) as url, httpx.Client(base_url=url, timeout=60) as browser:
            # What the terminal shows, and polls meanwhile.
            asked = browser.post("/api/v1/auth/provider/oidc/authorize").json()
            poll = {"device_code": asked["device_code"], "grant_type": "x"}
            waiting = httpx.post(asked["verification_uri"], json=poll)
            assert waiting.json()["detail"]["error"] == "authorization_pending"
            # What the browser does.
            granted = httpx.post(asked["authorization_uri"], data={"sub": "alice"})
            assert granted.status_code in (302, 303)
            form = browser.get(granted.headers["location"])
            assert "form-action 'self'" in form.headers["content-security-policy"]
            code = parse_qs(urlsplit(granted.headers["location"]).query)["code"][0]
            target = f"/api/v1/auth/provider/oidc/device_code?code={code}"
            wrong = browser.post(target, data={"code": code, "user_code": "0000-0000"})
            assert wrong.status_code == 401
            done = browser.post(target, data={"code": code, "user_code": asked["user_code"]})
            assert (done.status_code, "Success" in done.text) == (200, True)
            # And the terminal is in.
            session = httpx.post(asked["verification_uri"], json=poll).json()
            assert session["identity"] == {"id": "alice", "provider": "oidc"}
            bearer = {"Authorization": f"Bearer {session['access_token']}"}
            assert browser.get(DATA, headers=bearer).status_code == 200
            once = httpx.post(asked["verification_uri"], json=poll)
            assert once.status_code == 404


OIDC = "/api/v1/auth/provider/oidc"


def begun(http):
    """Begin a login as a browser does; return its state, while the client has the cookie."""
    answer = http.get(f"{OIDC}/authorize")
    assert answer.status_code == 302
    return parse_qs(urlsplit(answer.headers["location"]).query)["state"][0]


def logged_in(http, code):
    """End a login as a browser does; return the session that the page holds."""
    answer = http.get(f"{OIDC}/code", params={"code": code, "state": begun(http)})
    assert answer.status_code == 200
    data = re.search(r'<script type="application/json" id="session">(.*?)</script>', answer.text)
    return json.loads(data[1])


def test_a_login_ends_in_the_browser_that_began_it(tmp_path, secret_file):
    with identity_provider() as provider:
        provider.code("x", provider.token(provider.claims()))
        config = configuration(tmp_path, oidc=oidc(provider.url, secret_file))
        with serving(Gated(config).gate) as url, httpx.Client(base_url=url, timeout=60) as http:
            asked = http.get(f"{OIDC}/authorize", params={"state": "https://evil.example/"})
            query = parse_qs(urlsplit(asked.headers["location"]).query)
            assert query["redirect_uri"] == [f"{url}{OIDC}/code"]
            assert query["scope"] == ["openid profile"]
            assert "evil" not in asked.headers["location"]
            cookie = asked.headers["set-cookie"].lower()
            for part in ("httponly", "samesite=lax", f"path={OIDC}", "max-age=600"):
                assert part in cookie
            state = query["state"][0]
            wrong = [{}, {"state": ""}, {"state": "x"}, {"state": "é"}]
            for one in wrong:  # somebody else's link
                answer = http.get(f"{OIDC}/code", params={"code": "x", **one})
                assert (answer.status_code, "did not begin" in answer.text) == (401, True), one
                assert answer.headers["content-type"].startswith("text/html")
            stranger = httpx.get(f"{url}{OIDC}/code", params={"code": "x", "state": state})
            assert stranger.status_code == 401
            assert provider.asked == []
            denied = http.get(
                f"{OIDC}/code", params={"error": "access_denied", "state": begun(http)}
            )
            assert (denied.status_code, "refused" in denied.text) == (401, True)
            answer = http.get(f"{OIDC}/code", params={"code": "x", "state": begun(http)})
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["referrer-policy"] == "no-referrer"
            # A login is for once.
            again = http.get(f"{OIDC}/code", params={"code": "x", "state": state})
            assert again.status_code == 401


def test_only_good_tokens_of_the_provider_log_in(tmp_path, secret_file, caplog):
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    with identity_provider() as provider:
        good = provider.claims()
        provider.code("good", provider.token(good))
        wrong = {
            "audience": provider.token(provider.claims(aud="other")),
            "signature": provider.token(good, key=stranger),
            "expired": provider.token(provider.claims(exp=good["iat"] - 10)),
            "issuer": provider.token(provider.claims(iss="http://evil.example")),
            "no-key": provider.token(good, kid="2"),
            "hmac": provider.token(good, key="k" * 64, algorithm="HS256"),
            "unsigned": provider.token(good, key="", algorithm="none"),
            "no-name": provider.token({k: v for k, v in good.items() if "user" not in k}),
            "root": provider.token(provider.claims(preferred_username="root")),
            "path": provider.token(provider.claims(preferred_username="../alice")),
            "capital": provider.token(provider.claims(preferred_username="Alice Smith")),
            "number": provider.token(provider.claims(preferred_username=1000)),
            "nul": provider.token(provider.claims(preferred_username="alice\0")),
            "at-hash": provider.token(provider.claims(at_hash="wrong")),
            "garbage": "garbage",
            "null": None,
        }
        for name, token in wrong.items():
            provider.code(name, token)
        provider.answers["empty"] = (200, {})
        provider.answers["text"] = (200, b"no json")
        provider.answers["list"] = (200, [1])
        provider.answers["error"] = (500, {})
        config = configuration(tmp_path, oidc=oidc(provider.url, secret_file))
        with serving(Gated(config).gate) as url, httpx.Client(base_url=url, timeout=60) as http:
            path = f"{OIDC}/code"
            for name in [*wrong, "empty", "text", "list", "error", "unknown"]:
                answer = http.get(path, params={"code": name, "state": begun(http)})
                assert (answer.status_code, "Traceback" in answer.text) == (401, False), name
            assert http.get(path, params={"state": begun(http)}).status_code == 401
            session = logged_in(http, "good")
            assert session["identity"]["id"] == "alice"
            bearer = {"Authorization": f"Bearer {session['access_token']}"}
            me = http.get("/api/v1/auth/whoami", headers=bearer).json()
            assert me["identities"][0] == {**me["identities"][0], "id": "alice", "provider": "oidc"}
            # The provider's own tokens open nothing here.
            theirs = {"Authorization": f"Bearer {provider.token(good)}"}
            assert http.get(DATA, headers=theirs).status_code == 401
    headers, form = provider.asked[-1]
    assert headers["Authorization"].startswith("Basic ")
    assert form["redirect_uri"] == [f"{url}/api/v1/auth/provider/oidc/code"]
    assert "client_secret" not in form
    for secret in ("s3cret", provider.answers["good"][1]["id_token"]):
        assert secret not in caplog.text
    assert "is no name of a system user" in caplog.text


def test_nobody_waits_for_a_provider_that_changes_its_key(tmp_path, secret_file):
    with identity_provider() as provider:
        config = configuration(tmp_path, oidc=oidc(provider.url, secret_file))
        with serving(Gated(config).gate) as url:
            for kid in ("1", "2"):
                provider.kid = kid
                provider.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
                provider.code("x", provider.token(provider.claims(), kid=kid))
                with httpx.Client(base_url=url, timeout=60) as http:
                    assert logged_in(http, "x")["identity"]["id"] == "alice"


def test_a_provider_that_is_away_is_said_to_be(tmp_path, secret_file):
    with identity_provider() as provider:
        gone = provider.url
    config = configuration(tmp_path, oidc=oidc(gone, secret_file))
    with serving(Gated(config).gate) as url:
        for method, path in (
            ("POST", "authorize"),
            ("GET", "authorize"),
            ("GET", "code?code=x&state=s"),
        ):
            answer = httpx.request(
                method, f"{url}/api/v1/auth/provider/oidc/{path}",
                headers={"Cookie": f"{browser.COOKIE}=s"}, timeout=60,
            )  # fmt: skip
            assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
            assert "identity provider" in answer.json()["detail"]


def test_secrets_are_files_that_others_do_not_read(tmp_path, secret_file):
    secret_file.chmod(0o640)
    config = configuration(tmp_path, oidc=oidc("http://127.0.0.1:1", secret_file))
    with pytest.raises(PermissionError, match=r"client secret of OIDC .*chmod 600"):
        several_users(config)
    secret_file.chmod(0o600)
    secret_file.write_text("")
    with pytest.raises(ValueError, match="is empty"):
        several_users(config)
    key = tmp_path / "secret"
    assert key.stat().st_mode & 0o777 == 0o600
    assert re.fullmatch("[0-9a-f]{64}\n", key.read_text())


def test_without_a_provider_tokens_are_all_there_is(tmp_path):
    config = configuration(tmp_path)
    gated = Gated(config)
    secret, _ = Tokens(config.database, ["token"]).create(
        Owner("user", "alice"), ["read:metadata", "read:data"], None, ""
    )
    with serving(gated.gate) as url, httpx.Client(base_url=url) as http:
        form = {"username": "alice", "password": "x"}
        assert http.post("/api/v1/auth/provider/token/token", data=form).status_code == 401
        http.headers["Authorization"] = f"Apikey {secret}"
        assert http.get(DATA).status_code == 200


@given(st.text(max_size=30))
def test_names_that_reach_pam_are_those_of_accounts(name):
    from p06bs.server.login.terms import is_user_name

    with contextlib.suppress(UnicodeEncodeError):
        if is_user_name(name):
            assert name.encode().isalnum() or set(name) <= set(
                "abcdefghijklmnopqrstuvwxyz0123456789_.-"
            )
