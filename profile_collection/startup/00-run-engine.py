"""The RunEngine. Start with: ipython --profile-dir=profile_collection"""

import os
from pathlib import Path

from bluesky import RunEngine

RE = RunEngine({"endstation": "simulated"})

# Where detectors write, where document logs go, and who knows where the proxy is.
DATA = Path(os.environ.get("P06BS_DATA", "var/data")).absolute()
LOG = Path(os.environ.get("P06BS_LOG", "var/log")).absolute()
TOPOLOGY = os.environ.get("P06BS_TOPOLOGY", "tcp://127.0.0.1:5569")
PROXY = os.environ.get("P06BS_PROXY")  # one that is not registered there
KEYS = os.environ.get("P06BS_KEYS")  # directory of keys, where these are on another host
