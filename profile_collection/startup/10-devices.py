"""Devices: those that the file P06BS_DEVICES names, else a simulated beamline's.

samx, samy, samz, rotation, energy (motors), scaler, panda (stage and triggers), xspress3, eiger,
ring, shutter and hutch; `devices` has them by name.
"""

from dataclasses import fields

from p06bs.session.devices import configured
from p06bs.session.names import Named


def _simulated():
    from p06bs.sim.beamline import Beamline
    from p06bs.sim.devices import connect
    from p06bs.sim.lines import FAST
    from p06bs.sim.phantom import Phantom

    file = os.environ.get("P06BS_PHANTOM")
    phantom = Phantom.load(file) if file else Phantom.default()
    seed = int(os.environ.get("P06BS_SEED", "0"))
    beamline = Beamline(phantom, seed=seed, emission=FAST)
    made = connect(beamline, DATA)
    return {field.name: getattr(made, field.name) for field in fields(made)}


devices, missing, sources = {}, {}, {}
try:
    if DEVICES:
        found = configured(Path(DEVICES))
        devices, missing, sources = found.found, found.problems, dict(found.sources)
        for name, problem in missing.items():
            print(f"{name} is not there: {problem}")
    else:
        devices = _simulated()
        sources = {
            "beam.energy": "energy",
            "ring.current": "ring-current",
            "ring.energy": "ring-energy",
        }
except Exception as problem:  # files that are not there, directories that cannot be written
    print(f"There are no devices: {problem}")
    missing = {"all devices": str(problem)}
devices = Named(devices)
