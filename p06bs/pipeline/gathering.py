"""Gather the columns of one batch after the other, of which a detector's file may lack rows yet."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

from p06bs.bus.frames import Frames
from p06bs.model.binding import Binding
from p06bs.model.documents import Document
from p06bs.model.gather import NotYetError, gather
from p06bs.model.taken import Taken
from p06bs.pipeline.late import Late

log = logging.getLogger(__name__)

INTERVAL = 0.02

Gathered = tuple[dict[str, npt.NDArray[Any] | None], list[str]]
"""Columns by input, and a reason per event that could not be read."""


class Gathering:
    """Read batches of one raw run whose events are in memory.

    Which rows are given up is decided as in a running pipeline (`Late`).

    Parameters
    ----------
    resources : mapping
        Stream resources of the run, by uid.
    frames : Frames
        May be shared with other runs, in one thread.
    deadline : float
        Seconds without any progress of a file after which its missing rows are given up.
    """

    def __init__(self, resources: Mapping[str, Document], frames: Frames, deadline: float) -> None:
        self._resources = resources
        self._frames = frames
        self._late: Late[int] = Late(deadline)  # of one batch, which is called by its first row
        self._said: set[str] = set()

    def __call__(self, binding: Binding, rows: Taken, *, wait: bool) -> Gathered | None:
        """Return what a batch holds; None if a file lacks rows of it and nobody is to `wait`.

        Then the same batch is to be asked for again; a file is looked at no more often than
        `late.RETRY` allows.
        """
        batch = rows.first
        while True:
            self._late.due(time.monotonic())
            if not self._late.waiting:
                self._frames.final = self._late.is_final(batch)
                try:
                    gathered = gather(
                        binding, len(rows), rows.spans, self._resources, _identity, self._frames
                    )
                except NotYetError as missing:
                    now = time.monotonic()
                    self._late.report(batch, missing.place, missing.progress, now)
                    if self._late.is_final(batch):
                        continue
                    if wait:
                        self._say(missing)
                else:
                    self._late.done(batch)
                    return gathered
            if not wait:
                return None
            time.sleep(INTERVAL)

    def _say(self, missing: NotYetError) -> None:
        """Tell, once for each file, that it is waited for."""
        if missing.place not in self._said:
            self._said.add(missing.place)
            log.warning(
                "waiting for a detector, %g s from its last sign of life: %s",
                self._late.deadline,
                missing,
            )


def _identity(where: Any) -> Any:
    return where
