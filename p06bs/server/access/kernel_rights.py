"""Rights as the kernel answers when it is asked as the user."""

import contextlib
import logging
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from p06bs.server.access.roots import Roots, within
from p06bs.server.access.users import is_name

logger = logging.getLogger(__name__)

SCRIPT = Path(__file__).with_name("as_user.py")
PATIENCE = 3.0
"""Seconds without an answer after which a file system is said to hang."""
HANGS = 3
"""So many folders may hang in one question; what is left then is denied unasked."""
STUCK = 8
"""So many processes that no signal ends may be there; beyond, nobody is asked."""
KILL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Answers:
    """What a process said: real paths of roots and folders, "" being a refusal."""

    places: list[bytes]
    hangs: bool


class KernelRights:
    """Ask the kernel as the user: whatever rights the file system knows, NFSv4 ACLs too.

    Each question starts a process that becomes the user, opens the folders and enters
    them, and says where it arrived; that place must lie within a root. A folder at
    which a file system hangs is denied, and asked last from then on.

    Parameters
    ----------
    roots : Roots
    patience : float
        Seconds to wait for an answer.

    Raises
    ------
    PermissionError
        If this process is not root's: others cannot become the user.
    """

    def __init__(self, roots: Roots, patience: float = PATIENCE) -> None:
        if os.geteuid() != 0:
            raise PermissionError(
                'rights = "kernel" needs a server that root started, which can ask the kernel as '
                f"each user (this one is of uid {os.geteuid()}); without root, set rights = "
                '"mode-bits" in [server.access]'
            )
        self._roots = roots
        self._patience = patience
        self._lock = threading.Lock()
        self._suspects: set[str] = set()
        self._stuck: list[subprocess.Popen[bytes]] = []

    def describe(self) -> str:
        """Return which rights are in force, for the log."""
        return f"rights as the kernel answers to each user, within {self._roots}"

    def visible(self, user: str, folders: Iterable[str]) -> frozenset[str]:
        """Return those of the folders that the user may read and enter now."""
        suspects = self._suspects.copy()
        named = filter(self._roots.name, folders) if is_name(user) else ()
        left = sorted(named, key=lambda folder: (folder in suspects, folder))
        seen: set[str] = set()
        for hung in range(1, HANGS + 1):
            if not left:
                break
            answers = self._ask(user, left)
            roots = [place for place in answers.places[: len(self._roots.paths)] if place]
            places = answers.places[len(self._roots.paths) :]
            self._suspects.difference_update(left[: len(places)])
            seen.update(f for f, place in zip(left, places, strict=False) if within(place, roots))
            if not answers.hangs:
                break
            if len(answers.places) < len(self._roots.paths):
                logger.warning("a root hangs: %d folders are denied to %s", len(left), user)
                break
            suspect, *left = left[len(places) :]
            self._suspects.add(suspect)
            logger.warning("%s does not answer, it is denied to %s", suspect, user)
            if hung == HANGS and left:
                logger.warning("too much hangs: %d more folders are denied to %s", len(left), user)
        return frozenset(seen)

    def _ask(self, user: str, folders: list[str]) -> _Answers:
        with self._lock:
            self._stuck = [process for process in self._stuck if process.poll() is None]
            if len(self._stuck) >= STUCK:
                logger.warning("%d processes hang in file systems: nobody is asked", STUCK)
                return _Answers([], False)
        try:
            return self._converse(user, folders)
        except OSError as error:
            logger.error("cannot ask as %s, who sees nothing: %s", user, error)
            return _Answers([], False)

    def _converse(self, user: str, folders: list[str]) -> _Answers:
        command = [sys.executable, "-I", "-S", str(SCRIPT), user, str(len(self._roots.paths))]
        paths = b"".join(os.fsencode(path) + b"\0" for path in (*self._roots.paths, *folders))
        with contextlib.ExitStack() as files:
            questions = files.enter_context(open(os.memfd_create("questions"), "w+b"))
            errors = files.enter_context(open(os.memfd_create("errors"), "w+b"))
            questions.write(paths)
            questions.seek(0)
            process = subprocess.Popen(
                command, stdin=questions, stdout=subprocess.PIPE, stderr=errors, cwd="/", env={}
            )
            assert process.stdout is not None
            files.enter_context(process.stdout)
            said, hangs = _listen(process.stdout.fileno(), self._patience)
            if hangs:
                process.kill()
            try:
                process.wait(KILL_SECONDS)
            except subprocess.TimeoutExpired:
                with self._lock:
                    self._stuck.append(process)
            if process.returncode and not hangs:
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip()
                logger.error("asking as %s ended with %d: %s", user, process.returncode, text)
        return _Answers(said.split(b"\0")[:-1], hangs)


def _listen(descriptor: int, patience: float) -> tuple[bytes, bool]:
    """Return what came until the end, and whether nothing came for `patience` seconds."""
    said = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while poll.poll(patience * 1000):
        part = os.read(descriptor, 1 << 16)
        if not part:
            return bytes(said), False
        said += part
    return bytes(said), True
