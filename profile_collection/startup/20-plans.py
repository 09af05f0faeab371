"""Plans, with this beamline's devices filled in: RE(fly_map()), RE(fly_map(nx=81, rate=100)).

Where devices are missing the plans that need them are, too; `plans` has those that are there.
"""

from functools import partial, update_wrapper

import bluesky.plan_stubs as bps  # noqa: F401  (for the prompt)
import bluesky.plans as bp  # noqa: F401  (for the prompt)

from p06bs.plans import alignment, maps, scans, suspenders, tomography

flying = [devices[name] for name in ("xspress3", "eiger") if name in devices]
detectors = [devices[name] for name in ("scaler", "xspress3", "eiger") if name in devices]
plans = {}


def _short(name, plan, *given, **named):
    plans[name] = update_wrapper(partial(plan, *given, **named), plan)


for name in ("step_map", "spiral_map"):
    _short(name, getattr(maps, name), detectors)
for name in ("line_scan", "time_series"):
    _short(name, getattr(scans, name), detectors)
if "panda" in devices:
    # A pixel detector is added by name, fly_map = partial(maps.fly_map, flying, panda): its files
    # are large, and most maps are of fluorescence.
    for name in ("fly_map", "fly_grid", "fly_spiral"):
        _short(name, getattr(maps, name), flying[:1], devices["panda"])
if "energy" in devices:
    _short("energy_scan", scans.energy_scan, detectors, devices["energy"])
if "scaler" in devices:
    _short("knife_edge", alignment.knife_edge, [devices["scaler"]])
if "rotation" in devices and "fly_map" in plans:

    def fly_tomography(num, *, first=0.0, span=180.0, order="golden", md=None, **map_of_angle):
        """Fly a map at each of `num` angles: fly_tomography(60, nx=41, ny=21)."""
        fly_map = partial(plans["fly_map"], **map_of_angle)
        arranged = {"first": first, "span": span, "order": order, "md": md}
        return tomography.tomography(fly_map, devices["rotation"], num, **arranged)

    def resume_tomography(last, *, md=None, **map_of_angle):
        """Go on with one that was ended early: resume_tomography(catalog[uid].metadata, nx=41)."""
        fly_map = partial(plans["fly_map"], **map_of_angle)
        return tomography.resume_tomography(fly_map, devices["rotation"], last, md=md)

    plans |= {"fly_tomography": fly_tomography, "resume_tomography": resume_tomography}
globals().update(plans)

# Beam losses suspend every scan; RE.remove_suspender(beam_suspenders["ring"]) has it go on.
beam_suspenders = {}
try:
    if "ring" in devices:
        lowest = float(os.environ.get("P06BS_LOWEST_CURRENT", "10"))  # mA
        beam_suspenders["ring"] = suspenders.ring_suspender(devices["ring"].current, lowest)
    if "shutter" in devices:
        beam_suspenders["shutter"] = suspenders.shutter_suspender(devices["shutter"].state)
    for suspender in beam_suspenders.values():
        RE.install_suspender(suspender)
except (AttributeError, ValueError) as problem:
    print(f"A beam loss does not suspend scans: {problem}")
