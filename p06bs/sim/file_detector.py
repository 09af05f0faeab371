"""A simulated detector on a trigger box that writes HDF5, as an ophyd-async `StandardDetector`."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bluesky.protocols import Reading
from event_model import DataKey
from ophyd_async.core import (
    AsyncStatus,
    DetectorDataLogic,
    DetectorTriggerLogic,
    PathProvider,
    SignalDict,
    StandardDetector,
    StreamableDataProvider,
    WatchableAsyncStatus,
    WatcherUpdate,
    observe_value,
)

from p06bs.sim.acquisition import Acquisition, Instrument
from p06bs.sim.announcement import data_key_of
from p06bs.sim.rows_file import Recording
from p06bs.sim.stage import TriggerBox

STEP_TIME = 0.1
"""Exposure in step scans (s), if nobody says another."""


@dataclass
class Triggers(DetectorTriggerLogic):
    """Edges from the box, whose gate it is, or the detector's own trigger in step scans."""

    acquisition: Acquisition

    def get_deadtime(self, config_values: SignalDict) -> float:
        """Return the time between exposures that the read-out needs: none, it double-buffers."""
        return 0.0

    async def prepare_edge(self, num: int, livetime: float) -> None:
        """Take any number of triggers."""
        self.acquisition.step_time = None

    async def prepare_internal(self, num: int, livetime: float, deadtime: float) -> None:
        """Take one exposure per trigger of a plan, where the box's stage is."""
        self.acquisition.step_time = livetime or STEP_TIME


@dataclass
class FileData(DetectorDataLogic):
    """Where the detector writes, and how that is announced."""

    path_provider: PathProvider
    acquisition: Acquisition

    async def prepare_unbounded(self, datakey_name: str) -> StreamableDataProvider:
        """Open a file and return what announces its rows."""
        where = self.path_provider(datakey_name)
        path = Path(where.directory_path) / f"{where.filename}.h5"
        return await self.acquisition.open(path, datakey_name)

    async def stop(self) -> None:
        """Close the file."""
        await self.acquisition.close()

    def get_hinted_fields(self, datakey_name: str) -> Sequence[str]:
        """Return nothing: what is in files is too big to be shown by default."""
        return []


class FileDetector(StandardDetector):
    """A detector on a trigger box that writes HDF5, in fly and in step scans.

    For a fly scan prepare the box before the detector. Where each file is a stream resource of its
    own, collect while the detector completes: a collection announces one file's rows.

    Parameters
    ----------
    instrument : Instrument
        What it sees.
    box : TriggerBox
        What triggers it.
    path_provider : PathProvider
        Where files go; must give a new name each time.
    recording : Recording, optional
        How it writes, and what goes wrong meanwhile.
    """

    def __init__(
        self,
        instrument: Instrument,
        box: TriggerBox,
        path_provider: PathProvider,
        recording: Recording | None = None,
        name: str = "",
    ) -> None:
        self.instrument = instrument
        self._acquisition = Acquisition(instrument, box, recording or Recording())
        self.add_detector_logics(
            Triggers(self._acquisition),
            self._acquisition,
            FileData(path_provider, self._acquisition),
        )
        super().__init__(name=name)

    @AsyncStatus.wrap
    async def kickoff(self) -> None:
        """Record from now on; triggers that came since it was prepared are not lost."""
        await super().kickoff()
        self._acquisition.kicked_off.set()

    @WatchableAsyncStatus.wrap
    async def complete(self) -> AsyncIterator[WatcherUpdate[int]]:
        """Wait for the last exposure, however long the scan is paused.

        Ends also when the box or the detector is stopped early, and at once with the
        error when writing fails, where `StandardDetector` would wait for its timeout.
        """
        target = await self.events_to_kickoff.get_value()
        idle = AsyncStatus(self._acquisition.wait_for_idle())
        async for rows in observe_value(self._acquisition.written, done_status=idle):
            yield WatcherUpdate(
                name=self.name, current=rows, initial=0, target=target, unit="points", precision=0
            )

    @property
    def role(self) -> str:
        """What the detector as a whole is, for the start document's table of devices."""
        return next(iter(self.instrument.datasets.values())).role

    @property
    def roles(self) -> dict[str, str]:
        """Data key -> role, for the start document's table of devices."""
        return {
            data_key_of(self.name, key): dataset.role
            for key, dataset in self.instrument.datasets.items()
        }

    async def describe_configuration(self) -> dict[str, DataKey]:
        """Describe the configuration, roles among it: plans of bluesky's own have no table."""
        described = await super().describe_configuration()
        source = f"sim://{self.name}/role"
        role = DataKey(source=source, dtype="string", shape=[])
        return {**described, f"{self.name}-role": role}

    async def read_configuration(self) -> dict[str, Reading[Any]]:
        """Return the configuration, and the roles as JSON."""
        read = await super().read_configuration()
        role = Reading(value=json.dumps(self.roles), timestamp=time.time())
        return {**read, f"{self.name}-role": role}
