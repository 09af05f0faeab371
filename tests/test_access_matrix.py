"""Who sees what: users × folders × tokens × every route, equal to what the kernel says.

Real system users ask a real server over sockets. The oracle is a shell of each user
that changes into the folder and lists it.
"""

import contextlib
import json
import re
import sqlite3
import subprocess
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from tiled.client import from_uri
from tiled.server.authentication import create_access_token
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from p06bs.bus.log import DocumentLog
from p06bs.config.server import Authentication
from p06bs.server.access.policy import FolderAccess
from p06bs.server.access.rights import rights_of
from p06bs.server.access.viewers import Viewers
from p06bs.server.app import build_app
from p06bs.server.archive.archived import Archive
from p06bs.server.files.roots import FileRoots
from p06bs.server.gate.gate import Guard
from p06bs.server.login.authentication import providers_of, several_users
from p06bs.server.login.terms import PURPOSES, ROLES, Owner
from p06bs.server.login.tokens import Tokens
from p06bs.server.sink.sink import DocumentError, Sink
from tests.archives import Place
from tests.live_server import serving
from tests.system_users import NAMES, command, kernel_says, needs_root, open_directory, system_users
from tests.test_server import add_page, begin, end

pytestmark = [
    needs_root,
    # Tiled's Alembic configuration is of an older style.
    pytest.mark.filterwarnings("ignore:No path_separator found:DeprecationWarning"),
]

SECONDS = 10.0
ABSENT = "run-absent"


