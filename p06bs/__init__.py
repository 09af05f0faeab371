"""p06bs: online analysis for Bluesky.

Ordered, exactly-once derived runs while the scan runs, which replay offline to
the same numbers with the same code.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p06bs.bus.curve import Keys
    from p06bs.bus.follow import Follower
    from p06bs.bus.log import DocumentLog
    from p06bs.bus.membership import Membership
    from p06bs.bus.publish import Publisher
    from p06bs.model.maps import Maps, maps_of
    from p06bs.model.modality import Input, Modality, ModalitySettings, Output
    from p06bs.pipeline.inline import process
    from p06bs.pipeline.notebook import callback

__all__ = [
    "DocumentLog",
    "Follower",
    "Input",
    "Keys",
    "Maps",
    "Membership",
    "Modality",
    "ModalitySettings",
    "Output",
    "Publisher",
    "callback",
    "maps_of",
    "process",
]

_HOME = {
    "DocumentLog": "p06bs.bus.log",
    "Follower": "p06bs.bus.follow",
    "Input": "p06bs.model.modality",
    "Keys": "p06bs.bus.curve",
    "Maps": "p06bs.model.maps",
    "Membership": "p06bs.bus.membership",
    "Modality": "p06bs.model.modality",
    "ModalitySettings": "p06bs.model.modality",
    "Output": "p06bs.model.modality",
    "Publisher": "p06bs.bus.publish",
    "callback": "p06bs.pipeline.notebook",
    "maps_of": "p06bs.model.maps",
    "process": "p06bs.pipeline.inline",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562): the command line must not wait for what it needs not."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
