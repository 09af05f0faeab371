"""Questions to the Topology Manager and its answers: MessagePack lists over ROUTER/DEALER.

A question is ``[number, verb, ...]``, its answer ``[number, status, ...]``:

=========================  ==================================================
question                   answer
=========================  ==================================================
register, service          ok, ttl (s), revision
renew, name, instance      renewed / unknown / superseded, revision
run, name, instance, uid   renewed / unknown / superseded, revision
release, name, instance    ok, revision
list                       ok, revision, settled, [service, ...]
anything else              refused, what is wrong with it
=========================  ==================================================
"""

from dataclasses import asdict
from typing import Annotated, Any

import ormsgpack
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from p06bs.bus.codec import WireError
from p06bs.bus.topology import Renewal, Service, Topology

LARGEST = 1 << 16
"""Bytes of a question."""

Text = Annotated[str, StringConstraints(max_length=200)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[\w.\-]+$")]


class Registration(BaseModel):
    """A service as it may register."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Name
    kind: Name
    instance: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    host: Text
    pid: int = Field(ge=1)
    addresses: dict[Name, Text] = Field(default_factory=dict, max_length=20)
    version: Text = ""
    run: Text = ""

    def service(self) -> Service:
        """Return it as it is held."""
        return Service(**self.model_dump())


def packed(*message: Any) -> bytes:
    """Encode a question or an answer."""
    return ormsgpack.packb(message)


def unpacked(data: bytes) -> list[Any]:
    """Decode a question or an answer.

    Raises
    ------
    WireError
        If it is none.
    """
    try:
        message = ormsgpack.unpackb(data)
    except ValueError as error:
        raise WireError(f"no MessagePack: {error}") from error
    if type(message) is not list or len(message) < 2 or type(message[0]) is not int:
        raise WireError("a message begins with its number and a word")
    return message


def plain(service: Service) -> dict[str, Any]:
    """Return a service as it travels."""
    return asdict(service)


def parsed(said: Any) -> Service:
    """Return a service that travelled.

    Raises
    ------
    WireError
        If it is none; names each field.
    """
    try:
        return Registration.model_validate(said).service()
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise WireError(f"no registration: {fields}") from None


def answered(topology: Topology, question: list[Any], now: float) -> list[Any]:
    """Carry out a question; return status and the rest of its answer.

    Raises
    ------
    WireError
        If it cannot be understood.
    """
    match question[1:]:
        case ["renew", str() as name, str() as instance]:  # by far the most
            return [topology.renew(name, instance, now), topology.revision]
        case ["register", said]:
            topology.register(parsed(said), now)
            return ["ok", topology.ttl, topology.revision]
        case ["run", str() as name, str() as instance, str() as uid]:
            return [topology.work_on(name, instance, uid[:200]), topology.revision]
        case ["release", str() as name, str() as instance]:
            topology.release(name, instance)
            return ["ok", topology.revision]
        case ["list"]:
            services = [plain(one) for one in topology.services]
            return ["ok", topology.revision, topology.settled(now), services]
    raise WireError(f"no question: {str(question[1])[:40]!r} with {len(question) - 2} arguments")


def renewal(status: Any) -> Renewal:
    """Return what an answer says of a lease.

    Raises
    ------
    WireError
        If it says something else.
    """
    try:
        return Renewal(status)
    except ValueError:
        raise WireError(f"no answer to a renewal: {status!r}") from None
