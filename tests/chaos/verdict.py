"""Compare all derived runs of a trial with what a fresh process computes from the raw logs.

``python -m tests.chaos.verdict LOGS`` prints a summary as JSON and ends with 1 if
anything is lost, double or different.
"""

import json
import sys
import traceback
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tests.chaos.techniques
import tests.techniques
from p06bs import config
from p06bs.bus.log import DocumentLog
from p06bs.model.documents import NamedDocument, is_derived
from p06bs.offline import Like
from tests.documents import rows_of
from tests.online import assert_equal

EXPECTED = {
    "step_scan": {"scale", "total", "histogram", "deadly", "brightness", "image_sum", "position"},
    "fly_map": {"counters", "region_sums"},
}
"""Which pipelines take a scan, by its plan."""


def verdict(directory: Path) -> dict[str, Any]:
    """Return what there is in a directory of logs, and what is wrong with it."""
    counts: Counter[str] = Counter()
    problems: list[str] = []
    with DocumentLog(directory) as log:
        runs = {uid: list(log.read(uid)) for uid in log.runs()}
    made: dict[tuple[str, str, int], list[str]] = defaultdict(list)
    raws = {uid: run for uid, run in runs.items() if not is_derived(run[0][1])}
    for uid, run in raws.items():
        counts["raw runs"] += 1
        counts["rewinds"] += _rewinds(run)
        counts["raw events"] += sum(name == "event" for name, _ in run)
        if run[-1][0] != "stop":
            problems.append(f"raw run {uid} has no end")
    for uid, run in runs.items():
        if uid in raws:
            continue
        like = Like.of(run)
        name = run[0][1]["process"]["name"]
        made[like.raw, name, like.reprocessing].append(uid)
        counts["derived runs"] += 1
        counts["computed again"] += like.reprocessing > 0
        counts["rows"] += len(rows_of(run))
        counts["changes"] += len(like.history)
        what = f"{name} of {like.raw}, number {like.reprocessing}, in {uid}"
        if run[-1][0] != "stop":
            problems.append(f"{what} has no end")
            continue
        modality = config.make_modality(like.modality, like.settings, like.inputs)
        try:
            upstream = [document for fed in like.upstream for document in runs[fed]]
            assert_equal(run, modality, raws[like.raw], upstream)
        except Exception as error:  # whatever it is, the others are looked at
            where = traceback.extract_tb(error.__traceback__)[-1].line
            problems.append(f"{what} differs: {where}: {type(error).__name__} {str(error)[:300]}")
    problems += [
        f"{name} of {raw}, number {number}, is there {len(uids)} times: {', '.join(uids)}"
        for (raw, name, number), uids in made.items()
        if len(uids) > 1
    ]
    for uid, run in raws.items():
        for name in EXPECTED[run[0][1]["plan_name"]]:
            if (uid, name, 0) not in made:
                problems.append(f"{name} of {uid} is lost")
    return {"counts": counts, "problems": problems}


def _rewinds(run: list[NamedDocument]) -> int:
    seqs = [document["seq_num"] for name, document in run if name == "event"]
    return sum(later <= earlier for earlier, later in pairwise(seqs))


def hurry() -> None:
    """Have modalities that pretend to be slow not be it: a reference need not take as long."""
    at_once = SimpleNamespace(sleep=lambda seconds: None)
    for module in (tests.techniques, tests.chaos.techniques):
        module.time = at_once  # type: ignore[attr-defined]


if __name__ == "__main__":
    hurry()
    found = verdict(Path(sys.argv[1]))
    print(json.dumps(found))
    sys.exit(bool(found["problems"]))
