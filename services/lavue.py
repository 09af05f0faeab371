"""The newest scan in DESY's LaVue: maps and curves, raw and derived, while it runs.

A bridge holds the newest runs in a sink of its own, and makes its maps as the server does.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import AfterValidator, Field

from p06bs import config
from p06bs.bus.metrics import Measure
from p06bs.bus.service import Service, Surroundings
from p06bs.config.base import Bytes, Listening

if TYPE_CHECKING:
    from p06bs.adapters.lavue import PictureSocket
    from p06bs.adapters.lavue_programme import Programme, Show
    from p06bs.model.documents import Document
    from p06bs.server.sink.held import Change
    from p06bs.server.sink.sink import Sink
    from p06bs.services._pictures import Pictures, Showable

logger = logging.getLogger(__name__)

RUNS = 100
"""So many of the newest logs are read at the start, and fewer if the budget is full."""
LOOK_SECONDS = 0.2
"""Interval at which it is looked for what became new, and for the order to stop."""


def _tcp(address: str) -> str:
    if not address.startswith("tcp://"):
        raise ValueError(f"{address!r} is not tcp://host:port, which is all that LaVue knows")
    return address


class LavueDefinition(config.Definition):
    """The table of a bridge to LaVue."""

    address: Annotated[Listening, AfterValidator(_tcp)] = Field(
        "tcp://127.0.0.1:5590",
        description="where LaVue connects to; on this host only: LaVue has no keys",
    )
    rate: float = Field(3.0, ge=0.1, le=4.0, description="pictures per second of each map")
    patience: float = Field(
        30.0,
        ge=0,
        description="seconds for which a map of the scan before stays in the list, if nothing "
        "has made it of the newest scan yet",
    )
    budget: Bytes = Field(256_000_000, description="bytes of memory for the newest runs")
    assets: tuple[Path, ...] = Field(
        (), description="directories under which detector files are read; everywhere, if empty"
    )


class LavueService(Service[LavueDefinition]):
    """A bridge to LaVue: found as ``lavue``."""

    Definition = LavueDefinition

    def __init__(self, name: str, definition: LavueDefinition, here: Surroundings) -> None:
        super().__init__(name, definition, here)
        self._stop = threading.Event()
        self._address = ""
        self._topics: tuple[str, ...] = ()
        self._sent = count()
        self._frames = 0
        self._failed = threading.Event()
        self._unreadable: set[str] = set()

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where LaVue connects to."""
        return {"lavue": self._address}

    @property
    def checks(self) -> Mapping[str, Callable[[], bool]]:
        """Whether documents still come."""
        return {"feed": lambda: not self._failed.is_set()}

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Pictures offered, and sent."""
        return (
            Measure("lavue_topics", "Pictures offered", lambda: len(self._topics)),
            Measure("lavue_frames", "Pictures sent", lambda: self._frames, "counter"),
        )

    @property
    def verbs(self) -> Mapping[str, Callable[..., Any]]:
        """The list of topics."""
        return {"topics": lambda: list(self._topics)}

    def run(self, ready: Callable[[], None]) -> None:
        """Send pictures until it is told to stop.

        Raises
        ------
        OSError
            If its address is in use, or the documents stop coming.
        """
        import zmq

        from p06bs.adapters.lavue import PictureSocket
        from p06bs.adapters.lavue_programme import Programme
        from p06bs.bus.follow import Follower
        from p06bs.bus.log import DocumentLog
        from p06bs.server.files.roots import FileRoots
        from p06bs.server.sink.feed import Feed, Placed
        from p06bs.server.sink.sink import Sink
        from p06bs.services._pictures import Pictures

        here, definition = self.here, self.definition
        sink = Sink(definition.budget, roots=FileRoots(definition.assets or None))
        with ExitStack() as stack:
            try:
                socket = stack.enter_context(PictureSocket(definition.address))
            except zmq.ZMQError as error:
                raise OSError(f"{definition.address}: {error}") from error
            log = stack.enter_context(DocumentLog(here.log))

            def more() -> bool:
                return len(sink) < RUNS and not sink.filled

            follower = Follower(here.outbound, log, more=more, arrays=False, keys=here.keys)
            feed = Feed(Placed(follower), sink, failed=self._failed.set)
            stack.callback(feed.close)
            self._address = socket.address
            logger.info("LaVue: p06bs lavue says how to start it; it connects to %s", self._address)
            ready()
            programme = Programme(definition.rate, patience=definition.patience)
            self._send(socket, programme, Offers(sink, Pictures(sink)))
        if self._failed.is_set():
            raise OSError("the documents stopped coming")  # the feed has said why

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def _send(self, socket: "PictureSocket", programme: "Programme", offers: "Offers") -> None:
        from p06bs.adapters.lavue import listing

        looked = float("-inf")
        while not self._stop.is_set() and not self._failed.is_set():
            now = time.monotonic()
            if now >= looked + LOOK_SECONDS:
                looked = now
                programme.offer(offers.look(), now)
                if programme.topics != self._topics:
                    self._topics = programme.topics
                    logger.debug("LaVue is offered %s", ", ".join(self._topics))
            due = programme.due(now)
            if due.listing:
                socket.send(listing(self._topics))
            for topic in due.topics:
                self._send_picture(socket, topic, programme.shows[topic])
            until = min(programme.wake_at(now), looked + LOOK_SECONDS)
            for wanted, beginning in socket.wishes(until - time.monotonic()):
                (programme.want if wanted else programme.unwant)(beginning)

    def _send_picture(self, socket: "PictureSocket", topic: str, show: "Show") -> None:
        from p06bs.adapters.lavue import frame
        from p06bs.services._pictures import UNREADABLE

        shown, scan = cast("tuple[Showable, str]", show.key)
        try:
            picture = shown.look()
        except UNREADABLE as error:  # it has left the sink, or its file is late
            if topic not in self._unreadable:
                logger.info("%s cannot be shown at present: %r", topic, error)
            self._unreadable.add(topic)
            return
        self._unreadable.discard(topic)
        unit = f" ({picture.unit})" if picture.unit else ""
        name = (
            f"{show.source} {show.name}{unit}, {scan}, {picture.rows} points, "
            f"picture {next(self._sent)}"
        )
        socket.send(frame(topic, picture, name, self._topics))
        self._frames += 1


class Offers:
    """What can be shown of the newest scans in a sink; looked at anew where something changed."""

    def __init__(self, sink: "Sink", pictures: "Pictures") -> None:
        self._sink = sink
        self._pictures = pictures
        self._lock = threading.Lock()  # of `_changed`, which the feed adds to
        self._changed: dict[str, bool] = {}  # run -> whether it is gone
        self._known: dict[str, dict[str, list[Showable]]] = {}  # raw run -> each of its scan
        self._odd: set[str] = set()
        sink.subscribe(self._note)

    def look(self) -> "list[Show]":
        """Return what can be shown of the newest scans: of the last of which there is something,
        and of the one before.
        """
        from p06bs.adapters.lavue_programme import Show
        from p06bs.model.scan import of_scan, title_of

        with self._lock:
            changed, self._changed = self._changed, {}
        for uid in (uid for uid, gone in changed.items() if gone):
            self._odd.discard(uid)
            self._pictures.forget(uid)
        shows: list[Show] = []
        scans = 0
        before, self._known = self._known, {}
        for raw, starts in self._scans():
            uids = [start["uid"] for start in starts]
            known = before.get(raw["uid"], {})
            # Where rows of a run lie may depend on any other of its scan, there or gone.
            if known.keys() != set(uids) or not changed.keys().isdisjoint(uids):
                known = {uid: self._of(uid) for uid in uids}
            self._known[raw["uid"]] = known
            for start in starts:
                with suppress(KeyError):  # it has left meanwhile
                    self._sink.touch(start["uid"])
            found = [
                Show(raw["uid"], raw["time"], source, one.name, one.rank, (one, title_of(raw)))
                for _, source, one in of_scan(starts, known.__getitem__)
            ]
            shows += found
            scans += bool(found)
            if scans == 2:
                break
        return shows

    def _note(self, change: "Change") -> None:
        with self._lock:
            self._changed[change.run] = change.kind == "gone"

    def _scans(self) -> "Iterator[tuple[Document, list[Document]]]":
        """Yield the raw start document and all of each scan, from the newest scan on."""
        from p06bs.model.documents import is_derived

        scans: dict[str, list[Document]] = {}
        for uid in self._sink.runs():
            try:
                start = self._sink.documents(uid)[0]["start"]
            except KeyError:  # it has left meanwhile
                continue
            derived = is_derived(start)
            scans.setdefault(start["original_run_uid"] if derived else uid, []).append(start)
        found = []
        for scan, starts in scans.items():
            raw = next((start for start in starts if start["uid"] == scan), None)
            if raw is not None:  # without it nobody knows how new the scan is
                found.append((raw, starts))
        found.sort(key=lambda one: (one[0]["time"], one[0]["uid"]), reverse=True)
        yield from found

    def _of(self, uid: str) -> "list[Showable]":
        from p06bs.services._pictures import UNREADABLE

        try:
            return self._pictures.of(uid)
        except UNREADABLE as error:
            if uid not in self._odd:
                logger.warning("nothing can be shown of run %s: %r", uid, error)
            self._odd.add(uid)
            return []
