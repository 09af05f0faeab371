"""Tokens: made on the server's host by the command line, used over HTTP by stock clients."""

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from alembic import command
from hypothesis import given
from hypothesis import strategies as st
from tiled.authn_database import core
from tiled.client import from_uri
from tiled.client.utils import ClientError

from p06bs.cli import main
from p06bs.config.server import Authentication
from p06bs.server.login import principals, terms
from p06bs.server.login.terms import Owner, TokenError, parse_expiry
from p06bs.server.login.tokens import Tokens
from tests.doors import Gated
from tests.live_server import serving

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "p06.toml"
    path.write_text(f"""
[server.authentication]
database = "sqlite:///{tmp_path}/var/tokens.db"
secret_key_file = "{tmp_path}/var/secret-key"
[server.access]
roots = ["{tmp_path}"]
""")
    return path


def process(*words):
    """Run the command in a process of its own, as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "p06bs.cli", "token", *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.fixture
def p06bs(monkeypatch, capsys):
    """Run the command here: a process imports Tiled anew, which takes seconds."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["p06bs", "token", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(words, ended.value.code or 0, *capsys.readouterr())

    return run


def config_of(tmp_path):
    return Authentication(
        database=f"sqlite:///{tmp_path}/var/tokens.db",
        secret_key_file=tmp_path / "var" / "secret-key",
    )


def bearer(secret):
    return {"Authorization": f"Apikey {secret}"}


def test_a_token_is_made_shown_once_listed_used_and_revoked(toml, tmp_path, p06bs):
    made = process("create", "--config", toml, "--user", "nobody", "--note", "my notebook")
    assert (made.returncode, re.fullmatch("[0-9a-f]{72}\n", made.stdout) is not None) == (0, True)
    secret = made.stdout.strip()
    assert "shown only now" in made.stderr
    assert secret not in made.stderr
    (listed,) = json.loads(p06bs("list", "--config", toml, "--json").stdout)
    assert listed["first_eight"] == secret[:8]
    assert (listed["owner"], listed["kind"], listed["note"]) == ("nobody", "user", "my notebook")
    assert listed["last_used"] is None
    life = datetime.fromisoformat(listed["expires"]) - datetime.fromisoformat(listed["created"])
    assert timedelta(days=89) < life < timedelta(days=91)
    database = tmp_path / "var" / "tokens.db"
    assert database.stat().st_mode & 0o777 == 0o600
    assert bytes.fromhex(secret)[8:] not in database.read_bytes()
    assert secret[8:].encode() not in database.read_bytes()
    shown = p06bs("list", "--config", toml)
    assert secret[:8] in shown.stdout
    assert secret[:12] not in shown.stdout
    # Whole in 80 columns, which is what there is where nobody says otherwise.
    assert listed["expires"][:10] in shown.stdout
    assert "…" not in shown.stdout
    with serving(Gated(config_of(tmp_path)).gate) as url:
        client = from_uri(url, api_key=secret)
        assert client["live", "run1", "primary", "Fe"].read().shape == (3, 4)
        client.context.close()
        (used,) = json.loads(p06bs("list", "--config", toml, "--json").stdout)
        assert used["last_used"] is not None
        gone = p06bs("revoke", secret[:8], "--config", toml)
        assert (gone.returncode, gone.stdout) == (0, f"revoked {secret[:8]} of user nobody\n")
        answer = httpx.get(f"{url}/api/v1/metadata/live/run1", headers=bearer(secret))
        assert answer.status_code == 401
        assert "secretsample" not in answer.text


