"""The devices of the simulated beamline: panda (stage and triggers) and xspress3."""

import os

from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import FluorescenceDetector
from p06bs.sim.phantom import Phantom
from p06bs.sim.stage import TriggerBox

phantom = (
    Phantom.load(os.environ["P06BS_PHANTOM"])
    if "P06BS_PHANTOM" in os.environ
    else Phantom.default()
)
beamline = Beamline(phantom, seed=int(os.environ.get("P06BS_SEED", "0")))

with init_devices():
    panda = TriggerBox(beamline)
    xspress3 = FluorescenceDetector(
        beamline, panda, StaticPathProvider(UUIDFilenameProvider(), DATA)
    )
