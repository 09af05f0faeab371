"""A Dask scheduler that is a service, and those who find it through the Topology Manager.

Where the bus has keys everything speaks TLS. The scheduler makes the keys at each start, and
gives them to who asks its control, which only authorised peers of the bus can.
"""

import logging

from p06bs.bus.control import ask
from p06bs.bus.curve import Keys
from p06bs.bus.membership import Membership
from p06bs.bus.sockets import is_local
from p06bs.pipeline.client import security
from p06bs.pipeline.found import Place

log = logging.getLogger(__name__)

KIND, ADDRESS, CREDENTIALS = "scheduler", "dask", "credentials"
"""Kind of the service, under which address it is found, and the verb that gives the keys."""
HTTP = "127.0.0.1:0"
"""Where Dask's web pages are, which have no TLS; it takes all interfaces where nobody says."""


def found(peers: Membership, keys: Keys | None) -> Place | None:
    """Return the place of the scheduler that is registered; None while none answers.

    Who runs a scheduler can run any code at its clients: without keys it must be on this host,
    and with them it must have them.
    """
    for service in peers.services:
        address = service.addresses.get(ADDRESS, "") if service.kind == KIND else ""
        if keys is None and is_local(address):
            return address, None
        if keys is not None and address.startswith("tls://"):
            try:
                control = service.addresses["control"]
                return address, security(ask(control, CREDENTIALS, seconds=2.0, keys=keys))
            except (TimeoutError, ValueError, KeyError) as error:
                log.warning("%s does not give its keys: %s", service.name, error)
    return None
