"""Modalities that feed each other, for tests and the workers that tests start."""

import time
from typing import Any

import numpy as np

from p06bs import Input, Modality, ModalitySettings, Output
from tests.techniques import Brightness, Scale


class Encoder(Scale):
    """Make what a position is made of; in mm where `square` is set."""

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        made = {"x": Output(unit="um", role=f"{self.name}_x"), "n": Output(dtype="int64")}
        return {**made, "square": Output()} if settings.square else made

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        made = super().process(setup, **columns)
        return {"x" if key == "y" else key: column for key, column in made.items()}


class Interferometer(Encoder):
    """The same by another name, and so another derived run."""


class Unsteady(Encoder):
    """Lose the output that others use when `square` is set."""

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        made = dict(super().outputs(settings, bound))
        if settings.square:
            del made["x"]
        return made

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        made = dict(super().process(setup, **columns))
        if setup.square:
            del made["x"]
        return made


class Position(Modality):
    """Put together what two others have made; nm."""

    coarse = Input(role="encoder_x", unit="nm")
    fine = Input(role="interferometer_x", unit="nm")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"x": Output(unit="nm", role="position_x"), "apart": Output(unit="nm")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        coarse, fine = columns["coarse"], columns["fine"]
        return {"x": (coarse + fine) / 2, "apart": coarse - fine}


class Path(Modality):
    """Sum up how far it went, with state, at a signal of the raw run."""

    signal = Input(role="counter")
    x = Input(role="position_x", unit="nm")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"path": Output(unit="nm"), "signal": Output(dtype="float64")}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        # Whole numbers: their sums do not depend on how batches are cut.
        return {"x": np.rint(columns["x"]), "signal": np.asarray(columns["signal"], float)}

    def scan(self, setup: Any, state: Any, columns: Any) -> Any:
        x = columns["x"]
        before, total = (x[0], 0.0) if state is None else state
        path = total + np.cumsum(np.abs(np.diff(x, prepend=before)))
        return (x[-1], path[-1]), {"path": path, "signal": columns["signal"]}


class Unprepared(Encoder):
    """Cannot be made ready."""

    name = "encoder"

    def prepare(self, settings: Any, bound: Any) -> Any:
        raise ValueError("no reference mark was found")


class Offset(Modality):
    """Subtract what another one has made, if it has."""

    x = Input(role="counter")
    zero = Input(role="encoder_x", optional=True)

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"offset": Output()}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        zero = columns["zero"]
        return {"offset": columns["x"] - (0.0 if zero is None else zero)}


class Leisurely(Offset):
    """Take some time for each event."""

    class Settings(ModalitySettings):
        """Seconds per event."""

        seconds: float = 0.0

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        time.sleep(setup.seconds * len(columns["x"]))
        return super().process(setup, **columns)


class Lit(Brightness):
    """Say how bright frames are."""

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"sum": Output(dtype="int64", role="brightness"), "ratio": Output()}


class Contrast(Modality):
    """Compare a signal with how bright its frame is."""

    x = Input(role="counter")
    bright = Input(role="brightness")

    def outputs(self, settings: Any, bound: Any) -> dict[str, Output]:
        return {"contrast": Output()}

    def process(self, setup: Any, **columns: Any) -> dict[str, Any]:
        return {"contrast": columns["bright"] - columns["x"]}
