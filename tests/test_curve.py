"""CURVE: who is let in, who is refused, and what is told of it; at each kind of socket."""

import logging
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
import zmq
from bluesky.callbacks import zmq as stock
from zmq.utils.monitor import recv_monitor_message

from p06bs.bus import authenticator, certificates, curve
from p06bs.bus.authenticator import NO_KEY, UNKNOWN_KEY, WRONG_BUS
from p06bs.bus.certificates import KeysError
from p06bs.bus.control import Control
from p06bs.bus.curve import Keys
from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.bus.sockets import bind, connect, zmq_address
from p06bs.bus.topology_manager import TopologyManager
from p06bs.bus.wire import deserialize
from p06bs.pipeline.pool import Pool
from p06bs.services.proxy import Proxy
from tests.test_follow import assert_complete, follow, run_documents, take

PATIENCE = 60.0
LOOPBACK = "tcp://127.0.0.1:*"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Peers that were refused come again soon, and revocations are seen soon."""
    monkeypatch.setattr(curve, "HANDSHAKE_MS", 1000)
    monkeypatch.setattr(authenticator, "LOOK_SECONDS", 0.1)


@pytest.fixture
def site(tmp_path):
    """A site's directory of keys, with one peer."""
    directory = tmp_path / "site"
    certificates.create(directory)
    certificates.add(directory, "peer")
    return directory


@pytest.fixture
def keys(site):
    """Keys with which services bind."""
    return Keys(site)


@pytest.fixture
def peer(site):
    """Keys of a peer that may connect."""
    return Keys(site / "issued/peer")


@contextmanager
def forwarding(keys, in_address=LOOPBACK, out_address=LOOPBACK):
    proxy = Proxy(in_address, out_address, keys)
    thread = threading.Thread(target=proxy.start)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()


@contextmanager
def lane(keys, tmp_path):
    context = zmq.Context()
    with DocumentLog(tmp_path / "logs") as documents:
        pool = Pool(context, documents, 1.0, keys=keys)
        try:
            yield pool.address
        finally:
            pool.close()
            context.term()


@contextmanager
def door(kind, keys, tmp_path):
    """Give the address of one kind of socket that binds."""
    if kind == "lane":
        with lane(keys, tmp_path) as address:
            yield address
    elif kind == "control":
        with Control({}, keys=keys) as control:
            yield control.address
    elif kind == "topology":
        with TopologyManager(LOOPBACK, keys=keys) as manager:
            yield manager.address
    else:
        with forwarding(keys) as proxy:
            yield proxy.in_port if kind == "proxy in" else proxy.out_port


TYPES = {"proxy in": zmq.XPUB, "proxy out": zmq.SUB}


class Knock:
    """A connection of one kind of socket, and whether it was let in."""

    def __init__(self, context, kind, address, keys):
        self.socket = context.socket(TYPES.get(kind, zmq.DEALER))
        self.socket.linger = 0
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        connect(self.socket, address, keys)

    def let_in(self, milliseconds=0):
        return bool(self.monitor.poll(milliseconds))

    def close(self):
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


@contextmanager
def knocking(kind, address, keys):
    with zmq.Context() as context:
        knock = Knock(context, kind, address, keys)
        try:
            yield knock
        finally:
            knock.close()


def wait(true):
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def stranger(who, site, tmp_path):
    """Return the keys of somebody who may not come in, and what is said of them."""
    if who == "without keys":
        return None, NO_KEY
    directory = tmp_path / who
    if who == "of another site":
        certificates.create(tmp_path / "other")
        shutil.copytree(site / "issued/peer", directory)
        shutil.copy(tmp_path / "other/bus.key", directory)
        return Keys(directory), WRONG_BUS
    if who == "never added":
        certificates.create(tmp_path / "other")
        shutil.copytree(certificates.add(tmp_path / "other", "x"), directory)
        shutil.copy(site / "bus.key", directory)
    if who == "revoked":
        shutil.copytree(certificates.add(site, "gone"), directory)
        certificates.revoke(site, "gone")
    return Keys(directory), UNKNOWN_KEY


STRANGERS = ["without keys", "of another site", "never added", "revoked"]
DOORS = ["proxy in", "proxy out", "lane", "control", "topology"]


