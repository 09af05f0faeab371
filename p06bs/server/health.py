"""Is it alive, and is it ready: for those who operate the server."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

Check = Callable[[], bool | Awaitable[bool]]

CHECK_SECONDS = 3.0
"""Time in which a check has to answer; ``/health`` and ``/ready`` answer within it, too."""


def health_routes(
    alive: Mapping[str, Check], ready: Mapping[str, Check], seconds: float = CHECK_SECONDS
) -> APIRouter:
    """Return the routes ``/health`` and ``/ready``, which need no key.

    Parameters
    ----------
    alive : mapping of str to callable
        By name what must hold as long as the process is of use: where one says False,
        ``/health`` answers 503, and the process is to be restarted.
    ready : mapping of str to callable
        What must hold to serve well, like a full sink and a database that answers: where
        one says False, ``/ready`` answers 503, and it is to be waited for.
    seconds : float
        Time that the checks have.

    A check that raises, or does not answer in time, counts as False.
    """
    router = APIRouter()
    living, serving = _Checks(alive, seconds), _Checks({**alive, **ready}, seconds)

    async def health() -> JSONResponse:
        return _answer(await living.ask(), "ok", "failed")

    async def readiness() -> JSONResponse:
        return _answer(await serving.ask(), "ready", "not ready")

    router.add_api_route("/health", health)
    router.add_api_route("/ready", readiness)
    return router


class _Checks:
    """Ask all at once, and wait for none longer than `seconds`.

    What hangs is asked again only when it has ended: the end of a connection may wait for
    the other side, too.
    """

    def __init__(self, checks: Mapping[str, Check], seconds: float) -> None:
        self._checks = checks
        self._seconds = seconds
        self._asked: dict[str, asyncio.Task[bool]] = {}

    async def ask(self) -> dict[str, bool]:
        for name, check in self._checks.items():
            if name not in self._asked or self._asked[name].done():
                self._asked[name] = asyncio.create_task(_holds(check))
        asked = dict(self._asked)
        if asked:
            _, late = await asyncio.wait(asked.values(), timeout=self._seconds)
            for task in late:
                task.cancel()
        return {name: _held(task) for name, task in asked.items()}


def _held(task: "asyncio.Task[bool]") -> bool:
    return task.done() and not task.cancelled() and task.result()


async def _holds(check: Check) -> bool:
    try:
        answer = check()
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except Exception:  # whatever is wrong, it is not well; who asks gets to know which
        return False


def _answer(answers: Mapping[str, bool], good: str, bad: str) -> JSONResponse:
    well = all(answers.values())
    failed = [name for name, answer in answers.items() if not answer]
    content: dict[str, Any] = {"status": good if well else bad}
    if failed:
        content["failed"] = failed
    return JSONResponse(content, 200 if well else 503)
