"""Who has failed to log in too often: counts what the application answers."""

import math
from collections.abc import Callable, Iterable

from starlette.types import Scope

from p06bs.server.gate.bodies import RefusedError
from p06bs.server.gate.logins import FailedLogins, Seen
from p06bs.server.gate.routes import API

VERIFIED = tuple(
    f"{API}/{kind}/"
    for kind in ("metadata", "search", "array", "table", "container", "node", "auth/whoami")
)
"""Below these a good answer says that the key was good."""

NO_SUCH_KEY = (b"Invalid API key", b"had scopes []")
"""What Tiled says of a key that is none; of one with too few scopes it says which it has."""

Who = tuple[str, str]


def address(scope: Scope) -> str:
    """Return the address that a request comes from."""
    client = scope.get("client")
    return client[0] if client else "local"


class Attempts:
    """Ask before a key or a password is tried, and note what came of it.

    Parameters
    ----------
    failures : FailedLogins
    good, wrong : Seen
        Keys that were good lately pass while their address waits: nobody can lock out
        those who work behind the same address. Keys that were wrong count once: an old
        key in some dashboard, tried every second, is no guess.
    clock : callable
        Seconds.
    """

    def __init__(
        self, failures: FailedLogins, good: Seen, wrong: Seen, clock: Callable[[], float]
    ) -> None:
        self.failures = failures
        self._good = good
        self._wrong = wrong
        self._clock = clock

    def check(self, scope: Scope, digest: bytes) -> None:
        """Complain if the address has to wait and nothing is known of the key.

        Raises
        ------
        RefusedError
            With the seconds to wait.
        """
        if digest not in self._good and digest not in self._wrong:
            self.check_login([("address", address(scope))])

    def check_login(self, who: Iterable[Who]) -> None:
        """Complain if one of these has to wait.

        Raises
        ------
        RefusedError
            With the seconds to wait.
        """
        seconds = self.failures.wait(self._clock(), who)
        if seconds > 0:
            raise RefusedError(
                429, f"Too many failed logins; try again in {math.ceil(seconds)} s.", seconds
            )

    def note(self, scope: Scope, digest: bytes, status: int, body: bytes) -> None:
        """Note the answer to a request with a key."""
        if status == 401 and any(said in body for said in NO_SUCH_KEY):
            self.wrong(scope, digest)
        elif status < 300 and scope["method"] != "OPTIONS" and scope["path"].startswith(VERIFIED):
            self.good(digest)

    def good(self, digest: bytes) -> None:
        """Note that a key was good."""
        self._good.add(digest)
        self._wrong.discard(digest)

    def wrong(self, scope: Scope, digest: bytes) -> None:
        """Note that a key was none."""
        self._good.discard(digest)
        if digest not in self._wrong:
            self._wrong.add(digest)
            self.failed([("address", address(scope))])

    def note_login(self, who: list[Who], status: int, body: bytes) -> None:
        """Note the answer to a login with a password, or to a code."""
        if status == 401:
            self.failed(who)
        elif status == 200:
            for one in who:
                if one[0] == "user":
                    self.failures.forget(one)

    def failed(self, who: Iterable[Who]) -> None:
        """Count a failure."""
        self.failures.failed(self._clock(), who)
