"""A server in the process of the test."""

import contextlib
import threading

from p06bs.server.loopback import LoopbackServer

KEY = "k3y"


@contextlib.contextmanager
def serving(app):
    """Serve an application on a free port of the loopback interface; gives the URL."""
    ready = threading.Event()
    server = LoopbackServer(app, ready=lambda url: ready.set())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert ready.wait(60)
        yield server.url
    finally:
        server.stop()
        thread.join()
