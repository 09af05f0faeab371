"""Tomography: a map at each angle of the sample."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any, Literal

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import MsgGenerator

GOLDEN = (np.sqrt(5) - 1) / 2
Order = Literal["golden", "linear"]


def angles_of(num: int, first: float = 0.0, span: float = 180.0, order: Order = "golden") -> Any:
    """Return angles (degrees) that fill a span.

    In golden order all that have been measured are always spread over the whole span, so that a
    slice can be shown from the first ones on; in linear order the end of the span is left out.

    Raises
    ------
    ValueError
        If there is less than one angle, or the order is unknown.
    """
    if num < 1:
        raise ValueError(f"num must be 1 or more, not {num}")
    steps = np.arange(num)
    if order == "golden":
        return first + span * np.mod(steps * GOLDEN, 1.0)
    if order == "linear":
        return first + span * steps / num
    raise ValueError(f"order must be 'golden' or 'linear', not {order!r}")


def tomography(
    plan: Callable[..., MsgGenerator[Any]],
    rotation: Any,
    num: int,
    *,
    first: float = 0.0,
    span: float = 180.0,
    order: Order = "golden",
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Measure a map, a run of its own, at each of `num` angles.

    The start documents have ``scan`` with ``tomography`` (uid of the whole), ``projection`` (from
    0), ``projections`` and ``angle`` (degrees) beside what the map says.

    Parameters
    ----------
    plan : callable
        Takes ``md``, and makes the map of one angle, such as
        ``partial(fly_map, [xspress3], panda, nx=41)``.
    rotation : motor
        Degrees.
    num : int
        Angles.
    first, span, order
        As of `angles_of`.
    md : mapping, optional
        More metadata of all runs.

    Returns
    -------
    list of str
        What the maps return: uids of the runs.

    Raises
    ------
    ValueError
        If there is less than one angle, or the order is unknown.
    """
    said = dict(md or {})
    whole = str(uuid.uuid4())
    made: list[Any] = []
    for projection, angle in enumerate(angles_of(num, first, span, order)):
        scan = {
            **{"tomography": whole, "projection": projection, "projections": num},
            **{"angle": float(angle), "order": order},
        }
        yield from bps.checkpoint()
        yield from bps.mv(rotation, float(angle))
        made.append((yield from plan(md={**said, "scan": {**scan, **said.get("scan", {})}})))
    return made
