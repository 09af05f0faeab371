"""What is seen while a scan runs: progress and tables here, documents for everybody else."""

import atexit

from bluesky.callbacks.best_effort import BestEffortCallback
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from p06bs import Keys, Membership, Publisher


class FlyProgress:
    """Show how many points of a fly scan have come out; leave other scans to a live table."""

    def __init__(self, table):
        self.table = table
        self.bar = None

    def __call__(self, name, document):
        if name == "start" and document.get("scan", {}).get("kind") == "fly_map":
            print(f"fly map {document['shape']}, run {document['uid']}")
            self.bar = Progress(
                TextColumn("points"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
            )
            self.task = self.bar.add_task("points", total=document["num_points"])
            self.bar.start()
        elif self.bar is None:
            self.table(name, document)
        elif name == "event_page":
            self.bar.update(self.task, advance=len(document["seq_num"]))
        elif name == "stop":
            self.bar.stop()
            self.bar = None
            print(f"{document['exit_status']}: {document['num_events']}")


best_effort = BestEffortCallback()
best_effort.disable_plots()
RE.subscribe(FlyProgress(best_effort))

# Log, then publish. Without a proxy it says so and goes on: the log has everything.
try:
    keys = Keys(KEYS) if KEYS else None
    peers = Membership(TOPOLOGY, keys)
    peers.wait_listed(1.0)
    proxy = PROXY or (lambda: peers.address_of("proxy", "inbound"))
    publisher = Publisher(proxy, LOG, run_engine=RE, keys=keys)
except (OSError, ValueError) as problem:
    print(f"Scans are neither recorded nor published: {problem}")
else:
    RE.subscribe(publisher)
    atexit.register(peers.close)
    atexit.register(publisher.close)

print(f"RE, fly_map(), panda and xspress3 are there; data in {DATA}, documents in {LOG}.")
