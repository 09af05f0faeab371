"""How long answers count, who asks, and who looks."""

import threading
from types import SimpleNamespace
from uuid import UUID

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tiled.access_control.access_policies import ALL_ACCESS, NO_ACCESS
from tiled.access_control.scopes import ALL_SCOPES, PUBLIC_SCOPES, SINGLE_USER_SCOPES
from tiled.adapters.mapping import MapAdapter

from p06bs.server.access.answers import Answers
from p06bs.server.access.policy import Everybody, FolderAccess, Restricted, Root, Visible
from p06bs.server.access.viewers import Viewers

SECONDS, LIMIT = 10.0, 12
FOLDERS = [f"/f{number}" for number in range(6)]
USERS = ["ada", "bob", "cleo"]


class Asking(RuleBasedStateMachine):
    """Several askers at once, over a file system whose rights change: the truth is known."""

    def __init__(self):
        super().__init__()
        self.answers = Answers(SECONDS, LIMIT, many=3)
        self.now = 0.0
        # When rights were granted (odd) and revoked (even places) last, by user and folder.
        self.history = {(user, folder): [(0.0, False)] for user in USERS for folder in FOLDERS}
        self.running = []  # (user, folders, began, truth when asked)

    @rule(user=st.sampled_from(USERS), folder=st.sampled_from(FOLDERS), may=st.booleans())
    def change_right(self, user, folder, may):
        self.now += 0.001
        self.history[user, folder].append((self.now, may))

    @rule(step=st.floats(0.01, 15))
    def wait(self, step):
        self.now += step

    @rule(
        user=st.sampled_from(USERS),
        folders=st.frozensets(st.sampled_from(FOLDERS)),
    )
    def look(self, user, folders):
        oldest = self.answers.oldest(user, folders)
        seen, unknown = self.answers.known(user, folders, self.now)
        claim = self.answers.claim(user, folders, self.now)
        known = folders - claim.ask - claim.awaited
        assert claim.visible <= known
        assert (seen, unknown) == (claim.visible, folders - known)
        assert (oldest > self.now - SECONDS) == (known == folders)
        # Nobody asks for what is being asked, and what is awaited will be answered.
        asked = self.asked(user)
        assert not claim.ask & asked
        assert claim.awaited <= asked
        for folder in known:
            assert (folder in claim.visible) in self.truths(user, folder)
        self.ask(user, claim.ask)
        assert not self.answers.claim(user, folders, self.now).ask

    @rule(user=st.sampled_from(USERS), folders=st.frozensets(st.sampled_from(FOLDERS)))
    def renew(self, user, folders):
        asked = self.asked(user)
        aging = self.answers.renew(user, folders, self.now)
        assert aging <= folders - asked
        if self.answers.oldest(user, folders) > self.now - SECONDS / 2:
            assert not aging
        self.ask(user, aging)
        assert not self.answers.renew(user, folders, self.now)

    def asked(self, user):
        return {f for who, what, *_ in self.running if who == user for f in what}

    def ask(self, user, folders):
        if folders:
            truth = {f for f in folders if self.history[user, f][-1][1]}
            self.running.append((user, folders, self.now, truth))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fails=st.booleans())
    def settle(self, data, fails):
        number = data.draw(st.integers(0, len(self.running) - 1))
        user, folders, began, truth = self.running.pop(number)
        self.answers.settle(user, folders, None if fails else truth, began)

    def truths(self, user, folder):
        """Return what has been true while an answer counts."""
        since = self.now - SECONDS
        history = self.history[user, folder]
        later = {may for time, may in history if time >= since}
        before = [may for time, may in history if time < since]
        return later | set(before[-1:])

    @invariant()
    def is_bounded(self):
        assert len(self.answers) <= LIMIT
        assert len(self.answers) == sum(len(u.answers) for u in self.answers._users.values())


TestAsking = Asking.TestCase


def test_an_answer_counts_from_when_it_was_asked():
    answers, data = Answers(10.0, 100), frozenset({"/data"})
    assert answers.claim("ada", data, 0.0).ask == data
    answers.settle("ada", data, data, 0.0)  # however long that took
    assert answers.renew("ada", data, 4.9) == frozenset()
    assert answers.renew("ada", data, 5.0) == data
    assert answers.claim("ada", data, 9.9).visible == data
    answers.settle("ada", data, (), 9.9)
    assert answers.claim("ada", data, 19.8).visible == frozenset()
    assert answers.claim("ada", data, 20.0).ask == data


