"""Servers to knock at: Tiled with our authentication behind our gate."""

import numpy as np
import pandas as pd
from tiled.adapters.array import ArrayAdapter
from tiled.adapters.mapping import MapAdapter
from tiled.adapters.table import TableAdapter
from tiled.server.app import build_app

from p06bs.server.gate import errors
from p06bs.server.gate.gate import Gate, Guard
from p06bs.server.gate.keys import Keys
from p06bs.server.health import health_routes
from p06bs.server.login import browser
from p06bs.server.login.authentication import several_users, single_user
from p06bs.server.tree.arrays import RESPONSE_LIMIT

KEY = "k3y"


def tree():
    """A tree with one run, whose numbers are known."""
    table = pd.DataFrame({"x": np.arange(5.0), "n": np.arange(5)})
    stream = {
        "Fe": ArrayAdapter.from_array(np.arange(12.0).reshape(3, 4)),
        "internal": TableAdapter.from_pandas(table, npartitions=1),
    }
    run = MapAdapter(
        {"primary": MapAdapter(stream)},
        metadata={"start": {"uid": "run1", "sample": "secretsample"}},
    )
    return MapAdapter({"live": MapAdapter({"run1": run}), "archive": MapAdapter({})})


class Gated:
    """Tiled behind the gate; with users if their authentication is given."""

    def __init__(self, authentication=None, guard=None, root=None, ready=None, **more):
        guard = guard or Guard()
        door = single_user(KEY) if authentication is None else several_users(authentication)
        self.app = build_app(
            root or tree(),
            authentication=door.authentication,
            server_settings={
                "expose_raw_assets": False,
                "allow_origins": list(guard.origins),
                # Tiled's settings are one object: another application's would stay.
                "response_bytesize_limit": RESPONSE_LIMIT,
                **door.server_settings,
            },
            **more,
        )
        browser.install(self.app, door)
        errors.install(self.app)
        keys = None if authentication is None else Keys(self.app)
        checks = dict(ready or {}) if keys is None else {"tokens": keys.answers, **(ready or {})}
        self.app.include_router(health_routes({"feed": lambda: True}, checks))
        self.gate = Gate(self.app, guard, keys=keys)