def test_services_have_scopes_by_purpose_and_users_do_not_write(toml, tmp_path, p06bs):
    scopes = {}
    for name, words in {
        "alice": ("--user", "nobody"),
        "lavue": ("--service", "lavue"),
        "probe": ("--service", "prometheus", "--for", "metrics", "--expires", "never"),
        "maps": ("--service", "maps", "--for", "writing"),
        "some": ("--service", "x", "--scopes", "read:metadata, metrics"),
    }.items():
        made = p06bs("create", "--config", toml, *words, "--json")
        assert made.returncode == 0, made.stderr
        scopes[name] = json.loads(made.stdout)
    read = ["read:metadata", "read:data"]
    assert scopes["alice"]["scopes"] == [*read, "create:apikeys", "revoke:apikeys"]
    assert scopes["lavue"]["scopes"] == read
    assert (scopes["probe"]["scopes"], scopes["probe"]["expires"]) == (["metrics"], None)
    assert scopes["maps"]["scopes"] == list(terms.WRITE)
    assert scopes["some"]["scopes"] == ["read:metadata", "metrics"]
    with serving(Gated(config_of(tmp_path)).gate) as url, httpx.Client(base_url=url) as http:
        for name, wanted in {"probe": 200, "alice": 401, "some": 200}.items():
            answer = http.get("/api/v1/metrics", headers=bearer(scopes[name]["secret"]))
            assert answer.status_code == wanted, name
        for name, wanted in {"probe": 401, "alice": 200, "lavue": 200, "some": 401}.items():
            answer = http.get(
                "/api/v1/array/full/live/run1/primary/Fe", headers=bearer(scopes[name]["secret"])
            )
            assert answer.status_code == wanted, name
        me = http.get("/api/v1/auth/whoami", headers=bearer(scopes["lavue"]["secret"])).json()
        assert (me["type"], me["identities"][0]["provider"]) == ("service", "service")
        assert me["identities"][0]["id"] == "lavue"
    all_gone = p06bs("revoke", "--service", "lavue", "--config", toml)
    assert all_gone.returncode == 0
    left = json.loads(p06bs("list", "--config", toml, "--json", "--service", "lavue").stdout)
    assert left == []


WRONG = [
    (["create", "--user", "nobody", "--for", "writing"], "only services write"),
    (["create", "--user", "nobody", "--scopes", ""], "--scopes names none"),
    (["create", "--user", "nobody", "--scopes", " , "], "--scopes names none"),
    (["create", "--user", "nobody", "--scopes", "register"], "cannot have the scope 'register'"),
    (["create", "--service", "x", "--scopes", "inherit"], "cannot have the scope 'inherit'"),
    (["create"], "--user NAME or --service NAME"),
    (["create", "--user", "a", "--service", "b"], "one owner"),
    (["create", "--user", "root"], "'root' is no name of a system user"),
    (["create", "--user", "nosuchuser"], "this system has no user 'nosuchuser'"),
    (["create", "--user", "a/../b"], "no name of a system user"),
    (["create", "--user", "nobody", "--expires", "2020-01-01"], "not in the future"),
    (["create", "--user", "nobody", "--expires", "soon"], "write 30d, 12h"),
    (["create", "--user", "nobody", "--for", "fun"], "reading, subscribing, writing, metrics"),
    (["create", "--user", "nobody", "--note", "n" * 300], "255 are the limit"),
    (["revoke"], "first eight characters"),
    (["revoke", "12345678"], "no token begins with 12345678"),
    (["revoke", "1234"], "first 8 characters"),
    (["revoke", "--user", "nobody"], "user nobody has no token"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=lambda value: " ".join(value)[:40])
def test_what_cannot_be_done_says_why_in_one_line(toml, words, said, p06bs):
    answer = p06bs(*words, "--config", toml)
    assert said in answer.stderr
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)


def test_a_server_of_one_user_says_what_to_add(tmp_path, p06bs):
    path = tmp_path / "sim.toml"
    path.write_text("[server]\n")
    answer = p06bs("list", "--config", path)
    assert answer.returncode == 1
    assert "[server.authentication] and [server.access]" in answer.stderr