def make_folders(top, users):
    """Return folders by what their rights are, all below `top`/root but for those that are not."""
    root, outside = top / "root", top / "outside"
    folders = {
        name: root / name
        for name in ("owner", "group", "other", "listed", "entered", "removed", "left")
    }
    acls = {
        "acl_user": f"u:{users['cleo']}:rx",
        "acl_group": f"g:{users.other_group}:rx",
        "mask": f"u:{users['dan']}:rwx,g:{users.group}:rx,m::r",
        "acl_denies": f"u:{users['eve']}:-",
    }
    folders |= {name: root / name for name in acls}
    for path in (*folders.values(), outside / "data", root / "shut/below", root / "half/below"):
        path.mkdir(parents=True)
    outside.chmod(0o755)
    modes = {
        "owner": 0o700, "group": 0o750, "other": 0o755, "listed": 0o744, "entered": 0o711,
        "removed": 0o755, "left": 0o750, "acl_denies": 0o755,
    }  # fmt: skip
    for name, path in folders.items():
        path.chmod(modes.get(name, 0o700))
    for name, acl in acls.items():
        command("setfacl", "-m", acl, folders[name])
    command("chown", users["ada"], folders["owner"])
    for name in ("group", "left"):
        command("chgrp", users.group, folders[name])
    (root / "shut").chmod(0o744)
    (root / "half").chmod(0o750)
    command("chgrp", users.group, root / "half")
    links = {
        "link_in": "group", "link_out": outside / "data", "link_up": "../outside/data",
        "link_twice": "link_in", "link_shut": "shut/below",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    folders |= {name: root / name for name in links}
    folders |= {
        "no_x_above": root / "shut/below", "above_group": root / "half/below",
        "outside": outside / "data", "missing": root / "missing",
    }  # fmt: skip
    return {
        **{name: str(path) for name, path in folders.items()},
        "dots": f"{root}/shut/../other", "relative": "root/other", "none": None,
    }  # fmt: skip


OUT = {"link_out", "link_up", "outside", "dots", "relative", "none"}
"""Folders that are denied whatever the kernel says: out of the roots, or no paths."""


class Beamline:
    """A server with a run in each folder, its users' tokens, and a clock for the cache."""

    def __init__(self, top, users, directory):
        self.users, self.top = users, top
        self.folders = make_folders(top, users)
        self.now = 0.0
        self.sink = Sink(500_000_000)
        place = Place(directory, f"sqlite:///{directory}/catalog.db", FileRoots())
        self.log = DocumentLog(place.logs)
        for number, name in enumerate(self.folders):
            self.record(name, number)
        assert {log.state for log in place.ingest().values()} == {"complete"}
        config = Authentication(
            database=f"sqlite:///{directory}/tokens.db", secret_key_file=directory / "secret"
        )
        self.database = directory / "tokens.db"
        (self.provider,) = providers_of(config)
        door = several_users(config)
        self.tokens = Tokens(config.database, [self.provider])
        self.secrets = {name: self.token(Owner("user", users[name])) for name in NAMES}
        self.secrets["service"] = self.token(Owner("service", "archive"))
        (self.signing_key,) = door.authentication.secret_keys
        viewers = Viewers(rights_of("kernel", [top / "root"]), SECONDS, clock=lambda: self.now)
        self.app = build_app(
            self.sink,
            door,
            policy=FolderAccess(viewers, [self.provider]),
            archive=Archive(place.database, place.storage, place.roots),
            log=self.log,
            guard=Guard(failed_logins=1_000_000),
        )

    def record(self, name, number=0, folder=None):
        folder = folder or self.folders[name]
        where = {} if folder is None else {"beamtime_folder": folder}
        more = {"title": "steel", "sample": {"name": f"run-{name}"}, **where}
        begin(self.take, f"run-{name}", float(number), **more)
        add_page(self.take, f"run-{name}", 1, 3)
        end(self.take, f"run-{name}")

    def take(self, name, document):
        self.log.append(name, document)
        self.sink(name, document)

    def token(self, owner, purpose="subscribing"):
        secret, _ = self.tokens.create(owner, PURPOSES[purpose], later(), "test")
        return secret

    def session(self, name):
        """Return the token that a login would have given, which needs no database to check."""
        service = name == "service"
        who = {
            "sub": uuid4().hex,
            "sub_typ": "service" if service else "user",
            "scp": list(ROLES["service" if service else "user"]),
            "ids": [] if service else [{"id": self.users[name], "idp": self.provider}],
        }
        return create_access_token(who, self.signing_key, timedelta(days=1))

    def kernel(self):
        """Return which runs each user may see, as the kernel answers now."""
        return {
            user: {
                name
                for name, folder in self.folders.items()
                if name not in OUT and kernel_says(self.users[user], folder)
            }
            for user in NAMES
        }


def later():
    return datetime.now(UTC) + timedelta(days=1)


@pytest.fixture(scope="module")
def beamline(tmp_path_factory):
    with contextlib.ExitStack() as stack:
        users = stack.enter_context(system_users())
        top = stack.enter_context(open_directory())
        beamline = Beamline(top, users, tmp_path_factory.mktemp("server"))
        stack.callback(beamline.log.close)
        beamline.url = stack.enter_context(serving(beamline.app))
        yield beamline


@pytest.fixture(params=["live", "archive"])
def tree(request):
    """The trees that list runs."""
    return request.param


@pytest.fixture(scope="module")
def kernel(beamline):
    return beamline.kernel()


def client_of(beamline, who):
    """Return the client of somebody who has logged in."""
    return client_with(beamline, f"Bearer {beamline.session(who)}")


def client_with(beamline, credentials):
    headers = {} if credentials is None else {"Authorization": credentials}
    return httpx.Client(base_url=beamline.url, headers=headers, timeout=30)


NODES = ("", "/primary", "/primary/internal", "/primary/Fe_K", "/primary/mca")
FAMILIES = (
    "metadata", "search", "search-deep", "array/full", "array/block", "table/full",
    "table/partition", "container/full", "node/full",
)  # fmt: skip
QUERY = {"block": "0", "partition": "0", "id": "1", "format": "json"}
READS_BY_POST = re.compile("/(table/(full|partition)|container/full|awkward/buffers)/")


def routes(beamline, tree, writing=False):
    """Yield (method, URL with RUN for the run) for every route and kind of node."""
    description = httpx.get(f"{beamline.url}/openapi.json").json()
    for template, methods in description["paths"].items():
        if not re.search(r"\{(path|uid)\}", template) or template.startswith("/ui"):
            continue
        for method in methods:
            reads = method == "get" or (method == "post" and READS_BY_POST.search(template))
            if bool(reads) == writing:
                continue
            for node in NODES if "{path}" in template else ("",):
                path = template.replace("{path}", f"/{tree}/RUN{node}", 1).replace("{uid}", "RUN")
                yield method, path.replace("//", "/").replace("{block}", "0")


def ask(client, method, url, run):
    """Return status, type and body, the run's name taken out."""
    query = dict(QUERY)
    if re.search("/array/(full|block)/.*mca", url):
        query |= {"block": "0,0,0"}
    body = {"json": ["Fe_K"]} if method == "post" else {}
    answer = client.request(method.upper(), url.replace("RUN", run), params=query, **body)
    assert answer.status_code < 500, (method, url, answer.text)
    return answer.status_code, answer.headers.get("content-type"), answer.text.replace(run, "RUN")


def test_the_oracle_knows_the_cases(kernel):
    everybody = {"other", "removed"}
    assert kernel == {
        "ada": everybody | {"owner", "group", "left", "link_in", "link_twice", "above_group"}
        | {"acl_denies"},
        "bob": everybody | {"group", "left", "link_in", "link_twice", "above_group", "acl_denies"},
        "cleo": everybody | {"acl_user", "acl_denies"},
        "dan": everybody | {"acl_denies"},
        "eve": everybody,
        "fay": everybody | {"acl_group", "acl_denies"},
    }  # fmt: skip


@pytest.mark.parametrize(
    "nodes",
    [
        # Each user and each folder meets each route, but not all three each other.
        pytest.param("one", id="a node for each route"),
        pytest.param("all", id="all nodes", marks=[pytest.mark.slow, pytest.mark.timeout(1200)]),
    ],
)
def test_every_route_answers_as_the_kernel(beamline, kernel, tree, nodes):
    asked = list(routes(beamline, tree))
    with client_of(beamline, "service") as service:
        # What a service gets of a run is what there is; the rest are wrong kinds of node.
        truth = {one: ask(service, *one, "run-other") for one in asked}
    good = [one for one, answer in truth.items() if answer[0] < 400]
    for family in FAMILIES:
        assert any(f"/{family}/" in url for _, url in good), family
    if nodes == "one":
        templates = {(method, url.partition("RUN")[0]): (method, url) for method, url in good}
        good = asked = list(templates.values())
    step = 3 if nodes == "one" else 1
    answered = expected = 0
    for first, user in enumerate(NAMES):
        with client_of(beamline, user) as client:
            absent = {one: ask(client, *one, ABSENT) for one in asked}
            for number, name in enumerate(beamline.folders, first):
                shown = name in kernel[user]
                some = good[number % step :: step]
                expected += shown * len(some)
                # What answers for no kind of run is asked for a visible and a hidden one.
                for one in asked if nodes == "all" and name in ("other", "no_x_above") else some:
                    status, kind, body = ask(client, *one, f"run-{name}")
                    if not shown:
                        assert (status, kind, body) == absent[one], (user, name, one)
                        continue
                    assert (status, kind) == truth[one][:2], (user, name, one)
                    answered += status < 400
    assert answered == expected > 0


def listings(tree):
    """Return URLs of routes that list runs, or say something of all of them."""
    search = f"/api/v1/search/{tree}?page[limit]=300"
    regex = "[condition][key]=start.sample.name&filter[regex][condition][pattern]=run-.*"
    common = [
        search,
        f"{search}&sort=-start.time",
        f"{search}&fields=",
        f"{search}&select_metadata=start.sample.name&omit_links=true",
        f"{search}&filter[fulltext][condition][text]=steel",
        f"/api/v1/distinct/{tree}?metadata=start.sample.name&counts=true",
    ]
    if tree == "archive":
        return common  # which is exported and deep-searched run by run
    return [
        *common,
        f"{search}&filter[regex]{regex}",
        "/api/v1/search-deep/live?page[limit]=300",
        "/api/v1/search-deep/?page[limit]=300",
        "/api/v1/container/full/live?format=json",
        "/api/v1/node/full/live?format=json",
        "/api/p06bs/v1/sink",
    ]


def names_in(answer):
    assert answer.status_code == 200, (answer.url, answer.text)
    return set(re.findall(r"run-([a-z_]+)", answer.text))


@pytest.mark.slow
def test_every_listing_has_what_the_kernel_shows(beamline, kernel, tree):
    search = f"/api/v1/search/{tree}"
    for user in (*NAMES, "service"):
        want = kernel.get(user, set(beamline.folders))
        with client_of(beamline, user) as client:
            for url in listings(tree):
                assert names_in(client.get(url)) == want, (user, url)
            for url in listings(tree)[:3]:
                assert client.get(url).json()["meta"]["count"] == len(want)
            # Counts, of the list itself and of it in the listing above.
            trees = {node["id"]: node for node in client.get("/api/v1/search/").json()["data"]}
            itself = client.get(f"/api/v1/metadata/{tree}").json()["data"]
            for node in (trees[tree], itself):
                assert node["attributes"]["structure"]["count"] == len(want)
            counted = client.get(f"{search}?fields=count").json()
            assert counted["meta"]["count"] == len(want)
            pages = [
                names_in(client.get(f"{search}?page[offset]={i}&page[limit]=1"))
                for i in range(len(want) + 1)
            ]
            assert sorted(map(len, pages)) == [0] + [1] * len(want)
            for name in beamline.folders:
                shown = {name} & want
                key = f"filter[lookup][condition][key]=run-{name}"
                equal = (
                    "filter[eq][condition][key]=start.sample.name&filter[eq][condition][value]="
                    + quote(json.dumps(f"run-{name}"))
                )
                for query in (key, equal):
                    answer = client.get(f"{search}?{query}").json()
                    assert [run["id"] for run in answer["data"]] == [f"run-{n}" for n in shown]
                    assert answer["meta"]["count"] == len(shown)
                exported = client.get(f"/api/v1/container/full/{tree}?format=json&field=run-{name}")
                good = shown and tree == "live"
                assert exported.status_code == (200 if good else 400)
            # Everything at once is exported to services only.
            root = client.get("/api/v1/container/full/?format=json")
            assert user == "service" or root.status_code == 403
            assert user == "service" or not re.search("run-", root.text)


HIDDEN = {"owner", "group", "acl_user", "mask", "link_out", "missing", "none"}


@pytest.mark.slow
def test_sums_over_what_is_held_tell_nothing_of_other_runs(beamline):
    with pytest.raises(DocumentError):
        beamline.sink("event", {"descriptor": "none"})
    for user in (*NAMES, "service"):
        with client_of(beamline, user) as client:
            found = client.get("/api/p06bs/v1/sink").json()
            if user == "service":
                assert (found["bytes"], list(found["refused"])) == (
                    beamline.sink.nbytes, ["event: KeyError"],
                )  # fmt: skip
            else:
                assert found["bytes"] == sum(run["bytes"] for run in found["runs"])
                assert found["refused"] == {}


@pytest.mark.slow
def test_stock_clients_find_what_the_kernel_shows(beamline, kernel, tree):
    for user in NAMES:
        client = from_uri(beamline.url, api_key=beamline.secrets[user])
        try:
            live = client[tree]
            assert set(live) == {f"run-{name}" for name in kernel[user]}
            assert len(live) == len(kernel[user])
            for name in beamline.folders:
                if name in kernel[user]:
                    assert live[f"run-{name}"]["primary"]["Fe_K"].read().tolist() == [
                        0.25,
                        0.5,
                        0.75,
                    ]
                else:
                    with pytest.raises(KeyError):
                        live[f"run-{name}"]
        finally:
            client.context.close()


def test_users_write_nothing_and_learn_nothing_by_trying(beamline, tree):
    changes = [*routes(beamline, tree, writing=True)]
    assert {method for method, _ in changes} == {"post", "put", "patch", "delete"}
    for user in ("ada", "eve"):
        with client_of(beamline, user) as client:
            for one in changes:
                answers = {ask(client, *one, f"run-{n}") for n in ("other", "owner", "absent")}
                assert len(answers) == 1, (user, one)
                assert answers.pop()[0] in (401, 403, 404, 405)


def test_without_a_good_token_there_is_nothing(beamline, tree):
    owner = Owner("user", beamline.users["ada"])
    expired, revoked = beamline.token(owner), beamline.token(owner)
    for token in (expired, revoked):
        with client_with(beamline, f"Apikey {token}") as client:
            assert client.get(f"/api/v1/metadata/{tree}/run-owner").status_code == 200
    change_token(beamline, expired, "expiration_time", "2026-01-01 00:00:00")
    beamline.tokens.revoke(revoked[:8])
    asked = [one for one in routes(beamline, tree) if one[1].endswith(("RUN", "/primary/Fe_K"))]
    for who in (None, expired, revoked, "0" * 72, "nonsense"):
        with client_with(beamline, who and f"Apikey {who}") as client:
            for one in asked:
                answers = {ask(client, *one, f"run-{name}") for name in ("other", "absent")}
                assert len(answers) == 1, (who, one)
                assert answers.pop()[0] in (401, 403, 404, 405), (who, one)
            for url in listings(tree):
                answer = client.get(url)
                assert answer.status_code == 401, (who, url)
                assert not re.search("run-[a-z]", answer.text)
        assert refused(beamline, who, f"{tree}/run-other/primary/Fe_K")
        assert refused(beamline, who, tree)


def change_token(beamline, token, field, value):
    with contextlib.closing(sqlite3.connect(beamline.database)) as database, database:
        changed = database.execute(
            f"UPDATE api_keys SET {field} = ? WHERE first_eight = ?", [value, token[:8]]
        )
        assert changed.rowcount == 1


def test_a_token_for_some_folders(beamline, tree):
    token = beamline.token(Owner("user", beamline.users["ada"]), "reading")
    # Two that ada may see, one that she may not.
    tags = [beamline.folders[name] for name in ("owner", "group", "acl_user")]
    change_token(beamline, token, "access_tags", json.dumps(tags))
    with client_with(beamline, f"Apikey {token}") as client:
        for url in listings(tree):
            assert names_in(client.get(url)) == {"owner", "group"}, url
        for name in beamline.folders:
            status = client.get(f"/api/v1/metadata/{tree}/run-{name}").status_code
            assert status == (200 if name in ("owner", "group") else 404)


# WebSockets


def socket(beamline, who, path, **query):
    headers = {} if who is None else {"Authorization": f"Apikey {beamline.secrets.get(who, who)}"}
    url = f"{beamline.url.replace('http', 'ws')}/api/v1/stream/single/{path}"
    text = "&".join(f"{key}={value}" for key, value in query.items())
    return connect(f"{url}?{text}", additional_headers=headers, open_timeout=30)


def refused(beamline, who, path):
    """Return how a subscription was refused, None if it was not."""
    try:
        with socket(beamline, who, path) as opened:
            # Without a token in the header one is waited for in the first message.
            if who is not None:
                return None
            opened.send("{}")
            try:
                return opened.recv(timeout=30) and None
            except ConnectionClosed as closed:
                return closed.rcvd.code
    except InvalidStatus as error:
        response = error.response
        return response.status_code, bytes(response.body)


def test_subscriptions_are_as_the_kernel_says(beamline, kernel):
    for user in NAMES:
        for node in ("", "/primary/Fe_K"):
            absent = refused(beamline, user, f"live/{ABSENT}{node}")
            assert absent is not None
            for name in beamline.folders:
                got = refused(beamline, user, f"live/run-{name}{node}")
                if name in kernel[user]:
                    assert got is None, (user, name, node)
                else:
                    assert got == tuple(
                        part.replace(ABSENT.encode(), f"run-{name}".encode())
                        if isinstance(part, bytes) else part
                        for part in absent
                    ), (user, name, node)  # fmt: skip


def test_the_archive_has_no_subscriptions(beamline):
    answers = {
        refused(beamline, "ada", f"archive/run-{name}/primary/Fe_K")
        for name in ("other", "shut", "absent")
    }
    assert len(answers) == 1
    assert answers != {None}


def test_a_subscription_to_the_list_announces_what_the_kernel_shows(beamline, kernel):
    with contextlib.ExitStack() as stack:
        sockets = {
            user: stack.enter_context(socket(beamline, user, "live", start=1)) for user in NAMES
        }
        seen = dict.fromkeys(NAMES, b"")
        # The run that everybody sees comes last, so what was to come before has come.
        beamline.record("news_owner", 101, beamline.folders["owner"])
        beamline.record("news_group", 102, beamline.folders["group"])
        beamline.record("news_other", 103, beamline.folders["other"])
        for user, opened in sockets.items():
            while b"run-news_other" not in seen[user]:
                message = opened.recv(timeout=30)
                seen[user] += message.encode() if isinstance(message, str) else message
            want = kernel[user] | {"news_other"}
            want |= {"news_owner"} if "owner" in want else set()
            want |= {"news_group"} if "group" in want else set()
            assert set(re.findall(r"run-([a-z_]+)", seen[user].decode())) == want, user
    with client_of(beamline, "ada") as client:
        assert {"news_owner", "news_group", "news_other"} <= names_in(
            client.get(listings("live")[0])
        )


# These change rights, so they are the last.


def test_removed_rights_count_until_answers_expire_and_no_longer(beamline, kernel):
    removed, left = beamline.folders["removed"], beamline.folders["left"]
    with (
        client_of(beamline, "bob") as client,
        socket(beamline, "bob", "live/run-removed/primary/Fe_K", start=1) as opened,
    ):
        url = "/api/v1/metadata/live/run-{}"
        stored = "/api/v1/metadata/archive/run-{}"
        opened.recv(timeout=30)
        command("chmod", "0700", removed)
        command("gpasswd", "-d", beamline.users["bob"], beamline.users.group)
        assert client.get(url.format("removed")).status_code == 200
        beamline.now += SECONDS
        for name in ("removed", "left", "group", "link_in", "above_group"):
            assert client.get(url.format(name)).status_code == 404, name
            assert client.get(stored.format(name)).status_code == 404, name
        assert client.get(url.format("other")).status_code == 200
        # An open subscription ends, too, and the client finds nothing when it comes back.
        with contextlib.suppress(ConnectionClosed):
            while True:
                opened.recv(timeout=30)
        assert refused(beamline, "bob", "live/run-removed/primary/Fe_K")
    now = beamline.kernel()
    assert now["bob"] == kernel["bob"] - {"removed", "left", "group", "link_in", "link_twice",
                                          "above_group"}  # fmt: skip
    beamline.now += SECONDS
    for user in NAMES:
        with client_of(beamline, user) as client:
            for url in (*listings("live"), *listings("archive")):
                assert {n for n in names_in(client.get(url)) if "news" not in n} == now[user]
    # And rights that are granted show what was hidden.
    command("chmod", "0755", removed)
    command("chgrp", beamline.users.other_group, left)
    beamline.now += SECONDS
    with client_of(beamline, "fay") as client:
        assert {"removed", "left"} <= names_in(client.get(listings("live")[0]))


def test_a_user_who_is_removed_from_the_system_sees_nothing(beamline):
    with client_of(beamline, "dan") as client:
        assert names_in(client.get(listings("live")[0]))
        subprocess.run(["userdel", beamline.users["dan"]], check=True, capture_output=True)
        beamline.now += SECONDS
        for url in (*listings("live"), *listings("archive")):
            assert names_in(client.get(url)) == set()
