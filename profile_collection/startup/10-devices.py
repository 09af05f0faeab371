"""Devices: those that the file P06BS_DEVICES names, else a simulated beamline's.

samx, samy, rotation, energy (motors), scaler, panda (stage and triggers), xspress3, eiger,
ring, shutter and hutch; `devices` has them by name.
"""

from dataclasses import fields

from p06bs.session.devices import DevicesError, configured

devices, sources = {}, {}
if DEVICES:
    try:
        found = configured(Path(DEVICES))
    except DevicesError as problem:
        print(f"There are no devices: {problem}")
    else:
        devices, sources = found.found, dict(found.sources)
        for name, problem in found.problems.items():
            print(f"{name} is not there: {problem}")
else:
    from p06bs.sim.beamline import Beamline
    from p06bs.sim.devices import connect
    from p06bs.sim.phantom import Phantom

    phantom = (
        Phantom.load(os.environ["P06BS_PHANTOM"])
        if "P06BS_PHANTOM" in os.environ
        else Phantom.default()
    )
    beamline = Beamline(phantom, seed=int(os.environ.get("P06BS_SEED", "0")))
    simulated = connect(beamline, DATA)
    devices = {field.name: getattr(simulated, field.name) for field in fields(simulated)}
    sources = {
        "beam.energy": "energy",
        "ring.current": "ring-current",
        "ring.energy": "ring-energy",
    }
globals().update(devices)
