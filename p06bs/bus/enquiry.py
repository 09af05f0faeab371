"""Questions to the Topology Manager and its answers: MessagePack lists over ROUTER/DEALER.

A question is ``[number, verb, ...]``, its answer ``[number, status, ...]``:

=============================  ==================================================
question                       answer
=============================  ==================================================
register, service              renewed / superseded, revision, ttl (s)
renew, name, instance          renewed / unknown / superseded, revision
runs, name, instance, [uid]    renewed / unknown / superseded, revision
release, name, instance        ok, revision
list, known revision or nil    listed, revision, settled, [service, ...]
                               or nil for the services, if the revision is known
anything else                  refused, what is wrong with it
=============================  ==================================================
"""

from dataclasses import fields
from typing import Annotated, Any

import ormsgpack
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from p06bs.bus.errors import WireError
from p06bs.bus.topology import Service, Topology

LARGEST = 1 << 16
"""Bytes of a question."""
FIELDS = tuple(field.name for field in fields(Service))
LARGEST_PID = 1 << 22
"""Linux has no larger ones; MessagePack could not carry any number."""
MOST_RUNS = 100
"""So many runs of a service are told."""

Text = Annotated[str, StringConstraints(max_length=200)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[\w.\-]+$")]


class Registration(BaseModel):
    """A service as it may register."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    kind: Name
    instance: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    host: Text
    pid: int = Field(ge=1, le=LARGEST_PID)
    addresses: dict[Name, Text] = Field(default_factory=dict, max_length=20)
    version: Text = ""
    offers: tuple[Text, ...] = Field((), max_length=100)
    runs: tuple[Text, ...] = Field((), max_length=MOST_RUNS)

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
    return {name: getattr(service, name) for name in FIELDS}


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
    match question:
        case ["renew", str() as name, str() as instance]:  # by far the most
            return [topology.renew(name, instance, now), topology.revision]
        case ["register", said]:
            return [topology.register(parsed(said), now), topology.revision, topology.ttl]
        case ["runs", str() as name, str() as instance, list() as uids]:
            runs = tuple(str(uid)[:200] for uid in uids[-MOST_RUNS:])
            return [topology.work_on(name, instance, runs), topology.revision]
        case ["release", str() as name, str() as instance]:
            topology.release(name, instance)
            return ["ok", topology.revision]
        case ["list", known]:
            is_news = known != topology.revision
            services = [plain(one) for one in topology.services] if is_news else None
            return ["listed", topology.revision, topology.settled(now), services]
    raise WireError(f"no question: {str(question[0])[:40]!r} with {len(question) - 1} arguments")
