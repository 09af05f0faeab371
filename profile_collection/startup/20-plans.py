"""Plans, with this beamline's devices filled in: RE(fly_map()), RE(fly_map(nx=81, rate=100)).

Others are given by name: RE(fly_map(detectors=[xspress3])).
Where devices are missing the plans that need them are, too; `plans` has those that are there.
"""

from functools import partial

import bluesky.plan_stubs as bps  # noqa: F401  (for the prompt)
import bluesky.plans as bp  # noqa: F401  (for the prompt)

from p06bs.plans import alignment, maps, scans, suspenders, tomography
from p06bs.session.beam import BeamSuspenders
from p06bs.session.names import Named, filled_in

flying = [devices[name] for name in ("xspress3", "eiger") if name in devices]
detectors = [devices[name] for name in ("scaler", "xspress3", "eiger") if name in devices]
plans = Named()
for plan in (maps.step_map, maps.spiral_map, scans.line_scan, scans.time_series):
    plans[plan.__name__] = filled_in(plan, detectors=detectors)
if "panda" in devices:
    for plan in (maps.fly_map, maps.fly_grid, maps.fly_spiral):
        plans[plan.__name__] = filled_in(plan, detectors=flying, box=devices["panda"])
if "energy" in devices:
    plans["energy_scan"] = filled_in(
        scans.energy_scan, detectors=detectors, energy=devices["energy"]
    )
if "scaler" in devices:
    plans["knife_edge"] = filled_in(alignment.knife_edge, detectors=[devices["scaler"]])
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

# While a run is open: beam_suspenders.off("ring") has later ones go on without beam, and
# beam_suspenders.on("i0", "top-up") has them also wait for flux, and while the ring is topped up.
beam_suspenders = BeamSuspenders(RE)
try:
    if "ring" in devices:
        lowest = float(os.environ.get("P06BS_LOWEST_CURRENT", "10"))  # mA
        beam_suspenders["ring"] = suspenders.ring_suspender(devices["ring"].current, lowest)
    if "shutter" in devices:
        beam_suspenders["shutter"] = suspenders.shutter_suspender(devices["shutter"].state)
    if flux := getattr(devices.get("shutter"), "flux", None):
        lowest = float(os.environ.get("P06BS_LOWEST_FLUX", "1e5"))  # counts/s
        beam_suspenders.offered["i0"] = suspenders.flux_suspender(flux, lowest)
    if injecting := getattr(devices.get("ring"), "injecting", None):
        beam_suspenders.offered["top-up"] = suspenders.injection_suspender(injecting)
except (AttributeError, ValueError) as problem:
    print(f"A beam loss does not suspend scans: {problem}")
if countdown := getattr(devices.get("ring"), "countdown", None):
    # RE(top_up_gated(step_map(..., dwell=0.5), dwell=0.5)): no point is spoilt by an injection.
    top_up_gated = partial(suspenders.top_up_gated, countdown=countdown)