class Record:
    """Rights that a test sets; says what it was asked."""

    def __init__(self, **visible):
        self.may = {user: set(folders) for user, folders in visible.items()}
        self.asked = []
        self.gate = threading.Semaphore(1000)
        self.entered = threading.Event()
        self.failing = False

    def visible(self, user, folders):
        self.asked.append((user, frozenset(folders)))
        self.entered.set()
        self.gate.acquire()
        if self.failing:
            raise RuntimeError("no answer")
        return frozenset(folders) & frozenset(self.may.get(user, ()))

    def describe(self):
        return "rights that a test sets"


def test_rights_are_asked_once_in_a_while_and_revoked_within():
    now = [0.0]
    rights = Record(ada=["/a", "/b"])
    viewers = Viewers(rights, 10.0, clock=lambda: now[0])
    assert "an answer counts for 10 s" in viewers.describe()
    assert viewers.viewer_for("ada").visible(["/a"]) == frozenset()  # nobody has asked
    assert viewers.visible("ada", ["/a", "/b", "/c"]) == {"/a", "/b"}
    ada = viewers.viewer_for("ada")
    assert (ada.may_see("/a"), ada.may_see("/c"), ada.may_see(None)) == (True, False, False)
    assert len(rights.asked) == 1
    assert viewers.visible("ada", ["/c", "/d"]) == frozenset()
    assert rights.asked[1:] == [("ada", {"/d"})]
    rights.may["ada"].remove("/a")
    now[0] = 9.9
    assert viewers.visible("ada", ["/a"]) == {"/a"}
    now[0] = 10.0
    assert viewers.visible("ada", ["/a"]) == frozenset()


def test_answers_are_renewed_in_the_background_before_they_expire():
    now = [0.0]
    rights = Record(ada=["/a"])
    viewers = Viewers(rights, 10.0, clock=lambda: now[0])
    folders = frozenset({"/a"})
    assert viewers.visible("ada", folders) == folders
    rights.entered.clear()
    rights.gate = threading.Semaphore(0)
    now[0] = 9.0
    assert viewers.visible("ada", folders) == folders  # at once, the old answer counts
    assert rights.entered.wait(30)
    rights.may["ada"].clear()
    rights.gate.release()
    now[0] = 10.0  # now who looks waits for what is being asked
    assert viewers.visible("ada", folders) == frozenset()
    assert len(rights.asked) == 2
    now[0] = 13.9
    viewers.visible("ada", folders)
    assert len(rights.asked) == 2


@pytest.mark.logs_errors
def test_a_renewal_that_fails_is_logged_and_asked_again(caplog):
    now = [0.0]
    rights = Record(ada=["/a"])
    viewers = Viewers(rights, 10.0, clock=lambda: now[0])
    viewers.visible("ada", ["/a"])
    rights.entered.clear()
    rights.failing, now[0] = True, 5.0
    assert viewers.visible("ada", ["/a"]) == {"/a"}
    viewers._background.shutdown()
    assert "rights of ada on 1 folders could not be asked" in caplog.text
    now[0] = 10.0
    with pytest.raises(RuntimeError, match="no answer"):
        viewers.visible("ada", ["/a"])


def test_the_same_answer_is_the_same_set():
    """1e4 folders are looked through once, not for each request."""
    folders = frozenset(f"/{number}" for number in range(10_000))
    viewers = Viewers(Record(ada=["/1", "/2"]), 10.0)
    viewers.visible("ada", folders)
    assert viewers.visible("ada", folders) is viewers.visible("ada", folders)


