"""Whether a process of this host has ended."""

import time
from pathlib import Path

LOOK_SECONDS = 0.02


def runs(pid: int) -> bool:
    """Return whether a process has not ended, even if its parent does not know yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_ended(pid: int, seconds: float) -> bool:
    """Wait until a process has ended; return False if it has not in time."""
    until = time.monotonic() + seconds
    while runs(pid):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
