"""Who is there: `analysis`, the pipelines."""

import atexit

from p06bs import Keys, Membership
from p06bs.session.catalog import ServerRuns
from p06bs.session.online_analysis import OnlineAnalysis

keys = peers = None
try:
    keys = Keys(KEYS) if KEYS else None
    peers = Membership(TOPOLOGY, keys)  # it looks for the others while devices are made
except (OSError, ValueError) as problem:
    print(f"Services cannot be found: {problem}")
else:
    atexit.register(peers.close)

server = ServerRuns(peers, API_KEY_FILE)
atexit.register(server.close)
analysis = OnlineAnalysis(peers, keys, catalog=server.root)
