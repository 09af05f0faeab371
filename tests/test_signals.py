"""Signals to services."""

import subprocess
import sys

DISTURBED = """
import os, subprocess, sys, threading
from p06bs.services._host import on_signals

stop = threading.Event()
came = on_signals(stop.set)
kill = f"import os, signal\\nfor _ in range(50_000): os.kill({os.getpid()}, signal.SIGTERM)"
with subprocess.Popen([sys.executable, "-c", kill]) as other:
    while other.poll() is None:
        for _ in range(100):
            stop.wait(1e-6)
            stop.clear()
assert came()
"""


def test_signals_may_come_while_the_lock_of_an_event_is_held():
    subprocess.run([sys.executable, "-c", DISTURBED], check=True, timeout=60)
