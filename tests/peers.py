"""A Topology Manager, and services that are registered there, in the process of the test."""

import threading
from contextlib import contextmanager

from p06bs.bus.membership import Membership
from p06bs.bus.topology import Service
from p06bs.bus.topology_manager import TopologyManager


@contextmanager
def topology(address="tcp://127.0.0.1:*"):
    """Run a Topology Manager; gives its address."""
    with TopologyManager(address) as manager:
        thread = threading.Thread(target=manager.serve)
        thread.start()
        try:
            yield manager.address
        finally:
            manager.close()
            thread.join()


@contextmanager
def hosting(address, name, control, kind="pipelines"):
    """Register a service of an address."""
    with Membership(address) as member:
        offers = (name,) if kind == "pipelines" else ()
        what = "control" if kind == "pipelines" else "http"
        member.enrol(Service(f"host-{name}", kind, "1", "here", 1, {what: control}, "", offers))
        yield
