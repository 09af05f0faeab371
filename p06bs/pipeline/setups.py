"""What revisions of the settings mean for one run: outputs at once, made ready elsewhere.

`prepare` may take minutes, and the process that hosts the pipelines must not wait for it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

from p06bs.model.binding import Binding
from p06bs.model.compute import Setup, make_ready
from p06bs.model.modality import Modality, ModalitySettings
from p06bs.model.revisions import Revision

Submit = Callable[[Callable[[], Setup]], "Future[Setup]"]
"""Have a setup made; what making it raises is the future's exception."""


class SetupError(RuntimeError):
    """A modality could not be made ready for a run."""


def fulfil(future: "Future[Setup]", make: Callable[[], Setup]) -> None:
    """Make a setup for a future."""
    try:
        future.set_result(make())
    except (Exception, SystemExit) as error:  # an author's code may raise anything
        future.set_exception(error)


def at_once(make: Callable[[], Setup]) -> "Future[Setup]":
    """Make a setup here and now."""
    future: Future[Setup] = Future()
    fulfil(future, make)
    return future


class Setups:
    """Keep the setups of one run.

    Parameters
    ----------
    modality : Modality
    binding : Binding
    submit : callable
        Makes a setup, where others need not wait for it.
    """

    def __init__(self, modality: Modality, binding: Binding, submit: Submit = at_once) -> None:
        self.modality = modality
        self.binding = binding
        self._submit = submit
        self._outlines: dict[int, Setup] = {}
        self._made: dict[str, Future[Setup]] = {}  # by digest of the settings
        self._digests: dict[int, str] = {}
        self._proposed: deque[Revision] = deque()

    def outline(self, settings: ModalitySettings) -> Setup:
        """Return the setup of settings as it is before `prepare`: what the outputs are."""
        outputs = dict(self.modality.outputs(settings, self.binding.bound))
        return Setup(self.modality, settings, self.binding, None, outputs)

    def adopt(self, revision: Revision) -> Setup:
        """Return the outline of a revision that is in force now, or was recorded as such."""
        if revision.number not in self._outlines:
            self._outlines[revision.number] = self.outline(revision.settings)
            self._digests[revision.number] = revision.digest
            if self.modality.is_stateful:
                self._make(revision)
        return self._outlines[revision.number]

    def __getitem__(self, number: int) -> Setup:
        return self._outlines[number]

    def trial(self, revision: Revision) -> "Future[Setup]":
        """Have the modality made ready with settings, once; return what comes of it."""
        self._make(revision)
        return self._made[revision.digest]

    def propose(self, revision: Revision) -> None:
        """Have settings tried on this run; `judged` says what came of it."""
        self._make(revision)
        self._proposed.append(revision)

    def judged(self) -> Iterator[tuple[Revision, BaseException | None]]:
        """Yield the proposals that have been tried, in order, and why not to take them."""
        while self._proposed:
            tried = self.trial(self._proposed[0])
            if not tried.done():
                return
            yield self._proposed.popleft(), tried.exception()

    def ready(self, number: int) -> Setup | None:
        """Return a revision's setup for `scan` and `fold`; None while it is being made.

        Raises
        ------
        SetupError
            With what `prepare` raised.
        """
        made = self._made[self._digests[number]]
        if not made.done():
            return None
        problem = made.exception()
        if problem is not None:
            raise SetupError(f"{type(problem).__name__}: {problem}") from problem
        return made.result()

    def _make(self, revision: Revision) -> None:
        if revision.digest not in self._made:
            make = partial(make_ready, self.modality, revision.settings, self.binding)
            self._made[revision.digest] = self._submit(make)
