"""A history of settings on disk, which several processes and threads go on with."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from p06bs.bus.closing import Closing
from p06bs.model.modality import Modality
from p06bs.settings.again import Entry
from p06bs.settings.history import SettingsHistory
from p06bs.settings.journal import Journal

log = logging.getLogger(__name__)


class KeptHistory(Closing):
    """Keep what is decided in a journal, and know what others have decided.

    Parameters
    ----------
    path : Path
        Of the journal.
    name : str
        Name of the pipeline.
    modality : Modality
        With the settings of the configuration file.

    Attributes
    ----------
    history : SettingsHistory
    lock : threading.Lock
        Is held while the history is read.

    Raises
    ------
    OSError
        If the journal cannot be written.
    """

    def __init__(self, path: Path, name: str, modality: Modality) -> None:
        self.name = name
        self.history = SettingsHistory(modality)
        self.lock = threading.Lock()
        self._blind = ""  # why it cannot be seen what others decide
        self._journal = Journal(path)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Know all that was decided, and have nobody else decide meanwhile."""
        with self.lock, self._journal.locked():
            self._take_news()
            yield

    def _take_news(self) -> None:
        for entry in self._journal.news():
            try:
                self.history.take(entry)
            except Exception as error:  # whatever it holds, those behind it count
                log.error("%s: an entry is left out: %r", self._journal.path, error)

    def look(self) -> None:
        """Take what other processes have decided; later, if one is at it. The lock is held."""
        try:
            if self._journal.changed:
                with self._journal.locked(wait=False) as mine:
                    if mine:
                        self._take_news()
            self._blind = ""
        except OSError as error:
            if str(error) != self._blind:
                self._blind = str(error)
                log.error("%s: what others change is not seen: %s", self.name, error)

    def append(self, entry: Entry, *, sync: bool = True) -> None:
        """Keep an entry, while this process is `deciding`."""
        self._journal.append(entry, sync=sync)
        self.history.take(entry)

    def note(self, make: Callable[[], Entry | None]) -> None:
        """Keep what happened to a run; if that cannot be written it is known here at least."""
        with self.lock:
            try:
                with self._journal.locked():
                    self._take_news()
                    entry = make()
                    if entry is not None:
                        self.append(entry)
                return
            except OSError as error:
                log.error("%s: %s", self.name, error)
            entry = make()
            if entry is not None:
                self.history.take(entry)

    def close(self) -> None:
        """Close the journal; may be called twice."""
        with self.lock:  # a change may be on its way from another thread
            self._journal.close()