@pytest.mark.parametrize("kind", DOORS)
def test_strangers_are_refused_and_told_of_once_at_each_door(
    kind, site, keys, peer, tmp_path, caplog
):
    with door(kind, keys, tmp_path) as address, ExitStack() as stack:
        for who in STRANGERS:
            theirs, said = stranger(who, site, tmp_path / who)
            before = keys.refused[said]
            knock = stack.enter_context(knocking(kind, address, theirs))
            wait(lambda said=said, before=before: keys.refused[said] > before)
            assert not knock.let_in()
            assert f"is refused: {said}" in caplog.text
        wait(lambda: keys.refused[UNKNOWN_KEY] > 3 and keys.refused[WRONG_BUS] > 3)  # again
        with knocking(kind, address, peer) as knock:
            assert knock.let_in(20_000)
    told = [r for r in caplog.records if "is refused" in r.getMessage()]
    # An address may be gone before it is read, and is then told of as an unknown one.
    assert 4 <= len(told) <= 6 < sum(keys.refused.values())
    assert caplog.text.count("refused: its key is not authorised, the key") == 2
    assert all(r.levelno == logging.WARNING for r in told)


def test_a_run_travels_encrypted_and_strangers_hear_nothing(keys, peer, tmp_path):
    documents = run_documents(100)
    with (
        forwarding(keys) as proxy,
        Publisher(proxy.in_port, tmp_path / "logs", keys=peer) as publisher,
        Follower(proxy.out_port, tmp_path / "logs", keys=peer) as follower,
        Follower(proxy.out_port, tmp_path / "none") as deaf,
    ):
        wait(lambda: keys.refused[NO_KEY])
        while not follower.socket.poll(20):  # until it is live
            publisher("start", {"uid": f"probe-{time.time_ns()}"})
        while follower.entries(0):
            pass
        for name, document in documents:
            publisher(name, document)
        assert_complete(follow(follower)[documents[0][1]["uid"]], documents)
        assert not deaf.socket.poll(0)


def test_a_peer_that_is_added_later_need_not_be_restarted(site, keys, tmp_path):
    new = certificates.add(site, "new")
    certificate = (site / "peers/new.key").rename(tmp_path / "new.key")
    with (
        door("proxy in", keys, tmp_path) as address,
        knocking("proxy in", address, Keys(new)) as knock,
    ):
        wait(lambda: keys.refused[UNKNOWN_KEY])
        shutil.copy(certificate, site / "peers")
        assert knock.let_in(20_000)


@pytest.mark.parametrize("kind", DOORS)
def test_a_revoked_peer_loses_its_connection_and_the_others_do_not(
    kind, site, keys, peer, tmp_path, caplog
):
    theirs = Keys(certificates.add(site, "gone"))
    with (
        door(kind, keys, tmp_path) as address,
        knocking(kind, address, theirs) as gone,
        knocking(kind, address, peer) as stays,
    ):
        for knock in (gone, stays):
            assert knock.let_in(20_000)
            recv_monitor_message(knock.monitor)
        certificates.revoke(site, "gone")
        assert stays.let_in(20_000)  # again
        wait(lambda: keys.refused[UNKNOWN_KEY])
        assert not gone.let_in()
    assert "gone may no longer connect" in caplog.text


def test_a_follower_misses_nothing_when_another_is_revoked(site, keys, peer, tmp_path):
    certificates.add(site, "gone")
    theirs, documents = Keys(site / "issued/gone"), run_documents(200)
    with (
        forwarding(keys) as proxy,
        Publisher(proxy.in_port, tmp_path / "logs", keys=peer) as publisher,
        Follower(proxy.out_port, tmp_path / "logs", keys=peer) as follower,
        Follower(proxy.out_port, tmp_path / "none", keys=theirs) as gone,
    ):
        while not gone.socket.poll(20):
            publisher("start", {"uid": f"probe-{time.time_ns()}"})
        for name, document in documents[:100]:
            publisher(name, document)
        certificates.revoke(site, "gone")
        wait(lambda: keys.refused[UNKNOWN_KEY])
        for name, document in documents[100:]:
            publisher(name, document)
        assert_complete(follow(follower)[documents[0][1]["uid"]], documents)


