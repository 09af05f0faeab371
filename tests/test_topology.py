"""Leases of services: who is registered, for how long, and when others have to look again."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p06bs.bus.topology import Renewal, Service, Topology

TTL = 10.0
NAMES = st.sampled_from(["proxy", "server", "xrf"])
INSTANCES = st.integers(1, 3).map(str)
RUNS = st.sampled_from([(), ("a",), ("a", "b")])


def service(name, instance="1", **fields):
    return Service(name, "kind", instance, "here", 1, **fields)


class Registering(RuleBasedStateMachine):
    """Compare with a table of when each instance spoke last."""

    def __init__(self):
        super().__init__()
        self.now = 100.0
        self.topology = Topology(TTL, self.now, revision=7)
        self.holds = {}  # name -> (service, last sign of life)
        self.seen = {self.topology.revision: ()}

    def alive(self, name, instance):
        held = self.holds.get(name)
        if held is None:
            return Renewal.UNKNOWN
        return Renewal.RENEWED if held[0].instance == instance else Renewal.SUPERSEDED

    @rule(name=NAMES, instance=INSTANCES, runs=RUNS)
    def register(self, name, instance, runs):
        new, former = service(name, instance, runs=runs), self.holds.get(name)
        answer = self.topology.register(new, self.now)
        if former is not None and former[0].instance > instance:
            assert answer is Renewal.SUPERSEDED
            return
        assert answer is Renewal.RENEWED
        self.holds[name] = new, self.now

    @rule(name=NAMES, instance=INSTANCES)
    def renew(self, name, instance):
        assert self.topology.renew(name, instance, self.now) is self.alive(name, instance)
        if self.alive(name, instance) is Renewal.RENEWED:
            self.holds[name] = self.holds[name][0], self.now

    @rule(name=NAMES, instance=INSTANCES, runs=RUNS)
    def work_on(self, name, instance, runs):
        known = self.alive(name, instance)
        assert self.topology.work_on(name, instance, runs) is known
        if known is Renewal.RENEWED:
            self.holds[name] = service(name, instance, runs=runs), self.holds[name][1]

    @rule(name=NAMES, instance=INSTANCES)
    def release(self, name, instance):
        held = self.alive(name, instance) is Renewal.RENEWED
        assert self.topology.release(name, instance) is held
        if held:
            del self.holds[name]

    @rule(seconds=st.floats(0, 2 * TTL))
    def wait(self, seconds):
        self.now += seconds
        silent = {n for n, (_, spoke) in self.holds.items() if spoke + TTL <= self.now}
        assert {one.name for one in self.topology.expire(self.now)} == silent
        for name in silent:
            del self.holds[name]

    @invariant()
    def lists_who_is_there(self):
        wanted = tuple(self.holds[name][0] for name in sorted(self.holds))
        assert self.topology.services == wanted
        assert len(self.topology) == len(wanted)
        # One revision stands for one list, so that who knows it need not ask.
        assert self.seen.setdefault(self.topology.revision, wanted) == wanted


TestRegistering = Registering.TestCase


def test_nobody_is_missed_before_everybody_could_register():
    topology = Topology(TTL, 100.0)
    assert not topology.settled(109.9)
    assert topology.settled(110.0)


def test_a_restarted_service_need_not_wait_for_its_former_lease():
    topology = Topology(TTL, 0.0)
    killed, restarted = service("xrf", "1"), service("xrf", "2")
    topology.register(killed, 0.0)
    assert topology.register(restarted, 1.0) is Renewal.RENEWED
    assert topology.renew("xrf", "1", 2.0) is Renewal.SUPERSEDED
    assert topology.register(killed, 3.0) is Renewal.SUPERSEDED  # it woke up, and is too old
    assert topology.expire(10.5) == []
    assert topology.services == (restarted,)
