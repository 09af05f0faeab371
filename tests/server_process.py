"""A server in a process of its own, started as ``p06bs up`` does: from a configuration file."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

BUS = """
[bus]
outbound = "ipc://{0}/bus"
log = "{0}/log"
"""


class ServerProcess:
    """Runs until `close`; what it says is in two files.

    Parameters
    ----------
    directory : Path
    configuration : str
        TOML after [bus]; ``{0}`` is the directory.
    environment : str
        More variables.
    """

    def __init__(self, directory, configuration, **environment):
        self.file = directory / "services.toml"
        self.file.write_text((BUS + configuration).format(directory))
        self.output, self.errors = directory / "stdout", directory / "stderr"
        with self.output.open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "p06bs.services.server", str(self.file)], cwd=REPOSITORY,
                stdout=out, stderr=err, env={**os.environ, **environment},
            )  # fmt: skip
        while not (found := re.search(r"server ready: (\S+)", self.output.read_text())):
            if self.process.poll() is not None:
                raise RuntimeError(self.errors.read_text())
            threading.Event().wait(0.05)
        self.url = found[1]

    def close(self) -> int:
        """End it as a service manager does; return its status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
