"""Have detectors that write files survive that a point of a step scan is measured again.

A pause or a loss of beam during a point has the RunEngine go back to the point's begin. A detector
of ophyd-async knows nothing of it: the frame that it was taking is in its file, and would be
announced together with the next one, for one event, which bluesky refuses; and a file that was
about to be announced would never be.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from bluesky.protocols import Hints, Reading, StreamAsset, Triggerable, WritesStreamAssets
from bluesky.utils import Msg, MsgGenerator, ensure_generator, iterate_maybe_async, maybe_await
from event_model import DataKey

from p06bs.plans.preprocessors import replaced, subscribed

# It has no annotations of its own.
_generator: Callable[..., MsgGenerator[Any]] = ensure_generator


def without_superseded(plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
    """Return a plan whose files keep, but never announce, frames of points measured again.

    Their stream datums go on at the next index: indices may have gaps, events have none. It works
    on all detectors that are triggered and announce rows of files, simulated or real; flights pass
    unchanged. All plans of steps here have it; have those of bluesky itself, as the prompt does,
    with ``RE.preprocessors.append(without_superseded)``.
    """
    stand_ins: dict[Any, _StandIn] = {}
    announced: set[str] = set()

    def announce(name: str, document: dict[str, Any]) -> None:
        if name == "stream_resource":
            announced.add(document["uid"])

    def stand_in(device: Any) -> Any:
        if isinstance(device, _StandIn) or not (
            isinstance(device, WritesStreamAssets) and isinstance(device, Triggerable)
        ):
            return device
        return stand_ins.setdefault(device, _StandIn(device, announced))

    def replace(msg: Msg) -> Msg:
        if msg.command == "stage":
            stand_ins.pop(msg.obj, None)
        if msg.command == "trigger":
            return msg._replace(obj=stand_in(msg.obj))
        if msg.command in ("read", "configure"):
            return msg._replace(obj=stand_ins.get(msg.obj, msg.obj))
        if msg.command == "declare_stream" and not msg.kwargs.get("collect"):
            return msg._replace(args=tuple(stand_in(device) for device in msg.args))
        return msg

    changed = replaced(_generator(plan), replace)
    return (yield from subscribed(changed, announce))


class _StandIn:
    """A detector in its plan's messages, also in those that the RunEngine repeats.

    Parameters
    ----------
    detector : device
    announced : set of str
        Uids of the stream resources that are in the documents.
    """

    parent = None

    def __init__(self, detector: Any, announced: set[str]) -> None:
        self._detector = detector
        self._announced = announced
        self._resources: dict[str, Any] = {}
        self._unread: Any = None  # status of an exposure that nobody has read

    def trigger(self) -> Any:
        """Expose once; what was exposed before and not read is of no use any more."""
        if self._unread is None:
            self._unread = self._detector.trigger()
        else:
            from ophyd_async.core import AsyncStatus

            self._unread = AsyncStatus(self._expose_again(self._unread))
        return self._unread

    async def _expose_again(self, unread: Any) -> None:
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        unread.add_callback(lambda _: loop.call_soon_threadsafe(done.set))
        await done.wait()  # the RunEngine was told if it failed
        async for _ in self._collect():
            pass
        await self._detector.trigger()

    async def collect_asset_docs(self, index: int | None = None) -> AsyncIterator[StreamAsset]:
        """Yield what the detector announces, and again resources that got lost before."""
        datums = [datum async for datum in self._collect(index)]
        self._unread = None
        for uid, resource in self._resources.items():
            if uid not in self._announced:
                yield "stream_resource", resource
        for datum in datums:
            yield "stream_datum", datum

    async def _collect(self, index: int | None = None) -> AsyncIterator[Any]:
        """Keep stream resources, and yield stream datums."""
        async for name, document in iterate_maybe_async(self._detector.collect_asset_docs(index)):
            if name == "stream_resource":
                self._resources[document["uid"]] = document
            else:
                yield document

    @property
    def name(self) -> str:
        """The detector's."""
        return str(self._detector.name)

    @property
    def hints(self) -> Hints:
        """The detector's."""
        return getattr(self._detector, "hints", Hints())

    async def get_index(self) -> int:
        """Return how many rows are written."""
        return int(await maybe_await(self._detector.get_index()))

    async def read(self) -> dict[str, Reading[Any]]:
        """Read the detector."""
        return dict(await maybe_await(self._detector.read()))

    async def describe(self) -> dict[str, DataKey]:
        """Describe what is read, and what is in files."""
        return dict(await maybe_await(self._detector.describe()))

    async def read_configuration(self) -> dict[str, Reading[Any]]:
        """Read the configuration."""
        return dict(await maybe_await(self._detector.read_configuration()))

    async def describe_configuration(self) -> dict[str, DataKey]:
        """Describe the configuration."""
        return dict(await maybe_await(self._detector.describe_configuration()))

    def configure(self, *args: Any, **kwargs: Any) -> Any:
        """Configure the detector."""
        return self._detector.configure(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._detector)
