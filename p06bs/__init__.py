"""p06bs: online analysis for Bluesky.

Ordered, exactly-once derived runs while the scan runs, which replay offline to
the same numbers with the same code.
"""

from p06bs.bus.follow import Follower
from p06bs.bus.log import DocumentLog
from p06bs.bus.publish import Publisher
from p06bs.model.modality import Input, Modality, ModalitySettings, Output
from p06bs.pipeline.inline import callback, process

__all__ = [
    "DocumentLog",
    "Follower",
    "Input",
    "Modality",
    "ModalitySettings",
    "Output",
    "Publisher",
    "callback",
    "process",
]
