"""What is seen while a scan runs: progress and tables here, documents for everybody else."""

import atexit

from bluesky.callbacks.best_effort import BestEffortCallback

from p06bs import Publisher
from p06bs.session.catalog import NoCatalogError, all_runs, root_of
from p06bs.session.progress import ScanProgress, StepsOnly

best_effort = BestEffortCallback()
best_effort.disable_plots()
best_effort.disable_heading()
best_effort.disable_baseline()
progress = ScanProgress()
RE.subscribe(StepsOnly(best_effort))
RE.subscribe(progress)

# Log, then publish. Without a proxy it says so and goes on: the log has everything.
if peers is not None:
    peers.wait_listed(1.0)
try:
    proxy = PROXY or (lambda: peers.address_of("proxy", "inbound") if peers else None)
    publisher = Publisher(proxy, LOG, run_engine=RE, keys=keys)
except (OSError, ValueError) as problem:
    print(f"Scans are neither recorded nor published: {problem}")
else:
    RE.subscribe(publisher)
    atexit.register(publisher.close)

catalog = None  # all runs; runs["live"] has the newest, also those that go on


def find_catalog():
    """Look for the server whose runs `catalog` has, again if it was not there before."""
    global catalog, runs  # noqa: PLW0603  (names at the prompt)
    try:
        runs = root_of(peers, API_KEY_FILE)
    except NoCatalogError as problem:
        print(f"There is no catalog: {problem}. find_catalog() looks for it again.")
    else:
        catalog = all_runs(runs)
        atexit.register(runs.context.close)


find_catalog()
if peers is not None and not peers.listed:
    print(f"No pipelines can be asked: no Topology Manager answers at {TOPOLOGY}")
for name, device in devices.items():
    if name in globals():
        print(f"{name} has another meaning here: the device is devices[{name!r}]")
    else:
        globals()[name] = device
print(f"RE, {', '.join(devices) or 'no devices'}; data in {DATA}, documents in {LOG}.")
