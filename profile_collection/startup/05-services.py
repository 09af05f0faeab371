"""Who is there: `analysis`, the pipelines."""

import atexit

from p06bs import Keys, Membership
from p06bs.session.online_analysis import OnlineAnalysis

keys = peers = None
try:
    keys = Keys(KEYS) if KEYS else None
    peers = Membership(TOPOLOGY, keys)  # it looks for the others while devices are made
except (OSError, ValueError) as problem:
    print(f"Services cannot be found: {problem}")
else:
    atexit.register(peers.close)

runs = None  # root of the server's runs
analysis = OnlineAnalysis(peers, keys, catalog=lambda: runs)
