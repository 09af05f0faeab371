"""Recorded runs: process them again, replay them, describe them."""

from p06bs.offline.like import Like
from p06bs.offline.processing import process_run
from p06bs.offline.replay import describe, replayed

__all__ = ["Like", "describe", "process_run", "replayed"]
