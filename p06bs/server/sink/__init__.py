"""The sink: the newest runs, raw and derived, in memory under a byte budget."""

from p06bs.server.sink.held import Change, RunView
from p06bs.server.sink.sink import Sink

__all__ = ["Change", "RunView", "Sink"]