def test_users_make_tokens_with_the_stock_client_but_none_beyond_their_own(tmp_path):
    config = config_of(tmp_path)
    gated = Gated(config)
    tokens = Tokens(config.database, ["token"])
    read = ["read:metadata", "read:data", "create:apikeys"]
    secret, _ = tokens.create(
        Owner("service", "maps"), read, datetime.now(UTC) + timedelta(days=1), ""
    )
    with serving(gated.gate) as url:
        client = from_uri(url, api_key=secret)
        context = client.context
        made = context.create_api_key(scopes=["read:metadata"], expires_in=60, note="n")
        assert made["scopes"] == ["read:metadata"]
        # What stock subscribe() asks for: everything that the owner has. It gets what the key has.
        everything = context.create_api_key(expires_in=None, note="websocket")
        assert sorted(everything["scopes"]) == sorted(read)
        assert everything["expiration_time"] is not None
        for scopes in (
            ["write:data"],
            ["read:data", "metrics"],
            ["admin:apikeys"],
            ["inherit", ""],
        ):
            with pytest.raises(ClientError, match="403"):
                context.create_api_key(scopes=scopes, expires_in=60)
        context.close()
        # However the key is shown: what the gate overlooks would make a key for everything.
        asked = {"scopes": None, "expires_in": None}
        for query, headers in (
            ("?api_key=", bearer(secret)),
            ("?api_key=&api_key=", bearer(secret)),
            (f"?api_key=x&api_key={secret}", {}),
            ("", {"Authorization": f"aPiKeY {secret}"}),
            ("", {"Cookie": f"a=b,c; =; x y; tiled_api_key={secret}; tiled_csrf=t", "x-csrf": "t"}),
            ("", {"Cookie": f'tiled_api_key="{secret}"; tiled_csrf=t', "x-csrf": "t"}),
        ):
            answer = httpx.post(f"{url}/api/v1/auth/apikey{query}", headers=headers, json=asked)
            if answer.status_code == 200:
                assert sorted(answer.json()["scopes"]) == sorted(read), (query, headers)
                assert answer.json()["expiration_time"] is not None
    assert all("inherit" not in token.scopes for token in tokens.find())
    lives = [t.expires for t in tokens.find() if t.first_eight != secret[:8]]
    assert all(life <= datetime.now(UTC) + timedelta(minutes=10) for life in lives)


def test_of_a_revoked_token_little_is_left(tmp_path):
    config = config_of(tmp_path)
    gated = Gated(config)
    tokens = Tokens(config.database, ["token"])
    secret, _ = tokens.create(Owner("user", "alice"), terms.SUBSCRIBE, None, "")
    with serving(gated.gate) as url, httpx.Client(base_url=f"{url}/api/v1/auth") as http:
        for life in (None, 86400):
            made = http.post("/apikey", json={"expires_in": life}, headers=bearer(secret)).json()
            # A child's child ends with it.
            made = http.post("/apikey", json={}, headers=bearer(made["secret"])).json()
        for life in (0, -5):
            answer = http.post("/apikey", json={"expires_in": life}, headers=bearer(secret))
            assert answer.status_code == 422
    tokens.revoke(secret[:8])
    left = tokens.find(Owner("user", "alice"))
    assert len(left) == 4
    assert all(token.expires <= datetime.now(UTC) + timedelta(minutes=10) for token in left)


def test_expired_tokens_are_none(tmp_path):
    config = config_of(tmp_path)
    gated = Gated(config)
    tokens = Tokens(config.database, ["token"])
    # The life is rounded down to whole seconds: 0.
    soon = datetime.now(UTC) + timedelta(milliseconds=900)
    secret, _ = tokens.create(Owner("user", "alice"), ["read:metadata"], soon, "")
    with serving(gated.gate) as url:
        until = datetime.now(UTC) + timedelta(seconds=30)
        while datetime.now(UTC) < until:  # second resolution
            answer = httpx.get(f"{url}/api/v1/metadata/live", headers=bearer(secret))
            if answer.status_code == 401:
                break
        assert answer.status_code == 401


