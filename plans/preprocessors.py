"""Bluesky's preprocessors with the annotations that they lack."""

from collections.abc import Callable, Iterator
from typing import Any

import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator

in_run: Callable[..., MsgGenerator[str]] = bpp.run_wrapper
mutated: Callable[..., MsgGenerator[Any]] = bpp.plan_mutator
replaced: Callable[..., MsgGenerator[Any]] = bpp.msg_mutator
staged: Callable[..., MsgGenerator[str]] = bpp.stage_wrapper
subscribed: Callable[..., MsgGenerator[Any]] = bpp.subs_wrapper


def before(first: Iterator[Msg], msg: Msg) -> Iterator[Msg]:
    """Do something before a message: what a mutator returns in its place."""
    yield from first
    return (yield msg)
