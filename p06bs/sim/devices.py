"""All devices of the simulated beamline, ready for a RunEngine."""

from dataclasses import dataclass
from pathlib import Path

from ophyd_async.core import StaticPathProvider, UUIDFilenameProvider, init_devices

from p06bs.sim.beam import Beam
from p06bs.sim.beamline import Beamline
from p06bs.sim.detectors import AreaDetector, FluorescenceDetector
from p06bs.sim.diffraction import PowderRings
from p06bs.sim.metrology import TRANSLATIONS
from p06bs.sim.simple import Motor, Scaler
from p06bs.sim.stage import TriggerBox
from p06bs.sim.surroundings import Hutch, Ring, Shutter
from p06bs.sim.trajectory import Stage


@dataclass(frozen=True)
class Devices:
    """What `connect` returns; each device has its field's name."""

    samx: Motor
    samy: Motor
    samz: Motor
    rotation: Motor
    energy: Motor
    scaler: Scaler
    panda: TriggerBox
    xspress3: FluorescenceDetector
    eiger: AreaDetector
    ring: Ring
    shutter: Shutter
    hutch: Hutch


def connect(beamline: Beamline, directory: Path) -> Devices:
    """Make and connect all devices; detectors write into `directory`.

    Needs a RunEngine, or another running event loop of bluesky's, in this process.
    """
    samx, samy, samz = (Motor(f"position_{axis}", name=f"sam{axis}") for axis in TRANSLATIONS)
    rotation = Motor("rotation", egu="deg", name="rotation")
    energy = Motor("photon_energy", egu="keV", name="energy", value=beamline.energy)
    beam = Beam()
    sample = Stage(samx, samy, samz, rotation, energy, beam)
    paths = StaticPathProvider(UUIDFilenameProvider(), directory)
    rings = PowderRings(beamline.phantom, energy=beamline.energy, seed=beamline.seed)
    with init_devices():
        panda = TriggerBox(beamline, sample)
        xspress3 = FluorescenceDetector(beamline, panda, paths)
        eiger = AreaDetector(rings, panda, paths)
        ring = Ring(beam)
        shutter = Shutter(beam)
        hutch = Hutch(beamline.metrology.air)
    scaler = Scaler(beamline, sample, name="scaler")
    motors, detectors = (samx, samy, samz, rotation, energy), (scaler, panda, xspress3, eiger)
    return Devices(*motors, *detectors, ring, shutter, hutch)
