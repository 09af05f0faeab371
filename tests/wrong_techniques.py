"""Modalities that break one rule each; ``p06bs check`` must find it."""

from typing import Any

import numpy as np

from p06bs import Input, Modality, ModalitySettings, Output

made = np.random.default_rng(0)


class Right(Modality):
    """The base of them all, with which nothing is wrong."""

    x = Input(role="counter")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"y": Output()}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": columns["x"] * 2}


class Writes(Right):
    """Write into its input."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        columns["x"] *= 2
        return {"y": columns["x"]}


class Forces(Right):
    """Write into its input, although it is read-only."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        columns["x"].base.flags.writeable = True
        columns["x"].flags.writeable = True
        columns["x"][0] += 1
        return {"y": np.zeros(len(columns["x"]))}


class Averages(Right):
    """Subtract the mean of the batch."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": columns["x"] - columns["x"].mean()}


class Random(Right):
    """Never the same twice."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": made.normal(size=len(columns["x"]))}


class Undeclared(Right):
    """Return more than it declares."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": columns["x"], "z": columns["x"]}


class Misshapen(Right):
    """Return a column of another shape."""

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": columns["x"][:, None]}


class Drifts(Right):
    """Remember events from batch to batch without saying so."""

    total = 0.0

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        self.total += 1
        return {"y": columns["x"] + self.total}


class Scans(Right):
    """Return more from scan than it declares."""

    def scan(self, setup: Any, state: Any, columns: Any) -> Any:
        return state, {"y": columns["y"], "z": columns["y"]}


class Needy(Right):
    """Need what it calls optional."""

    more = Input(role="other", optional=True)

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": columns["x"] + columns["more"]}


class Prepares(Needy):
    """Need it before the first event."""

    def prepare(self, settings: Any, bound: Any) -> Any:
        return bound["more"]


class Refuses(Right):
    """Cannot say what it makes."""

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        raise NotImplementedError("not yet")


class Forgets(Right):
    """Have settings that are others when they come back from JSON."""

    class Settings(ModalitySettings):
        """A number that grows with each validation."""

        number: float = 1.0

        def model_post_init(self, context: Any) -> None:
            object.__setattr__(self, "number", self.number + 1)


class Folds(Modality):
    """Fold in a way that depends on how batches are cut."""

    x = Input(role="counter")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"y": Output()}

    def results(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"mean": Output()}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"y": columns["x"], "part": columns["x"].mean()}

    def fold(self, setup: Any, state: Any, part: Any) -> Any:
        return {"mean": part if state is None else (state["mean"] + part) / 2}
