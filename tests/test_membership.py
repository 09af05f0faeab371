"""Members of the Topology Manager, over real sockets; and what they ask, without."""

import threading
from contextlib import contextmanager
from functools import partial

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from p06bs.bus import enquiry, enrolment
from p06bs.bus.enrolment import Enrolment
from p06bs.bus.errors import WireError
from p06bs.bus.membership import Membership
from p06bs.bus.topology import Service, Topology
from p06bs.bus.topology_manager import TopologyManager
from tests import supervised

PATIENCE = 60.0
wait = partial(supervised.wait, seconds=PATIENCE)


def service(name, instance="1", **fields):
    return Service(name, fields.pop("kind", name), instance, "here", 1, **fields)


@contextmanager
def serving(address="tcp://127.0.0.1:*", ttl=1.0):
    with TopologyManager(address, ttl=ttl) as manager:
        thread = threading.Thread(target=manager.serve)
        thread.start()
        try:
            yield manager
        finally:
            manager.close()
            thread.join()


def names(membership):
    return [one.name for one in membership.services]


def test_services_find_each_other_and_see_one_leave():
    with serving() as manager, Membership(manager.address) as observer:
        proxy = Membership(manager.address)
        proxy.enrol(service("proxy", addresses={"inbound": "ipc://in"}))
        with Membership(manager.address) as server:
            server.enrol(service("server"))
            assert server.wait_for("proxy", "inbound", PATIENCE) == "ipc://in"
            wait(lambda: names(observer) == ["proxy", "server"])
            proxy.close()
            wait(lambda: names(server) == ["server"])
        wait(lambda: names(observer) == [])


def test_who_is_looked_for_is_waited_for_while_others_may_be_there():
    with serving(ttl=PATIENCE) as manager, Membership(manager.address) as observer:
        assert observer.wait_listed(PATIENCE)

        def there(services):
            return any(one.name == "proxy" for one in services)

        assert not observer.wait_heard(there, 0.0)
        with Membership(manager.address) as proxy:
            proxy.enrol(service("proxy"))
            assert observer.wait_heard(there, PATIENCE)
    with serving(ttl=0.1) as manager, Membership(manager.address) as observer:
        assert observer.wait_heard(there, PATIENCE)  # it has been there for long: nobody comes
        assert names(observer) == []


def test_a_service_that_is_silent_is_gone():
    with serving(ttl=2.5) as manager, Membership(manager.address) as observer:
        with zmq.Context() as context, context.socket(zmq.DEALER) as silent:
            silent.linger = 1000
            silent.connect(manager.address)
            said = enquiry.plain(service("silent"))
            silent.send(enquiry.packed(1, "register", said))
            wait(lambda: names(observer) == ["silent"])
        wait(lambda: names(observer) == [])


def test_what_is_known_outlives_the_topology_manager(monkeypatch):
    monkeypatch.setattr(enrolment, "RENEWALS", PATIENCE / 0.1)  # often, and no lease ends
    with serving(ttl=PATIENCE) as manager:
        address = manager.address
        proxy = Membership(address)
        proxy.enrol(service("proxy", addresses={"inbound": "ipc://in"}))
        observer = Membership(address)
        observer.wait_for("proxy", "inbound", PATIENCE)
    with proxy, observer:
        assert observer.address_of("proxy", "inbound") == "ipc://in"
        with serving(address, ttl=PATIENCE) as manager:
            wait(lambda: [one.name for one in manager.topology.services] == ["proxy"])
            assert observer.address_of("proxy", "inbound") == "ipc://in"


@pytest.mark.logs_errors
def test_the_newest_of_a_name_stays():
    with serving() as manager, Membership(manager.address) as old:
        ended = threading.Event()
        old.on_superseded(ended.set)
        old.enrol(service("xrf", "1", addresses={"control": "ipc://old"}))
        wait(lambda: names(old) == ["xrf"])
        with Membership(manager.address) as new:
            new.enrol(service("xrf", "2", addresses={"control": "ipc://new"}))
            assert ended.wait(PATIENCE)
            wait(lambda: old.address_of("xrf", "control") == "ipc://new")
            assert old.superseded
            assert not new.superseded


def test_it_is_known_who_works_on_what():
    with serving() as manager, Membership(manager.address) as one:
        one.enrol(service("xrf", offers=("iron",)))
        one.work_on(("run 1", "run 2"))
        wait(lambda: one.services and one.services[0].runs == ("run 1", "run 2"))


