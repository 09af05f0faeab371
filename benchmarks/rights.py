"""How fast rights on beamtime folders are asked (root only): ``python -m benchmarks.rights``."""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from p06bs.server.access.rights import rights_of
from p06bs.server.access.viewers import Viewers

FOLDERS = 10_000
TIMES = 7
USER = "daemon"


def seconds(work: Callable[[], object]) -> float:
    """Return the median time of some calls."""
    found = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        work()
        found.append(time.perf_counter() - begun)
    return statistics.median(found)


def opened(folders: list[str]) -> None:
    """Do what the kernel has to do at least, in this process."""
    for folder in folders:
        os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def main() -> None:
    """Make folders of which a user may see 1 %, and ask."""
    top = Path(tempfile.mkdtemp(dir="/var/tmp"))
    top.chmod(0o755)
    try:
        folders = [f"{top}/{number // 100}/{number}" for number in range(FOLDERS)]
        for number, folder in enumerate(folders):
            Path(folder).mkdir(parents=True)
            Path(folder).chmod(0o750 if number % 100 else 0o755)
        kernel, bits = rights_of("kernel", [top]), rights_of("mode-bits", [top])
        bare = seconds(lambda: opened(folders))
        print(f"{FOLDERS} folders, {len(kernel.visible(USER, folders))} visible to {USER}")
        print(f"open and close them       {bare:8.4f} s     1.00")
        viewer = Viewers(kernel, 1e6).viewer_for(USER)
        asked = frozenset(folders)
        viewer.visible(asked)
        for name, work in (
            ("kernel, all", lambda: kernel.visible(USER, folders)),
            ("kernel, one folder", lambda: kernel.visible(USER, folders[:1])),
            ("mode bits, all", lambda: bits.visible(USER, folders)),
            ("answered before, all", lambda: viewer.visible(asked)),
            ("answered before, list", lambda: viewer.visible(folders)),
        ):
            took = seconds(work)
            print(f"{name:24s}  {took:8.4f} s  {took / bare:7.4f}")
    finally:
        shutil.rmtree(top)


if __name__ == "__main__":
    main()
