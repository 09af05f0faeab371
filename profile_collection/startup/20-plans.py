"""Plans, with this beamline's devices filled in: RE(fly_map()), RE(fly_map(nx=81, rate=100))."""

from functools import partial, update_wrapper

import bluesky.plan_stubs as bps  # noqa: F401  (for the prompt)
import bluesky.plans as bp  # noqa: F401  (for the prompt)

from p06bs.plans import maps

fly_map = update_wrapper(partial(maps.fly_map, [xspress3], panda), maps.fly_map)
