"""Which processes of this host there are, and whether one has ended."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

LOOK_SECONDS = 0.02


def runs(pid: int) -> bool:
    """Return whether a process has not ended, even if its parent does not know yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def having(variable: str, value: str) -> Iterator[int]:
    """Yield the processes, but this one, that were started with an environment variable."""
    wanted = os.fsencode(f"{variable}={value}")
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:  # it is another user's, or has just ended
                continue
            if wanted in environment.split(b"\0"):
                yield int(entry.name)


def wait_ended(pid: int, seconds: float) -> bool:
    """Wait until a process has ended; return False if it has not in time."""
    until = time.monotonic() + seconds
    while runs(pid):
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True
