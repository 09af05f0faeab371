"""Put all that is known into the documents of every run of a RunEngine.

The start document gets what runs are found by, and what fits; the stream ``baseline`` has
every value of every device, and ``metadata-record``: all that was gathered, as JSON. What is
missing or slow is named in ``metadata_warnings``; it never keeps a scan from running.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import bluesky.plan_stubs as bps
import bluesky.preprocessors as bpp
from bluesky.utils import Msg, MsgGenerator

from p06bs.metadata.beamtime import public
from p06bs.metadata.gathering import NAME, Gathered, Settings, Sources, merged
from p06bs.metadata.patience import Patience
from p06bs.metadata.plain import as_json, plain
from p06bs.metadata.records import checked
from p06bs.metadata.size import fitted
from p06bs.metadata.snapshot import Snapshot

# They have no annotations of their own.
_mutated: Callable[..., MsgGenerator[Any]] = bpp.plan_mutator
_keyed: Callable[..., Iterator[Msg]] = bpp.set_run_key_wrapper

logger = logging.getLogger(__name__)

STREAM = "baseline"
MOST_WARNINGS = 8
"""So many are in the start document; all of them are in the baseline."""
LONGEST_WARNING = 200


class MetadataRecorder:
    """Record metadata and a baseline with every run of a RunEngine.

    It takes the place of bluesky's `SupplementalData`: ``recorder.baseline`` is the list of
    devices that are read at the beginning and at the end of each run.

    Parameters
    ----------
    baseline : sequence of devices
        All of them: of those that only fly or write files, the configuration is recorded.
    missing : mapping of str to str, optional
        Devices that should be there -> why they are not: a warning of each run.
    sources : mapping of str to str
        Field of the start document -> data key of a device, such as
        ``{"ring.current": "ring-current"}``; the device says the unit.
    beamtime : Path, optional
        File ``beamtime-metadata-<id>.json``, or a folder that has one; read at every run.
    settings : callable, optional
        Returns the settings of the pipelines that are in force. Called in a thread.
    seconds : float
        How long one answer of a device, the file or the settings may take.
    """

    def __init__(
        self,
        baseline: Sequence[Any] = (),
        *,
        missing: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
        beamtime: Path | None = None,
        settings: Callable[[], Settings] | None = None,
        seconds: float = 2.0,
    ) -> None:
        self.baseline = list(baseline)
        self.missing = dict(missing or {})
        self.sources = dict(sources or {})
        self.beamtime = beamtime
        self.settings = settings
        self._patience = Patience(seconds)
        self._opening: Gathered | None = None
        self._warned: list[str] = []  # of the last run: not to be said with every run again
        self._normalize: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict

    def install(self, engine: Any) -> None:
        """Work on every run of a RunEngine from now on; once for one RunEngine."""
        self._normalize, engine.md_normalizer = engine.md_normalizer, self.normalize
        engine.preprocessors.append(self)

    def __call__(self, plan: MsgGenerator[Any]) -> MsgGenerator[Any]:
        """Return a plan whose runs have their metadata and their baseline."""
        going: dict[Any, Gathered] = {}

        def insert(msg: Msg) -> tuple[Any, Any]:
            if msg.command == "open_run":
                return self._opened(msg, going), None
            if msg.command == "close_run" and msg.run in going:
                return self._closed(msg, going.pop(msg.run)), None
            return None, None

        return (yield from _mutated(plan, insert))

    def normalize(self, start: Mapping[str, Any]) -> dict[str, Any]:
        """Return the start document of a run that opens: what is said over what was gathered.

        The `md_normalizer` of the RunEngine: it sees all that users and plans have said.
        """
        known = self._opening or Gathered()
        hidden: list[str] = []
        known.fields = public(plain(merged(known.fields, self._normalize(start))), hidden)
        if hidden:
            known.warnings.append(f"left out, for it sounds like a secret: {_some(hidden)}")
        document, problems = checked(known.fields)
        known.warnings += problems
        document, lost = fitted(document | _warned(known.warnings))
        if lost:
            known.warnings.append(f"in the baseline only, for lack of space: {_some(lost)}")
            document, _ = fitted(document | _warned(known.warnings))
        return document

    def __repr__(self) -> str:
        missing = ", ".join(self.missing) or "none"
        file = self.beamtime or "none"
        return f"<metadata of {len(self.baseline)} devices; missing: {missing}; beamtime: {file}>"

    @property
    def _sources(self) -> Sources:
        return Sources(
            tuple(self.baseline),
            self.missing,
            self.sources,
            self.beamtime,
            self.settings,
            self._patience,
        )

    def _opened(self, msg: Msg, going: dict[Any, Gathered]) -> Iterator[Msg]:
        known = Gathered()
        yield from bps.wait_for([_once(lambda: self._sources.gather(known))])
        self._opening = known
        try:
            uid = yield msg
        finally:
            self._opening = None
        going[msg.run] = known
        for warning in known.warnings:
            if warning not in self._warned:
                logger.warning("%s", warning)
        self._warned = list(known.warnings)
        held = _held(known)
        yield from _in_run(msg, bps.declare_stream(*known.snapshots, held, name=STREAM))
        yield from _in_run(msg, _reading([*known.snapshots, held]))
        known.snapshots.append(held)
        return uid

    def _closed(self, msg: Msg, known: Gathered) -> Iterator[Msg]:
        *_, held = known.snapshots
        yield from bps.wait_for([_once(lambda: self._sources.look_again(known))])
        held.update(_held(known))
        yield from _in_run(msg, _reading(known.snapshots))
        yield from bps.checkpoint()  # no later pause repeats what belongs into a closed run
        return (yield msg)


def _once(ask: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], asyncio.Future[None]]:
    """Return what a message waits for: when a pause repeats it, for what was asked the first time.

    Messages that read what was gathered are repeated, too, and must find the same devices.
    """
    return cache(lambda: asyncio.ensure_future(ask()))


def _held(known: Gathered) -> Snapshot:
    """Return what is known as if a device had said it."""
    said = {
        "record": as_json(known.fields),
        "analysis_settings": as_json(known.settings),
        "warnings": as_json(known.warnings),
    }
    now = time.time()
    return Snapshot(
        NAME,
        {
            f"{NAME}-{key}": {"source": f"p06bs://{key}", "dtype": "string", "shape": []}
            for key in said
        },
        {f"{NAME}-{key}": {"value": text, "timestamp": now} for key, text in said.items()},
    )


def _reading(snapshots: Iterable[Snapshot]) -> Iterator[Msg]:
    yield from bps.create(STREAM)
    for one in snapshots:
        yield from bps.read(one)
    yield from bps.save()


def _in_run(msg: Msg, plan: Iterator[Msg]) -> Iterator[Msg]:
    return plan if msg.run is None else _keyed(plan, msg.run)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _warned(warnings: Sequence[str]) -> dict[str, Any]:
    if not warnings:
        return {}
    first = [text[:LONGEST_WARNING] for text in warnings[:MOST_WARNINGS]]
    if more := len(warnings) - len(first):
        first.append(f"and {more} more, see the baseline")
    return {"metadata_warnings": first}