def test_one_name_is_one_principal_whatever_it_logs_in_by(tmp_path):
    uri = f"sqlite:///{tmp_path}/t.db"
    principals.prepare(uri, ["token"])
    tokens = Tokens(uri, ["token"])
    tokens.create(Owner("user", "alice"), ["read:data"], None, "old")
    principals.prepare(uri, ["pam", "oidc"], admins=["alice"])
    Tokens(uri, ["pam", "oidc"]).create(Owner("user", "alice"), ["read:data"], None, "new")
    assert [t.note for t in tokens.find(Owner("user", "alice"))] == ["old", "new"]
    assert len(tokens.revoke_all(Owner("user", "alice"))) == 2


def test_admins_are_those_that_the_configuration_names(tmp_path):
    uri = f"sqlite:///{tmp_path}/t.db"

    async def roles(name):
        async with principals.session(uri) as db:
            principal = await principals.find_user(db, name)
            await db.refresh(principal, ["roles"])
            return {role.name for role in principal.roles}

    principals.prepare(uri, ["pam"], admins=["alice", "bob"])
    assert asyncio.run(roles("alice")) == {"user", "admin"}
    principals.prepare(uri, ["pam"], admins=["bob"])
    assert asyncio.run(roles("alice")) == {"user"}
    assert asyncio.run(roles("bob")) == {"user", "admin"}


def test_an_older_database_is_copied_and_brought_up_to_date(tmp_path):
    uri = f"sqlite:///{tmp_path}/t.db"
    principals.prepare(uri, ["pam"])
    tokens = Tokens(uri, ["pam"])
    tokens.create(Owner("user", "alice"), ["read:data"], None, "kept")
    older = core.ALL_REVISIONS[1]
    command.downgrade(principals._alembic(uri), older)
    principals.prepare(uri, ["pam"])
    assert [t.note for t in tokens.find()] == ["kept"]
    copy = tmp_path / f"t.db.{older}"
    assert copy.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(copy)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(older,)]
    connection.close()
    other = f"sqlite:///{tmp_path}/other.db"
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
    connection.execute("INSERT INTO alembic_version VALUES ('123')")
    connection.commit()
    connection.close()
    with pytest.raises(principals.DatabaseError, match="unrecognized revision 123"):
        principals.prepare(other, ["pam"])
    with pytest.raises(principals.DatabaseError, match=r"nobody:\*\*\*@127"):
        principals.prepare("postgresql://nobody:pw@127.0.0.1:1/x", ["pam"])
    assert principals.shown("postgresql://n:pw@host/x") == "postgresql://n:***@host/x"


@given(st.integers(1, 10_000), st.sampled_from("mhdwy"))
def test_lives_are_lengths_of_time(count, unit):
    seconds = {"m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 365 * 86400}[unit] * count
    if seconds > 100 * 365 * 86400:
        with pytest.raises(TokenError, match="hundred years"):
            parse_expiry(f"{count}{unit}", NOW)
    else:
        until = parse_expiry(f"{count}{unit}", NOW)
        assert abs((until - NOW).total_seconds() - seconds) < 1


def test_dates_count_to_their_end():
    assert parse_expiry("2027-01-31", NOW) == datetime(2027, 1, 31, 23, 59, 59, tzinfo=UTC)
    assert parse_expiry("2026-11-26", NOW) > NOW
    assert parse_expiry("2027-01-31T12:00+01:00", NOW) == datetime(2027, 1, 31, 11, tzinfo=UTC)
    assert parse_expiry("never", NOW) is None


@given(st.text(max_size=40))
def test_only_system_user_names_are_users(name):
    if terms.is_user_name(name):
        assert re.fullmatch("[a-z_][a-z0-9_.-]*", name, re.ASCII)
        assert name != "root"
        assert len(name) <= 32
