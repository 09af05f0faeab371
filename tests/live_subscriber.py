"""A stock Tiled client in a process of its own: prints what it is sent, a line of JSON each.

``python live_subscriber.py URL PATH START``, the key in ``$P06BS_API_KEY``, START a
number or "none". It says "connected" first and "closed" when the stream has ended.
"""

import json
import os
import sys
import threading

from tiled.client import from_uri


def say(**what):
    # One write: lines of two threads may not mix.
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def rows(update):
    data = update.data()
    if update.type == "table-data":
        say(sequence=update.sequence, seq_num=data["seq_num"].tolist())
    else:
        first = update.offset[0] if update.type == "array-data" else update.patch.offset[0]
        say(sequence=update.sequence, first=first, shape=list(data.shape), values=data.tolist())


def child(update):
    say(
        sequence=update.sequence,
        type=update.type,
        key=update.key,
        stop=update.metadata.get("stop"),
    )


def closed(subscription):
    say(state="closed")


def main():
    url, path, start = sys.argv[1:]
    node = from_uri(url, api_key=os.environ["P06BS_API_KEY"], include_data_sources=False)
    for key in path.split("/"):
        node = getattr(node, "base", node)[key] if key == "internal" else node[key]
    subscription = node.subscribe()
    if hasattr(subscription, "new_data"):
        subscription.new_data.add_callback(rows)
    else:
        subscription.child_created.add_callback(child)
        subscription.child_metadata_updated.add_callback(child)
    subscription.stream_closed.add_callback(closed)
    threading.Thread(target=connected, args=[subscription], daemon=True).start()
    subscription.start(None if start == "none" else int(start))


def connected(subscription):
    subscription._connected_event.wait()
    say(state="connected")


if __name__ == "__main__":
    main()