@pytest.mark.logs_errors
def test_nobody_new_is_let_in_while_the_peers_cannot_be_read(site, keys, peer, tmp_path, caplog):
    other = Keys(certificates.add(site, "other"))
    with (
        door("proxy in", keys, tmp_path) as address,
        knocking("proxy in", address, peer) as old,
        knocking("proxy in", address, other) as revoked,
    ):
        assert revoked.let_in(20_000)
        assert old.let_in(20_000)
        recv_monitor_message(old.monitor)
        (site / "peers").chmod(0o777)
        wait(lambda: "no peer is let in until this is mended" in caplog.text)
        with knocking("proxy in", address, peer) as new:
            wait(lambda: keys.refused[UNKNOWN_KEY])
            assert not new.let_in()
            assert not old.let_in()  # it is not disturbed
            (site / "peers/other.key").unlink()  # who is revoked meanwhile goes when it is known
            (site / "peers").chmod(0o700)
            assert new.let_in(20_000)
        wait(lambda: "other may no longer connect" in caplog.text)
    assert caplog.text.count("until this is mended") == 1


@pytest.mark.logs_errors
def test_a_question_that_is_none_keeps_nobody_out(site, peer, tmp_path):
    theirs, _ = stranger("never added", site, tmp_path / "stranger")
    keys = Keys(site)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        address = bind(socket, LOOPBACK, keys)
        with context.socket(zmq.REQ) as nonsense:  # of this process: no question of libzmq
            nonsense.connect("inproc://zeromq.zap.01")
            nonsense.send(b"")
            assert nonsense.recv_multipart()[1] == b"300"
        with knocking("control", address, peer) as knock:
            assert knock.let_in(20_000)
        with knocking("control", address, theirs) as knock:
            wait(lambda: keys.refused[UNKNOWN_KEY])
            assert not knock.let_in()


# ---------------------------------------------------------------- other hosts, stock clients


def own_address():
    """Return an address of this host other than loopback."""
    said = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=False).stdout
    for word in said.split():
        if ":" not in word:
            return word
    pytest.skip("this host has no other address than loopback")


def test_other_addresses_need_keys_and_work_with_them(keys, peer, tmp_path):
    address = f"tcp://{own_address()}:*"
    with pytest.raises(ValueError, match="beyond this host"):
        Proxy(address, LOOPBACK)
    documents = run_documents(20)
    with (
        forwarding(keys, address, address) as proxy,
        Publisher(proxy.in_port, tmp_path / "logs", keys=peer) as publisher,
        Follower(proxy.out_port, tmp_path / "logs", keys=peer) as follower,
    ):
        while not follower.socket.poll(20):
            publisher("start", {"uid": f"probe-{time.time_ns()}"})
        for name, document in documents:
            publisher(name, document)
        assert_complete(follow(follower)[documents[0][1]["uid"]], documents)


def test_all_interfaces_are_told_by_name(keys):
    with zmq.Context() as context, context.socket(zmq.PUB) as one:
        with pytest.raises(ValueError, match="beyond this host"):
            bind(one, "tcp://*:*")
        assert bind(one, "tcp://*:*", keys).startswith(f"tcp://{socket.gethostname()}:")


@pytest.mark.parametrize("host", ["p06.desy.de", "192.0.2.7", "0.0.0.0", "*", "[2001:db8::7]"])
def test_addresses_beyond_this_host(host):
    assert zmq_address(f"{host}:5567", keys=True) == f"tcp://{host}:5567"
    with pytest.raises(ValueError, match="lies beyond this host; without keys"):
        zmq_address(f"tcp://{host}:5567")


@pytest.mark.parametrize("host", ["", "-x", "a b", "a/b", "eth0;", "[::1"])
def test_what_names_no_host(host):
    with pytest.raises(ValueError, match=r"names no host|neither tcp"):
        zmq_address(f"tcp://{host}:5567", keys=True)


def test_loopback_of_the_newer_protocol(tmp_path):
    with (
        forwarding(None, "tcp://[::1]:*", "tcp://[::1]:*") as proxy,
        knocking("proxy in", proxy.in_port, None) as knock,
    ):
        assert knock.let_in(20_000)


