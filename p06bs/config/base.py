"""What sections of a configuration have in common: strictness, addresses, numbers of bytes."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)

from p06bs.bus.sockets import zmq_address


class ConfigurationError(ValueError):
    """A configuration, or the name of something in it, that cannot be used; says why."""


def loopback(address: str) -> str:
    """Accept what everybody on this host can connect to: ipc, and tcp on the loopback interface."""
    return _connectable(address, keys=False)


def _connectable(address: str, *, keys: bool) -> str:
    endpoint = zmq_address(_schemed(address), keys=keys)
    if endpoint.endswith(":*"):
        raise ValueError(f"{address!r} is neither tcp://host:port nor ipc://path")
    if endpoint.startswith(("tcp://*:", "tcp://0.0.0.0:", "tcp://[::]:")):
        raise ValueError(f"{address!r} names no host that others could connect to")
    return address


def _schemed(address: str) -> str:
    if not address.startswith(("tcp://", "ipc://")):
        raise ValueError(f"{address!r} is neither tcp://host:port nor ipc://path")
    return address


def _has_keys(info: ValidationInfo) -> bool:
    """Return whether the section, or the file that it is part of, names a directory of keys."""
    return bool(info.data.get("keys") or (info.context or {}).get("keys"))


def _address(address: str, info: ValidationInfo) -> str:
    return _connectable(address, keys=_has_keys(info))


def _listening(address: str, info: ValidationInfo) -> str:
    zmq_address(_schemed(address), keys=_has_keys(info))
    return address


def parse_bytes(value: Any) -> Any:
    """Return a number of bytes; accepts text like ``512MB`` or ``2 GiB``."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"\s*([\d.]+)\s*([kKMGT]?)(i?)B?\s*", value)
    if not found:
        raise ValueError(f"{value!r} is no number of bytes; write for example 512MB or 2GiB")
    power = " KMGT".index(found[2].upper() or " ")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** power)


Address = Annotated[str, AfterValidator(_address)]
"""What to connect to; beyond this host if a field `keys` before it, or the file, has keys."""
Listening = Annotated[str, AfterValidator(_listening)]
"""What to bind: as an `Address`, but the host may be ``*``, and the port too."""
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


S = TypeVar("S", bound=Section)


def changed(section: S, options: Mapping[str, Any]) -> S:
    """Return a section with options over it; those that are None were not given.

    Raises
    ------
    ConfigurationError
        If an option is refused; names it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    fields = dict(iter(section))  # dict(section) takes a field `keys` for a mapping's method
    try:
        return type(section).model_validate({**fields, **given})
    except ValidationError as error:
        raise ConfigurationError(problems(error)) from None


def problems(error: ValidationError) -> str:
    """Return what a section refuses, field by field, in one line."""
    return "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
