"""A modality whose fold is heavy."""

import time
from typing import Any

import numpy as np

from p06bs import Input, Modality, ModalitySettings, Output


class ImageSum(Modality):
    """Sum all frames of a run; folding takes longer than computing."""

    frame = Input(role="image", dims=("y", "x"))

    class Settings(ModalitySettings):
        """What a count counts, whether half a frame is enough, and how slow folding is."""

        factor: int = 1
        halves: bool = False
        seconds: float = 0.004

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"brightest": Output(dtype="int64", unit="counts")}

    def results(self, settings: Any, bound: Any) -> dict[str, Output]:
        y, x = bound["frame"].shape
        shape = (y // 2, x) if settings.halves else (y, x)
        return {"image": Output(dtype="int64", unit="counts", shape=shape, dims=("y", "x"))}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        frame = columns["frame"].astype(np.int64) * setup.factor
        part = frame.sum(axis=0)
        rows = part.shape[0] // 2 if setup.halves else part.shape[0]
        return {"brightest": frame.max(axis=(1, 2)), "part": {"image": part[:rows]}}

    def fold(self, setup: Any, state: Any, part: Any) -> Any:
        time.sleep(setup.seconds)
        return part if state is None else {"image": state["image"] + part["image"]}
