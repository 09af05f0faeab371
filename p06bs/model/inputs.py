"""Inputs: what a modality declares of one, and what feeds it in a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Input:
    """Declare a column that a modality needs.

    Parameters
    ----------
    role : str
        What the data mean (``fluorescence``, ``incident_flux``, ...); devices say theirs.
    dims : tuple of str
        Names of the axes behind the leading axis of events. A source with fewer
        axes gets axes of length one in front; one with more must have length one there.
    unit : str, optional
        Unit that `process` gets; compatible units are converted.
    units : tuple of str
        Instead of `unit`: units of which a source's must be convertible to one, so that it is
        known what it measures. It is left as it is; one that says no unit is taken to have the
        first, and a warning in the derived run says so.
    optional : bool
        Whether the modality works without it (`process` then gets None).
    group : str
        Of the optional inputs of a group one at least must be fed; a warning in the derived run
        names the others.
    constant : bool
        Whether one value may stand for all events of a run. Where no event has the role, it is
        that of the reading before the scan (stream ``baseline``) or of a device's configuration.
    """

    role: str
    dims: tuple[str, ...] = ()
    unit: str | None = None
    units: tuple[str, ...] = ()
    optional: bool = False
    group: str = ""
    constant: bool = False


@dataclass(frozen=True)
class BoundInput:
    """Say which data key of which stream feeds an input, and what it holds.

    `shape` is one event's value *as `process` gets it* (behind the leading axis).
    `scale` and `offset` convert the source's unit to the input's, ``scale · x + offset`` (a
    `value` is converted already).
    `configuration` is the device's configuration (names as in the descriptor), `beam` what the
    run's start document says of the beam.
    `run` is the uid of the derived run that it comes from, and `pipeline` the name of what makes
    that; both are "" where it comes from the raw run.
    `value` is what all events have, numbers in nested lists and in `unit`; None where each has its
    own. It is then of the reading before the scan or, with the stream ``configuration``, of a
    device's configuration.
    """

    stream: str
    data_key: str
    external: bool
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    dtype: str
    unit: str | None = None
    scale: float = 1.0
    offset: float = 0.0
    configuration: Mapping[str, Any] = field(default_factory=dict)
    beam: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""
    pipeline: str = ""
    value: Any = None


Bound = Mapping[str, BoundInput]
"""Input name -> what feeds it; optional inputs that nothing feeds are absent."""
