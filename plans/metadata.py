"""What plans say in start documents: `scan`, and what devices mean."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def described(
    kind: str,
    devices: Iterable[Any],
    md: Mapping[str, Any] | None,
    *,
    scan: Mapping[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return metadata of a plan; what a user says in `md` wins, in ``scan`` field by field.

    Parameters
    ----------
    kind : str
        Of the scan, such as ``step_map``; also the plan's name.
    devices : iterable of devices
        Their roles go into the table of devices.
    md : mapping or None
        The user's.
    scan : mapping, optional
        More of ``start["scan"]``; None values are left out.
    **fields
        Of the start document.
    """
    said = dict(md or {})
    known = {key: value for key, value in (scan or {}).items() if value is not None}
    return {
        "plan_name": kind,
        "devices": roles_of(devices),
        **fields,
        **said,
        "scan": {"kind": kind, **known, **said.get("scan", {})},
    }


def roles_of(devices: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """Return the table of devices: what their data mean."""
    return {
        device.name: {
            **({"role": device.role} if isinstance(getattr(device, "role", None), str) else {}),
            "roles": dict(device.roles),
        }
        for device in devices
        if hasattr(device, "roles")
    }


def units_of(axes: Sequence[Any]) -> list[str] | None:
    """Return the units of axes; None if one does not say."""
    units = [getattr(axis, "egu", None) for axis in axes]
    return [str(unit) for unit in units] if all(units) else None