def test_a_stock_remote_dispatcher_and_publisher_with_client_curve(site, keys, peer, tmp_path):
    certificate = stock.ClientCurve(
        site / "issued/peer/own.key_secret", site / "issued/peer/bus.key"
    )
    received, stopped = [], threading.Event()

    def note(name, document):
        received.append((name, document["uid"]))
        if document["uid"] == "last":
            stopped.set()

    with forwarding(keys) as proxy:
        dispatcher = stock.RemoteDispatcher(
            proxy.out_port, deserializer=deserialize, strict=True, curve_config=certificate
        )
        dispatcher.subscribe(note)

        def listen():
            try:
                dispatcher.start()
            except BaseException as error:  # CancelledError is how it ends
                received.append(type(error).__name__)

        listening = threading.Thread(target=listen)
        listening.start()
        with Publisher(proxy.in_port, tmp_path / "logs", keys=peer) as publisher:
            for number in range(3000):
                publisher("start", {"uid": f"probe-{number}"})
                threading.Event().wait(0.01)
                if received:
                    break
            publisher("start", {"uid": "last"})
            assert stopped.wait(20)
        assert ("start", "last") in received
        dispatcher.loop.call_soon_threadsafe(dispatcher._task.cancel)
        listening.join()
        assert received[-1] == "CancelledError"

        theirs = stock.Publisher(proxy.in_port, curve_config=certificate, serializer=bytes)
        with zmq.Context() as context, context.socket(zmq.SUB) as sub:
            sub.subscribe(b"")
            connect(sub, proxy.out_port, peer)
            while not sub.poll(20):
                theirs("start", b"as it is")
            assert sub.recv() == b" start as it is"
        theirs.close()


def test_our_follower_listens_to_a_stock_proxy_with_server_curve(site, peer, tmp_path):
    certificate = stock.ServerCurve(site / "bus.key_secret", site / "peers", None)
    command = (
        "import sys; from bluesky.callbacks.zmq import Proxy, ServerCurve\n"
        "proxy = Proxy('127.0.0.1:*', '127.0.0.1:*', out_curve=ServerCurve(*sys.argv[1:], None))\n"
        "print(proxy.in_port, proxy.out_port, flush=True); proxy.start()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", command, *map(str, certificate[:2])],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        inbound, outbound = process.stdout.readline().split()
        with (
            Publisher(inbound, tmp_path / "logs") as publisher,
            Follower(outbound, tmp_path / "logs", keys=peer) as follower,
        ):
            while not follower.socket.poll(20):
                publisher("start", {"uid": f"probe-{time.time_ns()}"})
            assert take(follower, 1)[0].name == "start"
        process.kill()


