"""Services under a supervisord of their own, and waiting for what they do."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from p06bs.services.supervision import Supervision
from tests.online import PATIENCE


@contextmanager
def supervised(file: Path) -> Iterator[Supervision]:
    """Have the services of a file up meanwhile; they must end in good order."""
    services = Supervision(file)
    services.start()
    try:
        assert services.wait_ready()
        yield services
    finally:
        codes = services.stop()
    assert set(codes.values()) == {0}


def wait(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait at most so long until a condition holds; return what it returns then."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        threading.Event().wait(0.05)
    return found
