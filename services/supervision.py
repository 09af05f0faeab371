"""Start the services of a configuration file under supervisord, watch them, and stop them.

supervisord restarts what dies, later and later, and keeps a log of each service. It goes on
when whoever started it ends; `Supervision` finds it again by the file's path.
"""

import hashlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from pathlib import Path

from p06bs import config
from p06bs.bus.membership import Membership
from p06bs.services._lines import Lines
from p06bs.services._order import choose, turn, turn_of
from p06bs.services._rivals import refuse
from p06bs.services._runtime import alone
from p06bs.services._supervisord_conf import Program
from p06bs.services.supervisord import Status, SupervisionError, Supervisord, wait_ended

LOOK_SECONDS = 0.2
"""Interval at which is asked what has become ready, or has ended."""


class Supervision:
    """The services of one configuration file on this host.

    Parameters
    ----------
    file : Path
    logs : Path, optional
        Directory of the services' logs; ``services`` beside that of the document logs by
        default.
    seconds : float, optional
        How long an answer of supervisord is waited for; see `Supervisord`.

    Raises
    ------
    ConfigurationError
        If the file cannot be used; names each field.
    """

    def __init__(
        self, file: Path, logs: Path | None = None, *, seconds: float | None = None
    ) -> None:
        self.file = file.resolve()
        self.configuration = config.load(file)
        everywhere = config.definitions(self.configuration)
        here = config.of_this_host(everywhere)
        self.definitions = dict(sorted(here.items(), key=lambda item: turn(item[1].kind)))
        self._hosts = sorted({one.runs_on for one in everywhere.values()} - {""})
        self.logs = (logs or self.configuration.bus.log.parent / "services").absolute()
        digest = hashlib.sha256(os.fsencode(self.file)).hexdigest()[:16]
        self._supervisord = Supervisord(digest, self.logs, seconds)

    def was_killed(self) -> bool:
        """Return whether the supervisord that was started here, and is not up, ended badly."""
        return self._supervisord.wait() not in (0, None)

    def is_up(self) -> bool:
        """Return whether a supervisord has the file's services."""
        return self._supervisord.is_up()

    def statuses(self) -> dict[str, Status]:
        """Return what supervisord knows of each service."""
        return self._supervisord.statuses()

    def start(self, names: Iterable[str] = ()) -> list[str]:
        """Start supervisord and services; return which, at once.

        Parameters
        ----------
        names : iterable of str
            All replicas of one that has some; all services, if none is named.

        Raises
        ------
        ConfigurationError
            If a service could not use what is configured; names each.
        SupervisionError
            If the services are up already, or there is none of a name; if others have their
            names or their Topology Manager's address, or supervisord does not start; says why.
        """
        with self._alone():
            if self.is_up():
                raise SupervisionError(f"the services of {self.file} are up already; see p06bs ls")
            if not self.definitions:
                raise SupervisionError(
                    f"{self.file} describes no service for this host, {socket.gethostname()}, "
                    f"but for {', '.join(self._hosts) or 'none'}"
                )
            chosen = choose(names, self.definitions, self.definitions)
            self._check()
            refuse(self.configuration.bus, self.definitions)
            self._supervisord.start(self.file, self._programs())
            self._supervisord.begin(chosen)
            return chosen

    def reload(self, names: Iterable[str] = ()) -> tuple[list[str], list[str]]:
        """Start what is new in the file, or does not run; stop what the file has no more.

        What runs and did not change goes on.

        Parameters
        ----------
        names : iterable of str
            Start only these; all replicas of one that has some.

        Returns
        -------
        list of str, list of str
            What was started, and what was stopped.

        Raises
        ------
        ConfigurationError
            If a service could not use what is configured; names each.
        SupervisionError
            If there is none of a name, others have that of a new one, or one does not end.
        """
        with self._alone():
            chosen = choose(names, self.definitions, self.definitions)
            self._check()
            known = self.statuses()
            new = {name: one for name, one in self.definitions.items() if name not in known}
            refuse(self.configuration.bus, new)
            before = {name for name, status in known.items() if not status.ended}
            ask = self._supervisord.ask
            self._supervisord.write(self._programs())
            added, changed, removed = ask("reloadConfig")[0]
            self._stop_in_order([*removed, *changed])
            for name in [*removed, *changed]:
                ask("removeProcessGroup", name)
            for name in [*added, *changed]:
                ask("addProcessGroup", name)
            stopped = before.intersection((*removed, *changed))
            again = {name for name in self.definitions if name in stopped}
            begun = [n for n in self.definitions if n in again or (n in chosen and n not in before)]
            self._supervisord.begin(begun)
            return begun, sorted(stopped)

    def wait_ready(
        self,
        stopping: Callable[[], bool] = lambda: False,
        progress: Callable[[Sequence[Status], int], None] = lambda late, all: None,
        names: Iterable[str] = (),
    ) -> bool:
        """Wait until services are registered; return False if `stopping` became true before.

        Parameters
        ----------
        stopping : callable
        progress : callable
            Told again and again which are not ready, and how many there are.
        names : iterable of str
            Which to wait for; all, if none is named.

        Raises
        ------
        SupervisionError
            If one ends for good, or is not ready in time; says what it said last.
        """
        asked = set(names)
        seconds = 60.0 + 2.0 * len(self.definitions)
        until = time.monotonic() + seconds
        host = socket.gethostname()
        bus = self.configuration.bus
        with Membership(bus.topology, bus.open_keys()) as peers:
            while not stopping():
                there = {(one.name, one.pid) for one in peers.services if one.host == host}
                wanted = [s for s in self.statuses().values() if not asked or s.name in asked]
                late = [s for s in wanted if (s.name, s.pid) not in there]
                progress(late, len(wanted))
                if not late:
                    return True
                for status in late:
                    if status.refused:
                        raise SupervisionError(
                            f"service {status.name} ended with status {status.code}: "
                            f"{status.last_words}"
                        )
                if time.monotonic() > until:
                    if not peers.listed:
                        raise SupervisionError(f"no Topology Manager answers at {bus.topology}")
                    missing = ", ".join(f"{s.name} ({s.last_words})" for s in late)
                    raise SupervisionError(f"not ready in {seconds:g} s: {missing}")
                time.sleep(LOOK_SECONDS)
        return False

    def watch(self) -> None:
        """Say that this process shows the services until they end; who stops them waits for it."""
        self._supervisord.watch()

    def restart(self, names: Iterable[str] = ()) -> list[str]:
        """Stop services in good order and start them again; return which.

        Parameters
        ----------
        names : iterable of str
            All replicas of one that has some; all services, if none is named.

        Raises
        ------
        SupervisionError
            If there is none of a name.
        """
        chosen = self.halt(names)
        self._supervisord.begin(chosen)
        return chosen

    def halt(self, names: Iterable[str]) -> list[str]:
        """Stop some services in good order, and leave the others; return which.

        Raises
        ------
        SupervisionError
            If there is none of a name.
        """
        chosen = choose(names, self.statuses(), self.definitions)
        self._stop_in_order(chosen)
        return chosen

    def begin(self, name: str) -> None:
        """Have one service started; returns at once.

        Raises
        ------
        SupervisionError
            If it runs, or is none of these.
        """
        self._supervisord.ask("startProcess", name, False)

    def end(self, name: str) -> None:
        """Have one service ended in good order; returns at once.

        Raises
        ------
        SupervisionError
            If it does not run, or is none of these.
        """
        self._supervisord.ask("stopProcess", name, False)

    def stop(self) -> dict[str, int]:
        """Stop all services and supervisord; return exit statuses of services, 0 for good order.

        Those that others need end last. Returns nothing if somebody else has stopped them.
        """
        with self._alone():
            if not self.is_up():
                self._supervisord.await_orphans()
                self._supervisord.forget()
                return {}
            killed = self._stop_in_order(self.statuses())
            statuses = self.statuses()
            watcher = self._supervisord.watcher()
            self._supervisord.shut_down()
        wait_ended(watcher)
        # Killed by SIGTERM itself: it was just started and had no handler for it yet.
        return {
            name: 0 if status.code == -1 and name not in killed else status.code
            for name, status in statuses.items()
        }

    def lines(self) -> Lines:
        """Return what the services log from now on."""
        return Lines({name: self.logs / f"{name}.log" for name in self.definitions})

    def _check(self) -> None:
        """Refuse what no service could use, while nothing has been started."""
        wrong: list[str] = []
        for name, definition in self.definitions.items():
            try:
                config.find_kind(definition.kind).check(definition)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise config.ConfigurationError("; ".join(wrong))

    def _stop_in_order(self, names: Iterable[str]) -> set[str]:
        """Stop services, those that others need last; return those that had to be killed."""
        killed: set[str] = set()
        for _, now in groupby(reversed(choose((), names, self.definitions)), self._turn):
            killed |= self._supervisord.end(list(now))
        return killed

    def _turn(self, name: str) -> int:
        return turn_of(name, self.definitions)

    def _programs(self) -> list[Program]:
        return [
            # A service whose table changed is another one.
            Program(name, turn(one.kind), {**one.environment, "P06BS_DEFINITION": _digest(one)})
            for name, one in self.definitions.items()
        ]

    def _alone(self) -> AbstractContextManager[None]:
        """Keep others from starting or stopping the same services meanwhile."""
        return alone(self._supervisord.directory)


def _digest(definition: config.Definition) -> str:
    return hashlib.sha256(definition.model_dump_json().encode()).hexdigest()[:16]
