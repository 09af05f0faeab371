"""A motor and a scaler as `ophyd.sim` has them, for step scans over the phantom."""

import json
import time
from collections import OrderedDict
from typing import Any

import numpy as np
from ophyd import Component, Device, Signal
from ophyd.sim import NullStatus, SynAxis

from p06bs.sim.beamline import Beamline
from p06bs.sim.trajectory import CAPTURES, Stage

Described = OrderedDict[str, dict[str, Any]]


class Motor(SynAxis):  # type: ignore[misc]  # ophyd has no annotations
    """An axis that can be set and read, such as `ophyd.sim.motor`, with a unit and a role.

    Parameters
    ----------
    role : str
        What the axis is to modalities, such as ``position_x``.
    egu : str
        Its unit.
    **kwargs
        As of `ophyd.sim.SynAxis`: ``name``, ``value``, ``delay`` (seconds per move).
    """

    def __init__(self, role: str, *, egu: str = "um", **kwargs: Any) -> None:
        self.role = role
        super().__init__(egu=egu, **kwargs)

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {self.name: self.role}

    def describe(self) -> Described:
        """Describe readback and setpoint, with their unit."""
        described: Described = super().describe()
        for data_key in described.values():
            data_key |= {"units": self.egu, "dtype": "number", "dtype_numpy": "<f8"}
        return described

    def describe_configuration(self) -> Described:
        """Describe velocity, acceleration and role."""
        described: Described = super().describe_configuration()
        return described | _role_described(self.name)

    def read_configuration(self) -> Described:
        """Return velocity, acceleration and role."""
        read: Described = super().read_configuration()
        return read | _role_read(self.name, self.roles)


class Scaler(Device):  # type: ignore[misc]
    """Counters that count for a preset time where two motors have brought the sample.

    ``<name>-i0``, ``<name>-diode`` (counts), ``<name>-gate_time`` (s) and
    ``<name>-ring_current`` (mA). The n-th trigger since `stage` is the n-th point of
    the beamline: equal seed, equal positions, equal counts.

    Parameters
    ----------
    beamline : Beamline
        What there is to see.
    sample : Stage
        The motors that bring the sample into the beam, and the beam.
    """

    preset_time = Component(Signal, value=0.1, kind="config")

    CAPTURED = ("i0", "diode", "gate_time", "ring_current")

    def __init__(self, beamline: Beamline, sample: Stage, *, name: str, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self._beamline, self._sample = beamline, sample
        self._points = 0
        self._counted: dict[str, Any] = {}
        self._at = 0.0

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role."""
        return {f"{self.name}-{key}": CAPTURES[key].role for key in self.CAPTURED}

    @property
    def hints(self) -> dict[str, list[str]]:
        """Show the counters by default."""
        return {"fields": [f"{self.name}-i0", f"{self.name}-diode"]}

    def stage(self) -> list[Any]:
        """Begin at the first point of a scan."""
        self._points = 0
        staged: list[Any] = super().stage()
        return staged

    def trigger(self) -> Any:
        """Count once; done at once."""
        gate_time = float(self.preset_time.get())
        path = self._sample.standing(self._beamline, self._points, gate_time)
        self._counted = path.counted(self._points, self._points + 1)
        self._points, self._at = self._points + 1, time.time()
        return NullStatus()

    def read(self) -> Described:
        """Return what was counted last."""
        return OrderedDict(
            (f"{self.name}-{key}", {"value": self._counted[key][0].item(), "timestamp": self._at})
            for key in self.CAPTURED
            if self._counted
        )

    def describe(self) -> Described:
        """Describe the counters."""
        return OrderedDict(
            (
                f"{self.name}-{key}",
                {
                    "source": f"sim://{self.name}/{key}",
                    "dtype": "integer" if np.dtype(CAPTURES[key].dtype).kind == "i" else "number",
                    "dtype_numpy": CAPTURES[key].dtype,
                    "shape": [],
                    "units": CAPTURES[key].unit,
                },
            )
            for key in self.CAPTURED
        )

    def describe_configuration(self) -> Described:
        """Describe the preset time and the roles."""
        described: Described = super().describe_configuration()
        for data_key in described.values():
            data_key["units"] = "s"
        return described | _role_described(self.name)

    def read_configuration(self) -> Described:
        """Return the preset time and the roles."""
        read: Described = super().read_configuration()
        return read | _role_read(self.name, self.roles)


def _role_described(name: str) -> Described:
    return OrderedDict(
        {f"{name}-role": {"source": f"sim://{name}/role", "dtype": "string", "shape": []}}
    )


def _role_read(name: str, roles: dict[str, str]) -> Described:
    return OrderedDict({f"{name}-role": {"value": json.dumps(roles), "timestamp": time.time()}})
