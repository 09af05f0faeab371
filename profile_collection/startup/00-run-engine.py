"""The RunEngine. Start with: ipython --profile-dir=profile_collection"""

import os
from pathlib import Path

from bluesky import RunEngine

RE = RunEngine({"endstation": "simulated"})

# Where detectors write, where document logs go, and where the proxy listens.
DATA = Path(os.environ.get("P06BS_DATA", "var/data")).absolute()
LOG = Path(os.environ.get("P06BS_LOG", "var/log")).absolute()
PROXY = os.environ.get("P06BS_PROXY", "tcp://127.0.0.1:5567")
KEYS = os.environ.get("P06BS_KEYS")  # directory of keys, for a proxy on another host