# ---------------------------------------------------------------- directories and commands


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shutil.rmtree, "No such file or directory; p06bs keys create"),
        (lambda d: (d / "bus.key").unlink(), r"bus\.key: No such file"),
        (lambda d: (d / "own.key_secret").unlink(), r"own\.key_secret: No such file"),
        (lambda d: (d / "own.key_secret").chmod(0o640), "mode 640: only its owner may read"),
        (lambda d: (d / "bus.key").chmod(0o664), "mode 664: only its owner may write"),
        (lambda d: d.chmod(0o770), "mode 770: others may not write it"),
        (lambda d: (d / "own.key_secret").write_text("nothing"), "No public key found"),
        (lambda d: shutil.copy(d / "own.key", d / "own.key_secret"), "has no secret-key"),
        (
            lambda d: (d / "bus.key").write_text('curve\n    public-key = "short"\n'),
            "holds a key that is none",
        ),
        (
            lambda d: (d / "own.key_secret").write_text(
                (d / "own.key_secret").read_text().replace('public-key = "', 'public-key = "0')
            ),
            "holds a key that is none",
        ),
    ],
)
def test_keys_that_cannot_be_used_are_refused(site, spoil, said):
    directory = site / "issued/peer"
    spoil(directory)
    with pytest.raises(KeysError, match=said):
        Keys(directory)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda d: (d / "bus.key_secret").unlink(), "it a peer can connect, and not bind"),
        (lambda d: (d / "bus.key_secret").chmod(0o604), "only its owner may read"),
        (lambda d: shutil.copy(d / "own.key_secret", d / "bus.key_secret"), "do not match"),
        (lambda d: shutil.rmtree(d / "peers"), "peers: No such file"),
        (lambda d: (d / "peers").chmod(0o722), "they could let themselves in"),
    ],
)
def test_keys_with_which_nobody_can_bind(site, spoil, said):
    spoil(site)
    keys = Keys(site)
    with pytest.raises(KeysError, match=said):
        Proxy(LOOPBACK, LOOPBACK, keys)
    command = [sys.executable, "-m", "p06bs.services.proxy", "--in", LOOPBACK, "--out", LOOPBACK]
    if said.startswith("it"):  # once is enough
        done = subprocess.run(
            [*command, "--keys", site], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_a_certificate_that_is_none_is_left_out(site, keys, peer, tmp_path, caplog):
    odd = site / "peers/odd.key"
    odd.write_text("metadata\ncurve\n    public-key")  # half copied
    odd.chmod(0o600)
    late = Keys(certificates.add(site, "late"))
    (site / "peers/late.key").chmod(0o666)
    with (
        door("proxy in", keys, tmp_path) as address,
        knocking("proxy in", address, peer) as knock,
    ):
        assert knock.let_in(20_000)
        assert caplog.text.count("a certificate is left out") == 2
        assert "only its owner may write it" in caplog.text
        (site / "peers/late.key").chmod(0o600)
        with knocking("proxy in", address, late) as added:
            assert added.let_in(20_000)
    assert caplog.text.count("late.key has mode") == 1


def test_a_certificate_that_is_overwritten_counts_at_once(site, keys, tmp_path):
    former, new = (Keys(certificates.add(site, name)) for name in ("former", "new"))
    (site / "peers/new.key").rename(tmp_path / "new.key")
    with (
        door("proxy in", keys, tmp_path) as address,
        knocking("proxy in", address, former) as knock,
    ):
        assert knock.let_in(20_000)
        shutil.copy(tmp_path / "new.key", site / "peers/former.key")  # in place
        wait(lambda: keys.refused[UNKNOWN_KEY])
        with knocking("proxy in", address, new) as other:
            assert other.let_in(20_000)


def test_each_is_refused_for_its_own_reason(site):
    """Two sockets of a context may refuse at the same time: what is told of them mingles."""
    heard = []
    with zmq.Context() as context:
        told = authenticator.Authenticator(
            context, site / "peers", lambda *said: heard.append(said)
        )

        def note(door, event, value):
            told._note(door, [struct.pack("=Hi", event, value), b"tcp://127.0.0.1:1"])

        note("proxy", zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, 0)
        note("lane", zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC)
        note("proxy", zmq.EVENT_DISCONNECTED, 7)
        note("lane", zmq.EVENT_DISCONNECTED, 8)
    assert [reason for _, reason, _ in heard] == [NO_KEY, WRONG_BUS]


def test_a_secret_shows_nowhere(site, keys, caplog):
    secret = certificates.pair(site, "own")[1].decode()
    assert secret not in repr(keys)
    assert repr(keys) == f"Keys({str(site)!r})"


def test_the_commands(run, tmp_path):
    site = tmp_path / "made/keys"
    status, out, _ = run("keys", "create", "--keys", site)
    assert status == 0
    assert f'[bus] keys = "{site}"' in out
    status, _, err = run("keys", "create", "--keys", site)
    assert status == 1
    assert "keys are not overwritten" in err
    status, out, _ = run("keys", "add", "maxwell", "--keys", site)
    assert status == 0
    assert f"{site}/issued/maxwell" in out
    for name in ("maxwell", "a/b", ".."):
        status, _, err = run("keys", "add", name, "--keys", site)
        assert status == 1
        assert "has a peer" in err or "cannot name a peer" in err
    assert run("keys", "list", "--keys", site)[1].split() == ["maxwell", "services"]
    assert '"name": "maxwell"' in run("keys", "list", "--json", "--keys", site)[1]
    for path in site.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)
    assert run("keys", "revoke", "maxwell", "--keys", site)[:2] == (0, "revoked maxwell\n")
    assert not (site / "issued/maxwell").exists()
    status, _, err = run("keys", "revoke", "maxwell", "--keys", site)
    assert status == 1
    assert "no peer 'maxwell'; there are services" in err
    (site / "issued/maxwell").mkdir()  # the command was killed
    assert "keys revoke maxwell ends it" in run("keys", "add", "maxwell", "--keys", site)[2]
    assert run("keys", "revoke", "maxwell", "--keys", site)[0] == 0
    for name in ("../peers", "..", ""):
        assert run("keys", "revoke", name, "--keys", site)[0] == 1
    assert "cannot be revoked" in run("keys", "revoke", "services", "--keys", site)[2]
    assert run("keys", "add", "maxwell", "--keys", site)[0] == 0
    status, _, err = run("keys", "list", "--keys", site / "issued/maxwell")
    assert status == 1
    assert "is not the directory of a site" in err
