"""What the author of a technique writes: a modality, its inputs, outputs and settings.

A modality is the number crunching of one technique and nothing else: a pure
function of a batch's columns and its settings. Where the columns come from,
when they are computed and in which process is the framework's business.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from p06bs.model.inputs import Bound, BoundInput, Input
from p06bs.model.refusals import refusals

__all__ = [
    "INVALID",
    "PART",
    "RESERVED",
    "Bound",
    "BoundInput",
    "Columns",
    "Input",
    "Modality",
    "ModalitySettings",
    "Output",
    "SettingsError",
]

Columns = Mapping[str, npt.NDArray[Any]]
"""Column name -> array whose leading axis is the events of a batch."""

INVALID = "invalid"
"""The reserved column: per event the reason why it is invalid, "" where it is valid."""


PART = "part"
"""The reserved key under which `process` returns what a batch contributes to `fold`."""

RESERVED = frozenset(
    {"raw_seq_num", "raw_uid", "valid", "invalid_reason", INVALID, PART, "seq_num", "time", "uid"}
)
"""Names that no output may have: each derived stream has columns of these names, or like them."""


class SettingsError(ValueError):
    """Settings that a modality does not accept; the message names field, value and range."""


class ModalitySettings(BaseModel):
    """Settings of a modality: immutable, physical units, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Declare a column that a modality makes.

    Parameters
    ----------
    unit : str, optional
        Physical unit.
    dtype : str
        Numpy dtype of one value.
    shape, dims : tuple
        Shape of one event's value and the names of its axes.
    rtol, atol : float
        Within what two computations of the same event count as equal (floats only).
    hinted : bool
        Whether viewers show it by default.
    role : str, optional
        What it means to the modality of another pipeline; see `Input`.
    """

    unit: str | None = None
    dtype: str = "float64"
    shape: tuple[int, ...] = ()
    dims: tuple[str, ...] = ()
    rtol: float = 1e-9
    atol: float = 0.0
    hinted: bool = True
    description: str = ""
    role: str | None = None

    @property
    def fill(self) -> Any:
        """What an invalid event holds: NaN, or the extreme integer that no result takes."""
        kind = np.dtype(self.dtype)
        if kind.kind in "fc":
            return np.nan
        if kind.kind == "i":
            return np.iinfo(kind).min
        if kind.kind == "u":
            return np.iinfo(kind).max
        return kind.type()


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


class Modality:
    """Base class of all modalities.

    Subclasses declare inputs as class attributes (or by `declare`), settings as a nested
    class, and implement `outputs` and `process`. An instance is made from its settings
    as keyword arguments; the reserved keyword `inputs` says explicitly which
    data key feeds which input ("": none does).

    Raises
    ------
    SettingsError
        If the settings are not valid; names each field, its value and what is allowed.
    """

    name: ClassVar[str] = ""
    version: ClassVar[str] = "1"
    Settings: ClassVar[type[ModalitySettings]] = ModalitySettings
    declared: Mapping[str, Input] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = cls.__dict__.get("name") or _snake(cls.__name__)
        cls.declared = {key: value for key, value in _members(cls) if isinstance(value, Input)}

    def __init__(self, /, *, inputs: Mapping[str, str] | None = None, **settings: Any) -> None:
        self.settings = self.validate(settings)
        self.declared = {**self.declared, **self.declare(self.settings)}
        unknown = set(inputs or ()) - set(self.declared)
        if unknown:
            raise SettingsError(
                f"{self.name}: inputs names {', '.join(sorted(unknown))}, which it does not have; "
                f"its inputs are {', '.join(self.declared) or '(none)'}"
            )
        self.inputs: Mapping[str, str] = dict(inputs or {})

    @classmethod
    def validate(cls, settings: Mapping[str, Any]) -> ModalitySettings:
        """Return validated settings.

        Raises
        ------
        SettingsError
            Naming each field that was refused, its value and what is allowed.
        """
        try:
            return cls.Settings.model_validate(dict(settings))
        except ValidationError as error:
            problems = refusals(error, settings, cls.Settings.model_json_schema())
            raise SettingsError(f"settings of {cls.name} refused: {problems}") from None
        except Exception as error:  # an author's validator may raise anything
            said = f"{type(error).__name__}: {error}"
            raise SettingsError(f"settings of {cls.name} refused: {said}") from error

    @classmethod
    def declare(cls, settings: Any) -> Mapping[str, Input]:
        """Return the inputs that there are because of the settings, such as two for each axis.

        Those of a pipeline are as its configuration file says: what is changed on the fly finds
        what was bound then, and `prepare` refuses settings which need more.
        """
        return {}

    def prepare(self, settings: Any, bound: Bound) -> Any:
        """Return the setup: slow to compute, constant for a run and its settings.

        Called once per worker, run and settings. The default is the settings themselves.
        """
        return settings

    def outputs(self, settings: Any, bound: Bound) -> Mapping[str, Output]:
        """Return the columns that `process` (and `scan`, if there is one) makes."""
        raise NotImplementedError(f"{type(self).__name__} must implement outputs()")

    def process(self, setup: Any, *args: Any, **columns: Any) -> Columns:
        """Compute one batch.

        Parameters
        ----------
        setup
            What `prepare` returned.
        **columns : ndarray or None
            One array per input, shape ``(events, *input shape)``, read-only.
            None for an optional input that nothing feeds.

        Returns
        -------
        mapping of str to ndarray
            One array per output, shape ``(events, *output.shape)``. The reserved
            column ``invalid`` (strings, "" where valid) flags events with a reason.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement process()")

    scan: ClassVar[Any] = None
    """Optional method ``scan(setup, state, columns) -> (state, columns)``.

    For per-event results that carry state from event to event. Called in
    acquisition order, in one place, with what `process` returned; `state` is
    None at first and must not be changed in place. It may flag events as `process` does; the
    state then goes on from them all the same. A restarted pipeline computes
    a run with such a state again from its first event.
    """

    fold: ClassVar[Any] = None
    """Optional method ``fold(setup, state, part) -> state``, for results of the whole run.

    `part` is what `process` returned under the reserved key ``part`` for a batch
    (arrays, numbers, lists and dicts of them), made of the events that it did not flag.
    Called in acquisition order, in one place; `state` is None at first and must not be
    changed in place. Results must not depend on how batches are cut.
    """

    @property
    def is_stateful(self) -> bool:
        """Whether state is carried through a run, so that what carries it must be made ready."""
        return self.scan is not None or self.fold is not None

    def results(self, settings: Any, bound: Bound) -> Mapping[str, Output]:
        """Return the results of the whole run that `snapshot` makes; needed with `fold`."""
        raise NotImplementedError(f"{type(self).__name__} must implement results()")

    def snapshot(self, setup: Any, state: Any) -> Columns:
        """Return the results of a state of `fold`, by name; by default the state is they."""
        found: Columns = state
        return found

    @classmethod
    def warm_up(cls) -> None:
        """Import what `prepare` will need; called when a worker starts, before any run.

        The first points of a scan then do not wait for heavy packages.
        """

    @classmethod
    def example(cls) -> "tuple[Modality, Columns] | None":
        """Return an instance and columns that ``p06bs check`` can try it with, if settings need it.

        None (the default) lets the check make up columns for settings given by hand.
        """
        return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield attributes in the order of definition, base classes first, newest winning."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found.update(vars(base))
    yield from found.items()