def test_who_waits_in_vain_is_told_what_is_there():
    with serving() as manager, Membership(manager.address) as one:
        one.enrol(service("xrf"))
        wait(lambda: names(one) == ["xrf"])
        with pytest.raises(TimeoutError, match=r"no proxy with inbound in 0.1 s; .*: xrf"):
            one.wait_for("proxy", "inbound", 0.1)
    with (
        Membership("tcp://127.0.0.1:9") as one,
        pytest.raises(TimeoutError, match=r"no Topology Manager at tcp://127.0.0.1:9"),
    ):
        one.wait_for("proxy", "inbound", 0.1)


@pytest.mark.parametrize(
    "parts",
    [
        [b""],
        [b"\xc1"],
        [b"one", b"two"],
        [enquiry.packed(1, "register")],
        [enquiry.packed(1, "register", {"name": "x"})],
        [enquiry.packed(1, "register", {**enquiry.plain(service("x")), "name": "a b"})],
        [enquiry.packed(1, "register", {**enquiry.plain(service("x")), "more": 1})],
        [enquiry.packed(1, "register", {**enquiry.plain(service("x")), "pid": "9" * 30})],
        [enquiry.packed(1, "renew", 1, 2)],
        [enquiry.packed(1, {}, [])],
        [enquiry.packed(1, None)],
        [enquiry.packed("1", "list")],
    ],
)
def test_what_is_no_question_is_refused_and_changes_nothing(parts):
    with (
        serving() as manager,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as socket,
        Membership(manager.address) as observer,
    ):
        socket.linger = 0
        socket.connect(manager.address)
        socket.send_multipart(parts)
        assert socket.poll(int(1000 * PATIENCE))
        assert enquiry.unpacked(socket.recv())[1] == "refused"
        assert observer.wait_listed(PATIENCE)
        assert observer.services == ()


def test_a_service_that_is_none_costs_only_itself():
    enrolment = Enrolment()
    listed = ["listed", 1, True, [enquiry.plain(service("x")), {"name": "newer", "what": 1}]]
    with pytest.raises(WireError, match=r"left out: .*what: Extra"):
        enrolment.answer(listed, 0.0)
    assert [one.name for one in enrolment.services] == ["x"]
    enrolment.answer(listed, 1.0)  # told of once


def test_who_is_refused_from_the_beginning_may_try_again():
    topology, enrolment = Topology(6.0, 0.0), Enrolment(service("x", "2"))

    def turn(now):
        for question in enrolment.questions(now):
            enrolment.answer(list(enquiry.answered(topology, question, now)), now)
        return enrolment.superseded, enrolment.refused

    topology.register(service("x", "3"), 0.0)  # before the clock was set back
    assert turn(0.0) == (True, True)
    enrolment = Enrolment(service("x", "4"))
    assert turn(1.0) == (False, False)
    topology.register(service("x", "5"), 2.0)
    assert turn(20.0) == (True, False)  # it had its time


LOSSES = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 9)), max_size=60)


@given(LOSSES)
def test_whatever_is_lost_everybody_is_known_in_the_end(rounds):
    """Questions and answers are lost, the Topology Manager begins anew, and time goes on."""
    ttl, now = 6.0, 0.0
    topology = Topology(ttl, now)
    members = {name: Enrolment(service(name)) for name in ("a", "b")}

    def turn(member, asks, answers):
        for question in member.questions(now):
            if asks:
                answer = enquiry.answered(topology, question, now)
                if answers:
                    member.answer(enquiry.unpacked(enquiry.packed(1, *answer))[1:], now)

    for number, (asks, answers, dice) in enumerate(rounds):
        now += dice / 3
        topology.expire(now)
        if dice == 9:
            topology = Topology(ttl, now, revision=1000 * (number + 1))
        member = members["ab"[dice % 2]]
        before = {one.name for one in member.services}
        turn(member, asks, answers)
        assert topology.settled(now) or before <= {one.name for one in member.services}
    for _ in range(20):
        now += 0.5
        topology.expire(now)
        for member in members.values():
            turn(member, True, True)
    wanted = (service("a"), service("b"))
    assert topology.services == wanted
    assert [member.services for member in members.values()] == [wanted, wanted]
