"""Modalities that tests, and the workers that tests start, can import."""

import os
import signal
import time
from typing import Any

import numpy as np
from pydantic import Field

from p06bs import Input, Modality, ModalitySettings, Output


class Scale(Modality):
    """Multiply; fail where told to; make other outputs when told to."""

    x = Input(role="counter")

    class Settings(ModalitySettings):
        """Factor, and values that are refused."""

        factor: float = 2.0
        bad: tuple[float, ...] = ()
        flagged: tuple[float, ...] = ()
        square: bool = False
        limit: float = Field(1e9, gt=0, le=1e9)

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        made = {"y": Output(unit="1"), "n": Output(dtype="int64", unit="counts")}
        if settings.square:
            made["square"] = Output(unit="1")
        return made

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        x = columns["x"]
        if set(setup.bad) & set(x.tolist()):
            raise ValueError(f"cannot stand {sorted(set(setup.bad) & set(x.tolist()))}")
        made: dict[str, Any] = {"y": setup.factor * x, "n": x.astype(np.int64)}
        if setup.square:
            made["square"] = x * x
        if setup.flagged:
            made["invalid"] = ["flagged" if v in setup.flagged else "" for v in x.tolist()]
        return made


class Total(Modality):
    """Sum up from event to event: state that only acquisition order makes right."""

    x = Input(role="counter")

    class Settings(ModalitySettings):
        """What an event counts, and whether there is another output."""

        factor: float = 1.0
        square: bool = False

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        made = {"total": Output(unit="counts")}
        if settings.square:
            made["square"] = Output(unit="1")
        return made

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"x": setup.factor * columns["x"]}

    def scan(self, setup: Any, state: Any, columns: Any) -> Any:
        total = np.cumsum(columns["x"]) + (state or 0.0)
        made = {"total": total}
        if setup.square:
            made["square"] = total**2
        return float(total[-1]), made


class Deadly(Modality):
    """Kill the process that computes the value `poison`; take some time for the others."""

    x = Input(role="counter")

    class Settings(ModalitySettings):
        """What kills, and how slow it is."""

        poison: float = -1.0
        seconds: float = 0.0

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"y": Output(unit="1")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        if setup.poison in columns["x"].tolist():
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(setup.seconds * len(columns["x"]))
        return {"y": columns["x"] + 1}


class Brightness(Modality):
    """Sum frames, per count of a monitor if there is one."""

    frame = Input(role="image", dims=("y", "x"))
    monitor = Input(role="counter", optional=True)

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"sum": Output(dtype="int64"), "ratio": Output()}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        total = columns["frame"].sum(axis=(1, 2), dtype=np.int64)
        monitor = columns["monitor"]
        return {"sum": total, "ratio": total / (1.0 if monitor is None else monitor)}


class Fussy(Total):
    """Refuse settings in `prepare` only, where no validation sees it; wait for a file first."""

    class Settings(Total.Settings):
        """What is refused, and what is waited for."""

        start: float = 0.0
        wait_for: str = ""

    def prepare(self, settings: Any, bound: Any) -> Any:
        if settings.start < 0:
            raise ValueError(f"cannot start at {settings.start:g}")
        while settings.wait_for and not os.path.exists(settings.wait_for):
            time.sleep(0.01)
        return settings

    def scan(self, setup: Any, state: Any, columns: Any) -> Any:
        return super().scan(setup, setup.start if state is None else state, columns)


class Histogram(Scale):
    """Count values in bins over the whole run; with `wide` there are twice as many bins."""

    class Settings(Scale.Settings):
        """How many bins there are."""

        wide: bool = False

    def results(self, settings: Any, bound: Any) -> dict[str, Output]:
        bins = 16 if settings.wide else 8
        return {
            "counts": Output(unit="counts", dtype="int64", shape=(bins,), dims=("bin",)),
            "total": Output(unit="counts"),
        }

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        made = super().process(setup, **columns)
        good = np.array([not r for r in made.get("invalid", [""] * len(columns["x"]))], bool)
        bins = 16 if setup.wide else 8
        counts = np.bincount(columns["x"][good].astype(int) % bins, minlength=bins)
        return {**made, "part": {"counts": counts, "total": float(made["y"][good].sum())}}

    def fold(self, setup: Any, state: Any, part: Any) -> Any:
        return part if state is None else {k: state[k] + part[k] for k in part}


class Where(Modality):
    """Say which process computed an event, and which GPU that may use (-1: none)."""

    x = Input(role="counter")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"pid": Output(dtype="int64"), "gpu": Output(dtype="int64")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        count = len(columns["x"])
        gpu = int(os.environ.get("CUDA_VISIBLE_DEVICES", "-1"))
        return {"pid": np.full(count, os.getpid()), "gpu": np.full(count, gpu)}