def in_threads(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def test_many_who_want_to_know_the_same_ask_once():
    rights = Record(ada=["/a", "/b"])
    rights.gate = threading.Semaphore(0)
    viewers = Viewers(rights, 10.0)
    seen = []
    first = in_threads(lambda: seen.append(viewers.visible("ada", ["/a"])))
    assert rights.entered.wait(30)
    rights.entered.clear()
    # These find "/a" being asked for, and ask for "/b" once among them.
    more = in_threads(*[lambda: seen.append(viewers.visible("ada", ["/a", "/b"]))] * 8)
    assert rights.entered.wait(30)
    rights.gate.release(2)
    for thread in (*first, *more):
        thread.join()
    assert sorted(map(len, seen)) == [1] + [2] * 8
    assert rights.asked == [("ada", {"/a"}), ("ada", {"/b"})]


def test_who_waits_for_an_answer_that_fails_asks_again():
    rights = Record(ada=["/a"])
    rights.gate, rights.failing = threading.Semaphore(0), True
    viewers = Viewers(rights, 10.0)
    failed, seen = [], []

    def first():
        with pytest.raises(RuntimeError, match="no answer") as error:
            viewers.visible("ada", ["/a"])
        failed.append(error)
        rights.failing = False

    def second():
        rights.gate.release()  # lets the first go on
        try:
            seen.append(viewers.visible("ada", ["/a"]))
        except RuntimeError:  # asked before `failing` ended
            seen.append(viewers.visible("ada", ["/a"]))

    one = in_threads(first)
    assert rights.entered.wait(30)
    two = in_threads(second)
    rights.gate.release(5)
    for thread in (*one, *two):
        thread.join()
    assert (len(failed), seen) == (1, [{"/a"}])


def test_who_waits_for_an_answer_that_does_not_come_is_denied(caplog):
    rights = Record(ada=["/a", "/b"])
    rights.gate = threading.Semaphore(1)
    viewers = Viewers(rights, 10.0, patience=0.05)
    assert viewers.visible("ada", ["/b"]) == {"/b"}
    rights.entered.clear()
    seen = []
    first = in_threads(lambda: seen.append(viewers.visible("ada", ["/a"])))
    assert rights.entered.wait(30)
    assert viewers.visible("ada", ["/a", "/b"]) == {"/b"}
    assert "rights of ada: no answer in 0.05 s" in caplog.text
    rights.gate.release()
    first[0].join()
    assert seen == [{"/a"}]
    assert viewers.visible("ada", ["/a", "/b"]) == {"/a", "/b"}


# The policy


def person(*identities, kind="user"):
    return SimpleNamespace(
        uuid=UUID(int=1), type=kind,
        identities=[SimpleNamespace(provider=p, id=name) for p, name in identities],
    )  # fmt: skip


ADA = person(("pam", "ada"), ("github", "adas-other-name"))
SERVICE = person(kind="service")
READ = frozenset(PUBLIC_SCOPES)


@pytest.fixture
def policy():
    return FolderAccess(Viewers(Record(ada=["/a", "/a/b"]), 10.0), ("pam", "oidc"))


def run_in(folder):
    run = MapAdapter({})
    run.folder = folder
    return run


def scopes(policy, node, principal, tags=None, authn=ALL_SCOPES):
    return set(anyio.run(policy.allowed_scopes, node, principal, tags, authn))


def test_scopes_on_a_run(policy):
    shown, hidden, nowhere = run_in("/a"), run_in("/x"), run_in(None)
    # Users read, whatever their key says; services have the scopes of their key.
    assert scopes(policy, shown, ADA) == READ
    assert scopes(policy, shown, ADA, authn={"read:metadata"}) == {"read:metadata"}
    assert scopes(policy, hidden, ADA) == scopes(policy, nowhere, ADA) == set()
    for run in (shown, hidden, nowhere):
        assert scopes(policy, run, SERVICE) == ALL_SCOPES
        assert scopes(policy, run, SERVICE, authn={"write:data"}) == {"write:data"}
        assert scopes(policy, run, None, authn=SINGLE_USER_SCOPES) == SINGLE_USER_SCOPES
        assert scopes(policy, run, None, authn=PUBLIC_SCOPES) == set()
        assert scopes(policy, run, None, authn=frozenset()) == set()
    assert scopes(policy, MapAdapter({}), ADA) == READ
    assert scopes(policy, Root({}), ADA) == {"read:metadata"}
    assert scopes(policy, Root({}), SERVICE) == ALL_SCOPES


@pytest.mark.parametrize(
    "principal",
    [
        person(), person(("github", "ada")), person(("pam", "ada"), ("oidc", "bob")),
        person(("pam", "root2"),),
    ],
)  # fmt: skip
def test_who_is_no_user_of_the_system_sees_nothing(policy, principal):
    assert scopes(policy, run_in("/a"), principal) == set()


def test_keys_for_some_folders(policy):
    def may(folder, *tags, principal=ADA):
        return "read:data" in scopes(policy, run_in(folder), principal, frozenset(tags))

    assert may("/a", "/a")
    assert may("/a/b", "/a")
    assert may("/a/b", "/a/b", "/c")
    assert not may("/a", "/a/b")
    assert not may("/a")
    assert not may("/x", "/x")  # a key gives no more rights than its owner has
    assert may("/x", "/x", principal=SERVICE)
    assert not may("/a/../x", "/a", principal=SERVICE)
    assert not may("/ab", "/a", principal=SERVICE)
    assert not may(None, "/a", principal=SERVICE)


@given(st.lists(st.sampled_from(FOLDERS)), st.frozensets(st.sampled_from(FOLDERS)))
def test_a_restricted_viewer_sees_one_folder_as_it_sees_many(folders, tops):
    viewer = Restricted(Everybody(), tops)
    assert viewer.visible(folders) == {folder for folder in folders if viewer.may_see(folder)}
    assert viewer.visible(folders) == set(folders) & tops


class Runs(MapAdapter):
    """The least that a tree of runs is."""

    viewer = None

    def folders(self):
        return frozenset(run.folder for run in self._mapping.values() if run.folder)

    def search(self, query):
        if not isinstance(query, Visible):
            return super().search(query)
        shown = {k: run for k, run in self.items() if query.viewer.may_see(run.folder)}
        runs = self.new_variation(mapping=shown)
        runs.viewer = query.viewer
        return runs


def test_everything_below_the_root_is_filtered(policy):
    root = Root({"live": Runs({"1": run_in("/a"), "2": run_in("/x"), "3": run_in(None)})})
    assert root.folders() == {"/a", "/x"}

    def seen(principal, authn=ALL_SCOPES):
        queries = anyio.run(policy.filters, root, principal, None, authn, {"read:metadata"})
        if queries is NO_ACCESS:
            return None
        node = root
        for query in queries:
            node = node.search(query)
        # The trees below need not be filtered again.
        again = anyio.run(policy.filters, node["live"], principal, None, authn, {"read:data"})
        assert again is ALL_ACCESS
        deep = {path for path in node.search_deep() if "/" in path}
        assert deep == {f"live/{key}" for key in node["live"]}
        (tree,) = node.values()
        assert list(tree) == list(node["live"])
        return list(node["live"])

    assert seen(ADA) == ["1"]
    assert seen(SERVICE) == ["1", "2", "3"]
    assert seen(None, SINGLE_USER_SCOPES) == ["1", "2", "3"]
    assert seen(None, PUBLIC_SCOPES) is None
    assert seen(person(("pam", "bob"))) == []
    # A tree that stands elsewhere is filtered when Tiled asks about it.
    (query,) = anyio.run(policy.filters, root._mapping["live"], ADA, None, READ, READ)
    assert list(root._mapping["live"].search(query)) == ["1"]
    assert anyio.run(policy.init_node, SERVICE, None, ALL_SCOPES, None) == (False, frozenset())


def test_rights_are_asked_in_threads_before_listings_are_filtered():
    rights = Record(ada=["/a"])
    viewers = Viewers(rights, 10.0)
    policy = FolderAccess(viewers, ("pam",))
    root = Root({"live": Runs({"1": run_in("/a"), "2": run_in("/x")})})
    threads = set()
    visible = rights.visible
    rights.visible = lambda *args: threads.add(threading.current_thread()) or visible(*args)
    (query,) = anyio.run(policy.filters, root, ADA, None, READ, READ)
    assert threading.main_thread() not in threads
    assert rights.asked == [("ada", {"/a", "/x"})]
    assert list(root.search(query)["live"]) == ["1"]
    assert len(rights.asked) == 1


def test_slow_answers_count_for_the_request_that_asked_and_nobody_asks_in_the_event_loop():
    now, threads = [0.0], set()

    class Slow(Record):
        def visible(self, user, folders):
            threads.add(threading.current_thread())
            now[0] += 60.0
            return super().visible(user, folders)

    rights = Slow(ada=["/a", "/new"])
    viewers = Viewers(rights, 10.0, clock=lambda: now[0])
    policy = FolderAccess(viewers, ("pam",))
    tree = Runs({"1": run_in("/a"), "2": run_in("/x")})
    root = Root({"live": tree})
    (query,) = anyio.run(policy.filters, root, ADA, None, READ, READ)
    assert list(root.search(query)["live"]) == ["1"]
    assert scopes(policy, run_in("/a"), ADA) == READ
    # A run that came after the asking is hidden until somebody asks.
    later = Root({"live": Runs({"3": run_in("/new"), **tree._mapping})})
    assert list(later.search(query)["live"]) == ["1"]
    asked = len(rights.asked)
    anyio.run(query.viewer.ask, ["/a", "/new"])
    assert list(later.search(query)["live"]) == ["3", "1"]
    assert rights.asked[asked:] == [("ada", {"/new"})]
    rights.may["ada"].clear()
    anyio.run(query.viewer.ask, ["/a", "/new"], True)
    assert list(later.search(query)["live"]) == []
    assert threading.main_thread() not in threads


def test_the_event_loop_goes_on_while_rights_hang():
    rights = Record(ada=["/a"])
    rights.gate = threading.Semaphore(0)
    policy = FolderAccess(Viewers(rights, 10.0, patience=0.05), ("pam",))
    where = []
    waited = policy._viewers._settled.wait
    policy._viewers._settled.wait = lambda seconds: (
        where.append(threading.current_thread()) or waited(seconds)
    )

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(policy.allowed_scopes, run_in("/a"), ADA, None, READ)
            await anyio.to_thread.run_sync(rights.entered.wait)
            assert set(await policy.allowed_scopes(run_in("/a"), ADA, None, READ)) == set()
            rights.gate.release()

    anyio.run(main)
    assert where
    assert threading.main_thread() not in where
