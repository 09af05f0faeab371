"""The RunEngine. Start with: ipython --profile-dir=profile_collection"""

import logging
import os
from pathlib import Path

from bluesky import RunEngine
from bluesky.utils import FailedPause, PersistentDict

from p06bs.plans.rewinds import without_superseded

# Where detectors write, where document logs go, and who knows where all services are.
DATA = Path(os.environ.get("P06BS_DATA", "var/data")).absolute()
LOG = Path(os.environ.get("P06BS_LOG", "var/log")).absolute()
TOPOLOGY = os.environ.get("P06BS_TOPOLOGY", "tcp://127.0.0.1:5569")
PROXY = os.environ.get("P06BS_PROXY")  # one that is not registered there
KEYS = os.environ.get("P06BS_KEYS")  # directory of keys, where these are on another host
API_KEY_FILE = Path(os.environ.get("P06BS_API_KEY_FILE", "var/api-key"))  # or P06BS_API_KEY
# What is constant, and the number of the last scan; kept from session to session.
METADATA = Path(os.environ.get("P06BS_METADATA", "var/metadata")).absolute()
BEAMTIME = os.environ.get("P06BS_BEAMTIME")  # its file beamtime-metadata-<id>.json, or the folder
DEVICES = os.environ.get("P06BS_DEVICES")  # file of devices; without one they are simulated

try:
    constants = PersistentDict(METADATA)
except Exception as problem:
    print(f"Metadata and scan numbers are not kept: {METADATA} cannot be used: {problem}")
    constants = {}
RE = RunEngine(constants)
RE.preprocessors.append(without_superseded)  # bluesky's own plans survive a loss of beam, too
RE.md["endstation"] = os.environ.get("P06BS_ENDSTATION", "simulated" if not DEVICES else "p06")


def _is_news(record):
    """Whether a person knows nothing of it: what ends a plan is raised, or was asked for."""
    known = record.exc_info and not isinstance(record.exc_info[1], FailedPause)
    return not (known and record.getMessage() == "Run aborted")


logging.getLogger(RE.log.name).addFilter(_is_news)
