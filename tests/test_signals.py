"""Signals to services."""

import subprocess
import sys

HOLDING = """
import os, signal, threading
from p06bs.services._host import on_signals

lock, done = threading.Lock(), threading.Event()

def end():
    with lock:
        done.set()

came = on_signals(end)
with lock:
    os.kill(os.getpid(), signal.SIGTERM)
assert came() and done.wait(30)
"""


def test_a_signal_may_interrupt_who_holds_the_lock_that_the_end_needs():
    """As that of an event, on which `run` waits, and which `stop` sets."""
    subprocess.run([sys.executable, "-c", HOLDING], check=True, timeout=60)
