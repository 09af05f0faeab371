"""What is seen while a scan runs: progress and tables here, documents for everybody else."""

import atexit
import sys

from bluesky.callbacks.best_effort import BestEffortCallback
from bluesky.utils import ProgressBarManager
from IPython import get_ipython

from p06bs import Publisher
from p06bs.session.catalog import all_runs
from p06bs.session.progress import ScanProgress, StepsOnly

best_effort = BestEffortCallback()
best_effort.disable_plots()
best_effort.disable_heading()
best_effort.disable_baseline()
progress = ScanProgress(moves=ProgressBarManager() if sys.stdout.isatty() else None)
RE.subscribe(StepsOnly(best_effort))
progress.install(RE)

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

catalog = runs = None  # all runs; runs["live"] has the newest, also those that go on
connected = None
no_catalog = ""


def find_catalog(again=True):
    """Have the runs on the server as `catalog` and `runs`, or say why they are not there."""
    global catalog, runs, connected, no_catalog  # noqa: PLW0603  (names at the prompt)
    try:
        root = server.root()
        if root is not connected:
            catalog, runs = all_runs(root), root
            connected, no_catalog = root, ""
    except Exception as problem:  # whatever a client or a server runs into, the session goes on
        if again or str(problem) != no_catalog:
            print(f"There is no catalog: {problem}")
        no_catalog = str(problem)


find_catalog()
if shell := get_ipython():
    # A server may come up later, or elsewhere: looked for before whatever is typed.
    shell.events.register("pre_run_cell", lambda info: find_catalog(again=False))
if peers is not None and not peers.listed:
    print(f"No pipelines can be asked: no Topology Manager answers at {TOPOLOGY}")
for name, device in devices.items():
    if name in globals():
        print(f"{name} has another meaning here: the device is devices[{name!r}]")
    else:
        globals()[name] = device
print(f"RE, {', '.join(devices) or 'no devices'}; data in {DATA}, documents in {LOG}.")
