"""``p06bs up``, ``down`` and ``restart``: what starts and stops services."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from p06bs.cli.errors import UsageError
from p06bs.cli.terminal import (
    progress_bar,
    remark,
    remarks,
    stoppable,
)

if TYPE_CHECKING:
    from p06bs.services.supervision import Supervision
    from p06bs.services.supervisord import Status

SHOWN = 3
"""So many names of services that are waited for."""

File = Annotated[Path, typer.Argument(help="configuration, for example services/sim.toml")]


def complete_service(context: typer.Context, beginning: str) -> list[str]:
    """Return the names of services in the file that is on the command line already."""
    from p06bs import config

    try:
        found = config.definitions(config.load(context.params["file"]))
    except (ValueError, KeyError, TypeError):
        return []
    return [name for name in found if name.startswith(beginning)]


Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="services; all replicas of one that has some; all, if none is named",
        autocompletion=complete_service,
    ),
]


def up(
    file: File,
    names: Names = None,
    *,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="return once all are ready; p06bs down ends them")
    ] = False,
    logs: Annotated[
        Path | None, typer.Option(help="directory of the services' logs; services beside the log")
    ] = None,
) -> None:
    """Start this host's services of a configuration file; Ctrl-C or p06bs down stops them.

    Where they are up already, what does not run or is new in the file is started, and what the
    file has no more is stopped.
    """
    from p06bs.services.supervision import Supervision

    services = Supervision(file, logs)
    if services.is_up():
        _keep_logs(services, logs)
        _reload(services, names or ())
        return
    lines = services.lines()
    width = max(map(len, services.definitions), default=0)

    def show() -> None:
        for name, line in lines:
            print(f"{name:>{width}} | {line}", flush=True)

    stays = killed = False
    codes: dict[str, int] = {}
    with stoppable() as stopping:
        started = services.start(names or ())
        try:
            if _wait(services, stopping, started):
                if detach:
                    stays = True
                    remark(f"{len(started)} services are up; p06bs down stops them")
                    return
                services.watch()
                print("all services are up; Ctrl-C stops them", flush=True)
            while not stopping() and services.is_up():
                show()
                time.sleep(0.2)
            killed = not stopping() and services.was_killed()
        finally:
            if not stays:
                codes = _stop(services)
                show()
    if killed:
        raise UsageError("supervisord was killed, and the services ended with it")
    _complain(codes)


def down(file: File, names: Names = None) -> None:
    """Stop the services of a configuration file, those that others need last."""
    from p06bs.services.supervision import Supervision

    services = Supervision(file)
    if not services.is_up():
        services.stop()  # what one leaves that was killed
        remark(f"no services of {file} are up")
        return
    if names:
        with remarks.status("stopping services"):
            remark(f"{', '.join(services.halt(names))} ended; the others go on")
        return
    codes = _stop(services)
    _complain(codes)
    remark(f"{len(codes)} services have ended")


def restart(file: File, names: Names = None) -> None:
    """Stop services in good order, and start them again."""
    from p06bs.services.supervision import Supervision

    services = Supervision(file)
    if not services.is_up():
        raise UsageError(f"no services of {file} are up; p06bs up {file} starts them")
    with stoppable() as stopping:
        with remarks.status("stopping services"):
            restarted = services.restart(names or ())
        _wait(services, stopping, restarted)


def _keep_logs(services: "Supervision", logs: Path | None) -> None:
    """Refuse another directory of logs than that of services that are up."""
    now = {status.log.parent for status in services.statuses().values()}
    if logs is not None and now and now != {logs.absolute()}:
        raise UsageError(
            f"services are up already, and log to {', '.join(map(str, now))}; p06bs down, and "
            "then up --logs, has them log elsewhere"
        )


def _reload(services: "Supervision", names: Sequence[str]) -> None:
    with stoppable() as stopping:
        with remarks.status("starting services"):
            started, stopped = services.reload(names)
        if started:
            _wait(services, stopping, started)
    remark(
        f"services were up; started {', '.join(started) or 'none'}, "
        f"stopped {', '.join(stopped) or 'none'}"
    )


def _wait(services: "Supervision", stopping: Callable[[], bool], names: Sequence[str]) -> bool:
    """Wait until services are ready, and show for which; say of each that fails why, once."""
    said: set[str] = set()
    with progress_bar() as progress:
        task = progress.add_task("services", total=None)

        def show(late: "Sequence[Status]", all: int) -> None:
            names = ", ".join(status.name for status in late[:SHOWN])
            more = f" and {len(late) - SHOWN} more" if len(late) > SHOWN else ""
            text = f"waiting for {names}{more}" if late else "services"
            progress.update(task, description=text, completed=all - len(late), total=all)
            for status in late:
                if status.state == "BACKOFF" and status.name not in said:
                    said.add(status.name)
                    remark(f"{status.name} does not start yet: {status.last_words}")

        return services.wait_ready(stopping, show, names)


def _stop(services: "Supervision") -> dict[str, int]:
    with remarks.status("stopping services"):
        return services.stop()


def _complain(codes: dict[str, int]) -> None:
    bad = [f"{name} ({code})" for name, code in codes.items() if code]
    if bad:
        raise UsageError(
            f"did not end in good order, with statuses: {', '.join(bad)}; see the logs"
        )
