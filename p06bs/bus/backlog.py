"""What a follower reads from the logs: runs that are behind, and runs it did not know."""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from p06bs.bus.log import DocumentLog
from p06bs.bus.newest import Found, NewestFirst
from p06bs.bus.reader import Entry, LogCorruptError, RunReader

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""Interval at which ends of unfinished logs are looked at: a lost last message leaves no gap."""
LIST_SECONDS = 5.0
"""Interval at which the directory is listed although its time stamp did not change."""
PATIENCE_SECONDS = 5.0
"""How long damage in a log counts as "not visible yet"; see `RunReader`."""
FILL_BYTES = 1 << 18
"""About how much one `fill` reads."""
LOOK_LOGS = 256
"""Logs that rest of which `look` sees whether they grew."""


class Backlog:
    """Follow a directory of logs by looking at it.

    Parameters
    ----------
    log : DocumentLog
        The directory.
    since : float, optional
        Unix time, s: logs last written before it rest until `reader` is asked for
        their run, or they grow.
    more : callable, optional
        Asked before each log that is there at the start, from the one written last on,
        whether to read it. Once it says no the others rest until `reader` is asked for
        their run, or they grow.
    wanted : callable, optional
        Says of a run uid whether to follow it; asked once per run.
    arrays : bool
        See `RunReader`.
    """

    def __init__(
        self,
        log: DocumentLog,
        *,
        since: float | None = None,
        more: Callable[[], bool] | None = None,
        wanted: Callable[[str], bool] | None = None,
        arrays: bool = True,
    ) -> None:
        self._log = log
        self._arrays = arrays
        self._since = since
        self._more = more
        self._wanted = wanted
        self._readers: dict[str, RunReader] = {}  # unfinished runs
        # Run -> bytes to read up to; whose turn it is first. A plain dict is slow to find its
        # first item where many before it went.
        self._behind: OrderedDict[str, int] = OrderedDict()
        self._unreadable: set[str] = set()  # runs that were complained of
        self._over: set[str] = set()  # finished, damaged, removed or not wanted
        self._known: set[str] = set()  # no listing needs to show them again
        self._start: NewestFirst | None = None  # the logs that were there, some of which rest
        if more is None:
            self._start = NewestFirst(())
            self._start.stop()
        self._refilled = ""
        self._list_at = 0.0
        self._listed = -1  # the directory's time stamp then; -1 before the first listing
        self._unlisted = ""  # why it cannot be listed now
        self.look_at = 0.0

    @property
    def behind(self) -> bool:
        """Whether `fill` has something to read."""
        return bool(self._behind)

    @property
    def others_behind(self) -> bool:
        """Whether a run is behind that is not the one that `refill` began last."""
        return any(run != self._refilled for run in self._behind)

    @property
    def refilling(self) -> bool:
        """Whether `refill` may have something to read."""
        return self._start is not None and not self._start.over

    @property
    def is_listed(self) -> bool:
        """Whether it is known which logs were there at the start."""
        return self._listed != -1

    def is_older(self, run: str) -> bool:
        """Return whether `refill` has just begun a run: it is older than those before it."""
        return run == self._refilled

    def reader(self, run: str) -> RunReader | None:
        """Return the reader of a run that a message came from, or None if it is not followed.

        None, too, while its log is not visible yet: `look` will find it.
        """
        reader = self._readers.get(run)
        if reader is None and run not in self._over:
            reader = self._admit(run)
        return reader

    def catch_up(self, run: str) -> bool:
        """Note that a run is behind; return whether its log holds anything new."""
        reader = self._readers[run]
        try:
            size = _size(reader.path)
        except OSError as error:
            self._complain(run, error)
            return False
        if size is None:
            if _is_removed(reader.path):
                logger.warning("%s was removed; run %s is not followed any more", reader.path, run)
                self._end(run)
            return False
        if size != reader.offset:  # smaller: let the reader say what that means
            self._behind[run] = size
        return size > reader.offset

    def look(self) -> None:
        """Look at the ends of unfinished logs and for new ones."""
        now = time.monotonic()
        self.look_at = now + LOOK_SECONDS
        for run in self._readers.keys() - self._behind.keys():  # those wait for their turn anyway
            self.catch_up(run)
        try:
            self._list(now)
            self._unlisted = ""
        except OSError as error:
            if not self._unlisted:
                logger.warning(
                    "%s cannot be listed and is tried again: %s", self._log.directory, error
                )
            self._unlisted = str(error)
        if self._start is not None:
            self._look_at_resting(self._start)

    def _list(self, now: float) -> None:
        """Look for logs that are new, if there may be any."""
        mtime = self._log.directory.stat().st_mtime_ns
        # a file that was made within one tick of the clock after a listing leaves mtime as it was
        settled = time.time_ns() - mtime > 2_000_000_000
        if mtime == self._listed and settled and now < self._list_at:
            return
        found = sorted(self._log.found(skip=self._known))
        self._listed = mtime
        self._list_at = now + LIST_SECONDS
        if self._start is None:
            self._start = NewestFirst(found)
            self._known.update(self._start)
        else:
            for log in found:
                self._admit_or_rest(log, self._start)

    def _admit_or_rest(self, log: Found, resting: NewestFirst) -> None:
        if self._since is not None and log.written < self._since * 1e9:
            self._known.add(log.run)
            resting.rest(log)
        else:
            self._admit(log.run)

    def _look_at_resting(self, resting: NewestFirst) -> None:
        for run in resting.look(LOOK_LOGS):
            path = self._log.path(run)
            try:
                nbytes = path.stat().st_size
            except FileNotFoundError:
                if _is_removed(path):
                    resting.discard(run)
                continue
            except OSError as error:
                self._complain(run, error)
                continue
            if resting.grew(run, nbytes):
                self._admit(run)

    def fill(self) -> list[Entry]:
        """Read a part of a run that is behind; the runs take turns."""
        run, size = self._behind.popitem(last=False)
        reader = self._readers[run]
        try:
            entries = reader.read(FILL_BYTES)
        except LogCorruptError as error:
            logger.error("run %s is followed no further: %s", run, error)
            self._end(run)
            return []
        except OSError as error:
            self._complain(run, error)
            return []
        # Up to `size` only, which has an end: a run that is written faster than it
        # is consumed must not hold up the others.
        if entries and reader.offset < size:
            self._behind[run] = size
        self.finish(reader)
        return entries

    def refill(self) -> list[Entry]:
        """Read the beginning of the newest log that is left of those at the start, if it is wanted.

        `fill` reads the rest of it.
        """
        assert self._start is not None
        assert self._more is not None
        if not self._more():
            self._start.stop()
        run = self._start.take()
        if run is None or self._admit(run) is None or run not in self._behind:
            return []
        self._refilled = run
        self._behind.move_to_end(run, last=False)
        return self.fill()

    def _complain(self, run: str, error: OSError) -> None:
        """Say once that a log cannot be read; `look` tries it again, others go on."""
        if run not in self._unreadable:
            self._unreadable.add(run)
            logger.warning("the log of run %s cannot be read and is tried again: %s", run, error)

    def finish(self, reader: RunReader) -> None:
        """Forget the reader of a run if its stop document was delivered."""
        if reader.complete:
            self._end(reader.run)

    def _admit(self, run: str) -> RunReader | None:
        try:
            self._log.path(run).stat()
            wanted = self._wanted is None or self._wanted(run)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._known.discard(run)  # the next listing shows it again
            self._complain(run, error)
            return None
        except Exception as error:  # its documents may say anything
            logger.warning("run %s is not followed, for its log is odd: %r", run, error)
            wanted = False
        self._known.add(run)
        if self._start is not None:
            self._start.discard(run)
        if not wanted:
            self._over.add(run)
            return None
        reader = self._readers[run] = self._log.reader(
            run, patience=PATIENCE_SECONDS, arrays=self._arrays
        )
        self.catch_up(run)
        return reader

    def _end(self, run: str) -> None:
        self._over.add(run)
        self._readers.pop(run, None)
        self._behind.pop(run, None)


def _size(path: Path) -> int | None:
    """Return the size of a file, None if it is gone.

    Through an open: on network file systems `stat` may be seconds behind.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return os.fstat(fd).st_size
    finally:
        os.close(fd)


def _is_removed(path: Path) -> bool:
    """Return whether a file is gone from a directory that is there; one that is away comes back."""
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.stat(path.name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except OSError:
        pass
    finally:
        os.close(directory)
    return False
