"""Lag of a snake: how much later than positions are captured detectors look."""

from typing import Any

import numpy as np

from p06bs.callbacks._arrays import Floats
from p06bs.callbacks._faults import Fault, reasons
from p06bs.callbacks._snake import PROBLEMS, Snake, lag_of
from p06bs.model.modality import INVALID, PART, Bound, Columns, Input, Modality, Output


class SnakeLag(Modality):
    """Find by how many points lines to and fro are moved against each other.

    An event is invalid, and left out, if its position or its reference is not finite.
    """

    name = "snake_lag"

    x = Input(role="position_x")
    y = Input(role="position_y")
    reference = Input(role="lag_reference")

    def outputs(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return the reference, by which lines are compared."""
        return {"reference": Output(unit=bound["reference"].unit, hinted=False)}

    def results(self, settings: Any, bound: Bound) -> dict[str, Output]:
        """Return the lag and how well it is known."""
        why = ", ".join(f"{code}: {text}" for code, text in PROBLEMS.items())
        return {
            "lag": Output(
                unit="1",
                atol=1e-6,
                description="points; detectors look so much later; NaN: unknown",
            ),
            "lag_sigma": Output(unit="1", atol=1e-6, description="standard deviation, points"),
            "lag_problem": Output(dtype="uint8", description=f"why there is none; {why}"),
            "lines": Output(dtype="int64", description="lines that were compared"),
        }

    def process(self, setup: Any, **columns: Any) -> Columns:
        """Return the reference, and the points for `fold`."""
        points = np.stack([columns[name].astype(np.float64) for name in ("x", "y", "reference")], 1)
        good = np.isfinite(points).all(axis=1)
        made: dict[str, Any] = {"reference": points[:, 2], PART: {"points": points[good]}}
        if good.all():
            return made
        text = "x is {:g}, y is {:g}, the reference is {:g}"
        return {**made, INVALID: reasons(~good, [Fault(~good, text, [*points.T])])}

    def fold(self, setup: Any, state: Snake | None, part: Any) -> Snake:
        """Return what is known of the lines so far."""
        points: Floats = part["points"]
        return (state or Snake(np.empty((0, 3)))).add(points)

    def snapshot(self, setup: Any, state: Snake) -> Columns:
        """Return the lag of the lines so far, the last one too."""
        snake = state.finish()
        lag = lag_of(snake)
        return {
            "lag": np.array(lag.points),
            "lag_sigma": np.array(lag.sigma),
            "lag_problem": np.array(lag.problem, np.uint8),
            "lines": np.array(snake.compared),
        }

    @classmethod
    def example(cls) -> tuple["SnakeLag", Columns]:
        """Return four lines of 12 points over an edge that they see late."""
        lines = np.arange(48).reshape(4, 12) // 12
        x = np.arange(48).reshape(4, 12) % 12
        x[1::2] = x[1::2, ::-1]
        late = np.where(lines % 2, -0.4, 0.4)
        return cls(), {
            "x": x.ravel() / 5,
            "y": lines.ravel() / 5,
            "reference": np.tanh((x + late - 5) / 2).ravel(),
        }
