"""What happens when in a trial: a plain list, made of a seed alone."""

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

FAULTS: dict[tuple[str, str], int] = {
    ("kill", "worker"): 12,
    ("kill", "pipelines"): 4,
    ("kill", "frames"): 4,
    ("kill", "proxy"): 3,
    ("kill", "topology"): 3,
    ("kill", "server"): 2,
    ("kill", "archive"): 2,
    ("freeze", "worker"): 4,
    ("freeze", "pipelines"): 2,
    ("freeze", "frames"): 2,
    ("freeze", "proxy"): 2,
    ("freeze", "topology"): 1,
    ("freeze", "server"): 1,
    ("freeze", "archive"): 1,
    ("fill", "disk"): 4,
    ("take port", "proxy"): 2,
    ("take port", "topology"): 1,
    ("take port", "server"): 1,
}
"""Kinds of faults, and how often each comes. Those that cost a process seconds come less often."""

SECONDS = {"kill": (0.0, 0.0), "freeze": (0.2, 6.0), "fill": (0.3, 4.0), "take port": (0.5, 4.0)}
"""How long they last."""

LONG = (21.0, 28.0)
"""How long some processes are stopped: silent workers are replaced meanwhile."""

WORKING = ("worker", "pipelines", "frames")
"""What computes."""

CHANGES: dict[str, tuple[dict[str, Any], ...]] = {
    "scale": ({"factor": 3.0}, {"factor": 5.0}, {"square": True}, {"square": False}),
    "total": ({"factor": 2.0}, {"factor": 1.0}, {"square": True}, {"square": False}),
    "histogram": ({"wide": True}, {"wide": False}, {"factor": 4.0}),
    "deadly": ({"seconds": 0.004}, {"seconds": 0.03}, {"seconds": 0.015}),
    "image_sum": ({"factor": 2}, {"factor": 7}, {"halves": True}, {"halves": False}),
}
"""Settings that are asked for, by pipeline; some change the outputs."""

REFUSED = {"limit": -1.0}
"""Settings that `scale` refuses."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens.

    Attributes
    ----------
    after : float
        Seconds since the step before.
    kind : str
        That of a fault (see `FAULTS`), or ``change``, ``pause`` or ``suspend``.
    target : str
        What is hit: a service, the pipeline whose settings change, the scan.
    seconds : float
        How long it lasts.
    pick : float
        Which one is hit where there are several, from 0 to 1.
    values : dict, optional
        Settings.
    reprocess : bool
        Whether the events so far are computed again.
    at_work : bool
        Whether what is hit had better have batches to compute just then.
    """

    after: float
    kind: str
    target: str
    seconds: float = 0.0
    pick: float = 0.0
    values: dict[str, Any] | None = None
    reprocess: bool = False
    at_work: bool = False

    @property
    def fault(self) -> tuple[str, str]:
        """Its kind among `FAULTS`, if it is one."""
        return self.kind, self.target


def schedule(seed: int, faults: int, gap: float, without: Collection[str] = ()) -> list[Step]:
    """Return the steps of a trial.

    Parameters
    ----------
    seed : int
        Equal seeds, equal steps.
    faults : int
        Number of faults. Where it is enough for all kinds, each comes at least once.
    gap : float
        Mean seconds between two faults.
    without : collection of str
        Kinds that cannot be had.
    """
    dice = random.Random(seed)
    kinds = {fault: weight for fault, weight in FAULTS.items() if fault[0] not in without}
    chosen = dice.sample(list(kinds), min(faults, len(kinds)))
    chosen += dice.choices(list(kinds), list(kinds.values()), k=faults - len(chosen))
    dice.shuffle(chosen)
    steps: list[Step] = []
    for kind, target in chosen:
        long = kind == "freeze" and dice.random() < 0.1
        lasts = round(dice.uniform(*(LONG if long else SECONDS[kind])), 2)
        wait = round(dice.uniform(0.0, 2.0 * gap), 2)
        at_work = target in WORKING and kind == "kill" and dice.random() < 0.5
        pick = round(dice.random(), 3)
        steps.append(Step(wait, kind, target, lasts, pick, at_work=at_work))
        steps += _meanwhile(dice)
    return steps


def _meanwhile(dice: random.Random) -> list[Step]:
    """Return what else happens after a fault: it is what faults are to disturb."""
    steps = []
    if dice.random() < 0.5:
        pipeline = dice.choice(list(CHANGES))
        refuse = pipeline == "scale" and dice.random() < 0.15
        values = REFUSED if refuse else dice.choice(CHANGES[pipeline])
        again = dice.random() < 0.1
        wait = round(dice.uniform(0.0, 0.5), 2)
        steps.append(Step(wait, "change", pipeline, values=values, reprocess=again))
    if dice.random() < 0.2:
        steps.append(Step(0.1, "pause", "scan", round(dice.uniform(0.1, 1.0), 2)))
    if dice.random() < 0.15:
        steps.append(Step(0.1, "suspend", "scan", round(dice.uniform(0.1, 1.0), 2)))
    return steps
