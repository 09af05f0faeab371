"""Tomography: a map at each angle of the sample."""

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import bluesky.plan_stubs as bps
import numpy as np
from bluesky.utils import MsgGenerator

from p06bs.plans import _arguments

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
    _arguments.counts(num=num)
    _arguments.finite(first=first, span=span)
    if span == 0 and num > 1:
        raise ValueError(f"{num} angles need a span that is not 0")
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
    whole = Whole(str(uuid.uuid4()), num, first, span, order)
    return (yield from _from(0, whole, plan, rotation, md))


def resume_tomography(
    plan: Callable[..., MsgGenerator[Any]],
    rotation: Any,
    last: Mapping[str, Any],
    *,
    md: Mapping[str, Any] | None = None,
) -> MsgGenerator[Any]:
    """Go on with a tomography that was ended early, at the angle where it ended.

    The further runs belong to the same whole. An angle whose run is not complete is measured
    again: of two runs with one ``projection`` the later counts.

    Parameters
    ----------
    plan, rotation, md
        As of `tomography`; the plan should make the same map.
    last : mapping
        What is known of the last run: its ``start`` document, and the ``stop`` document if there
        is one, as ``run.metadata`` of Tiled and databroker has them.

    Returns
    -------
    list of str
        What the maps return: uids of the further runs.

    Raises
    ------
    ValueError
        If the run is not of a tomography, or this is complete.
    """
    start, stop = last.get("start") or {}, last.get("stop") or {}
    scan = start.get("scan") or {}
    try:
        whole = Whole(**{name: scan[key] for name, key in SAID.items()})
        projection = int(scan["projection"])
    except (KeyError, TypeError) as missing:
        raise ValueError(
            f"run {start.get('uid', 'without a start document')} is not of a tomography: "
            f"its scan does not say {missing}"
        ) from missing
    points = (stop.get("num_events") or {}).get("primary", 0)
    if stop.get("exit_status") == "success" and points >= start.get("num_points", 0):
        projection += 1
    if projection >= whole.num:
        raise ValueError(f"all {whole.num} angles of tomography {whole.uid} are measured")
    return (yield from _from(projection, whole, plan, rotation, md))


@dataclass(frozen=True)
class Whole:
    """A tomography, as the start documents of its runs say it under the names of `SAID`."""

    uid: str
    num: int
    first: float
    span: float
    order: Order


SAID = {
    "uid": "tomography",
    "num": "projections",
    "first": "first_angle",
    "span": "span",
    "order": "order",
}
"""Fields of `Whole` -> those of ``start["scan"]``."""


def _from(
    begin: int,
    whole: Whole,
    plan: Callable[..., MsgGenerator[Any]],
    rotation: Any,
    md: Mapping[str, Any] | None,
) -> MsgGenerator[Any]:
    """Measure from projection `begin` on."""
    said = dict(md or {})
    angles = angles_of(whole.num, whole.first, whole.span, whole.order)
    made: list[Any] = []
    for projection in range(begin, whole.num):
        angle = float(angles[projection])
        scan = {key: getattr(whole, name) for name, key in SAID.items()}
        scan |= {"projection": projection, "angle": angle, **said.get("scan", {})}
        yield from bps.checkpoint()
        yield from bps.mv(rotation, angle)
        made.append((yield from plan(md={**said, "scan": scan})))
    return made
