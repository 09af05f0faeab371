"""What is at the prompt, by name, and plans with this beamline's devices filled in."""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any


class Named(dict[str, Any]):
    """Things by name that are attributes, too: ``devices["samx"]``, ``devices.samx``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(
                f"there is no {name!r}; there are {', '.join(self) or 'none'}"
            ) from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self})

    def __repr__(self) -> str:
        return "\n".join(f"{name:18} {_summary(made)}" for name, made in self.items())


def _summary(made: Any) -> str:
    if not inspect.isroutine(made):
        return type(made).__name__
    return (inspect.getdoc(made) or "").partition("\n")[0]


class _Shown(tuple[Any, ...]):
    """Devices that a signature shows by name."""

    def __repr__(self) -> str:
        return f"[{', '.join(device.name for device in self)}]"


def filled_in(plan: Callable[..., Any], **devices: Any) -> Callable[..., Any]:
    """Return a plan whose first parameters have a default and are given by name, if at all.

    Parameters
    ----------
    plan : callable
    **devices : device or list of devices
        Defaults of its first parameters, in their order.

    Raises
    ------
    ValueError
        If these are not its first parameters.
    """
    signature = inspect.signature(plan)
    parameters = list(signature.parameters.values())
    first, rest = parameters[: len(devices)], parameters[len(devices) :]
    if [parameter.name for parameter in first] != list(devices):
        raise ValueError(f"{plan.__name__}{signature} does not begin with {', '.join(devices)}")
    shown = [
        _Shown(device) if isinstance(device, Sequence) else device for device in devices.values()
    ]
    named = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=default)
        for parameter, default in zip(first, shown, strict=True)
    ]
    # Those that take any other name are the last ones.
    ordered = sorted([*rest, *named], key=lambda parameter: parameter.kind)

    @wraps(plan)
    def made(*args: Any, **kwargs: Any) -> Any:
        given = [kwargs.pop(name, default) for name, default in devices.items()]
        return plan(*given, *args, **kwargs)

    made.__signature__ = signature.replace(parameters=ordered)  # type: ignore[attr-defined]
    return made
