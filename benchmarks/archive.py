"""The offline DB with 100 000 runs: a query and a page of results, over HTTP, on both databases.

Beside it, in the same repetition, Tiled's own search in the metadata of the same catalog.
"""

import contextlib
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from benchmarks.report import Row, ratios, turns
from p06bs.server.access.policy import FolderAccess, Visible
from p06bs.server.access.viewers import Viewers
from p06bs.server.app import build_app
from p06bs.server.archive.archived import Archive
from p06bs.server.archive.catalog import Log, RunRecord, put_runs, tidy
from p06bs.server.archive.database import Database, initialize
from p06bs.server.files.roots import FileRoots
from p06bs.server.sink.sink import Sink
from tests.live_server import serving
from tests.postgres import binaries, cluster

REPEAT = 9
RUNS_COUNT = 100_000
FOLDERS = tuple(f"/gpfs/current/{number}" for number in range(1_000))
BATCH = 5_000
KEY = "k3y"
PAGE = 20
CACHED = 30.0
"""For so long an answer about rights counts, s: the server's default."""

QUERIES: Mapping[str, str] = {
    "newest page": "sort=-start.time",
    "plan_name ==": "filter[eq][condition][key]=start.plan_name"
    '&filter[eq][condition][value]="scan"',
    "scan_id ==": "filter[eq][condition][key]=start.scan_id&filter[eq][condition][value]=5000",
    "sample.elements contains": "filter[contains][condition][key]=start.sample.elements"
    '&filter[contains][condition][value]="As"',
    "time >=": "filter[comparison][condition][operator]=ge"
    "&filter[comparison][condition][key]=start.time"
    "&filter[comparison][condition][value]=1609000000",
}
TEXT = "filter[fulltext][condition][text]="
STOCK = 'filter[eq][condition][key]=start.operator&filter[eq][condition][value]="Ada Lovelace"'
"""A field that is in the metadata only."""


def measure(repeat: int, seconds: float) -> list[Row]:
    """Measure on SQLite, and on PostgreSQL where it is installed."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as directory:
        rows += _on("SQLite", f"sqlite:///{directory}/catalog.db", Path(directory), repeat)
        if binaries() is None:
            print("  PostgreSQL is not on this machine: not measured")
            return rows
        with cluster() as postgres:
            rows += _on("PostgreSQL", postgres.database(), Path(directory), repeat)
    return rows


def _on(name: str, uri: str, storage: Path, repeat: int) -> list[Row]:
    initialize(uri)
    with Database(uri) as database:
        rng = random.Random(0)
        begun = time.perf_counter()
        for first in range(0, RUNS_COUNT, BATCH):
            records = _records(rng, first, min(BATCH, RUNS_COUNT - first), storage)
            database(put_runs, records)
        database.run(tidy)
    speed = RUNS_COUNT / (time.perf_counter() - begun)
    rows = [Row(f"{name}: runs put into the database", "1/s", (speed,))]
    common = {**QUERIES, "full text, rare": f"{TEXT}word-777", "full text, common": f"{TEXT}Ada"}
    for who, share in (("all folders", 1), ("1 % of the folders", 100)):
        with _served(uri, storage, frozenset(FOLDERS[::share])) as ask:
            found: dict[str, list[float]] = {key: [] for key in (*common, "stock")}
            for query in turns(list(found), repeat):
                found[query].append(ask(common.get(query, STOCK)))
        for query in common:
            goal = 100.0 if "text" in query and name == "PostgreSQL" else 50.0
            held = None if "text" in query and name == "SQLite" else goal
            values = tuple(found[query])
            rows.append(Row(f"{name}, {who}: {query}", "ms", values, at_most=held))
        times = ratios(found["stock"], found["plan_name =="])
        rows.append(Row(f"{name}, {who}: Tiled's own search, time of ours", "", times))
    return rows


class _Rights:
    """Rights of somebody who may see the runs of some folders."""

    def __init__(self, folders: frozenset[str]) -> None:
        self._folders = folders

    def visible(self, user: str, folders: Iterable[str]) -> frozenset[str]:
        return self._folders & frozenset(folders)

    def describe(self) -> str:
        return f"{len(self._folders)} folders"


class _Policy(FolderAccess):
    """The server's policy, for one viewer whoever asks."""

    def __init__(self, folders: frozenset[str]) -> None:
        self._viewer = Viewers(_Rights(folders), CACHED).viewer_for("ada")

    async def filters(self, node: Any, *rest: Any) -> Any:
        return [Visible(self._viewer)] if hasattr(node, "viewer") else []

    async def allowed_scopes(self, node: Any, *rest: Any) -> Any:
        return {"read:metadata", "read:data"}


@contextlib.contextmanager
def _served(uri: str, storage: Path, folders: frozenset[str]) -> Iterator[Any]:
    """Yield what asks the real server for a page; returns the time that takes, ms."""
    archive = Archive(uri, storage, FileRoots())
    app = build_app(Sink(10_000_000), KEY, archive=archive, policy=_Policy(folders))
    headers = {"Authorization": f"Apikey {KEY}", "Accept": "application/x-msgpack"}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as client:

        def ask(query: str) -> float:
            begun = time.perf_counter()
            answer = client.get(f"/api/v1/search/archive?{query}&page[limit]={PAGE}")
            answer.raise_for_status()
            return 1000 * (time.perf_counter() - begun)

        statistics.median(ask(QUERIES["newest page"]) for _ in range(3))  # connects, compiles
        yield ask


def _records(rng: random.Random, first: int, count: int, storage: Path) -> list[RunRecord]:
    """Return runs as the ingestion shows them; they have no files."""
    records = []
    for number in range(first, first + count):
        start = _start(number, rng, FOLDERS[number // 100 % len(FOLDERS)])
        stop = {"exit_status": "abort" if number % 10 == 0 else "success", "time": start["time"]}
        log = Log(start["uid"], "complete", 0, 0, 1)
        metadata = {"start": start, "stop": stop}
        directory = storage / start["uid"]
        records.append(RunRecord(log, metadata, ["primary"], number % 2 == 0, directory))
    return records


def _start(number: int, rng: random.Random, folder: str) -> dict[str, Any]:
    """Return a start document of about 1.5 kB of JSON."""
    return {
        "uid": str(uuid.UUID(int=rng.getrandbits(128))),
        "time": 1.6e9 + 100.0 * number,
        "scan_id": number,
        "plan_name": rng.choice(["scan", "count", "grid_scan", "fly_map", "tomo"]),
        "beamtime_id": str(11_000_000 + number // 100),
        "proposal_id": f"I-{number // 300}",
        "beamtime_folder": folder,
        "sample": {
            "name": f"sample {number // 20}",
            "uid": f"s{number // 20}",
            "elements": rng.sample(["Fe", "Cu", "Zn", "Ca", "K", "Ti", "Mn", "As", "Pb"], 3),
        },
        "scan": {"kind": rng.choice(["step", "fly"]), "shape": [101, 101]},
        "technique": rng.choice(["xrf", "xrd", "ptycho", "tomo"]),
        "endstation": rng.choice(["micro", "nano"]),
        "operator": rng.choice(["Ada Lovelace", "Lise Meitner", "Emmy Noether"]),
        "note": " ".join(f"word-{rng.randrange(3000)}" for _ in range(30)),
        "plan_args": {"args": [rng.random() for _ in range(20)]},
        "motors": ["x", "y"],
    }
