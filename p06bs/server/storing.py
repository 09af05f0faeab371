"""Take derived runs that were computed elsewhere, as the log files that they are."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import anyio
from anyio import to_thread
from fastapi import APIRouter, HTTPException, Request, Security
from tiled.server.authentication import check_scopes

from p06bs.bus.errors import WireError
from p06bs.bus.framing import last_entry
from p06bs.bus.log import DocumentLog
from p06bs.bus.reader import LogError, read_log
from p06bs.http_api import RUNS
from p06bs.metadata import folder_of
from p06bs.model.documents import Document, is_derived
from p06bs.server.callers import Caller, viewer_of
from p06bs.server.files.incoming import incoming
from p06bs.server.gate.routes import route

ROUTES = (route("PUT", rf"{RUNS}/[^/]+", upload=True),)
"""What the gate has to let pass."""


def storing_router(log: DocumentLog) -> APIRouter:
    """Return the route ``PUT /api/p06bs/v1/runs/UID``, which takes a derived run's log file.

    The file is checked frame by frame, and appears in the directory of the logs
    whole or not at all; from there it comes to the sink and into the offline DB
    like any run. For services, and for the single user; a token needs the scopes
    ``create:node`` and ``write:data``.

    Parameters
    ----------
    log : DocumentLog
        Where runs are kept.
    """
    router = APIRouter(prefix=RUNS, tags=["runs"])

    @router.put("/{uid}", status_code=201)
    async def store(
        request: Request,
        uid: str,
        caller: Caller,
        _: Annotated[None, Security(check_scopes, scopes=["create:node", "write:data"])],
    ) -> dict[str, str]:
        if caller.principal is not None and caller.principal.type.value != "service":
            raise HTTPException(403, "Runs are stored by services, with a service's token.")
        try:
            path = log.path(uid)
        except LogError as reason:
            raise HTTPException(400, str(reason)) from reason
        if await to_thread.run_sync(path.exists):
            raise HTTPException(409, f"Run {uid} is here already.")
        try:
            with incoming(log.directory) as directory:
                file = directory / path.name
                await _receive(file, request.stream())
                start = await to_thread.run_sync(_checked, file, uid)
                viewer = viewer_of(request, caller)
                if viewer is not None and not viewer.may_see(folder_of(start)):
                    raise HTTPException(403, "The token is not for the run's beamtime folder.")
                # Atomic, and never over a run that is there.
                await to_thread.run_sync(os.link, file, path)
        except FileExistsError:
            raise HTTPException(409, f"Run {uid} is here already.") from None
        except OSError as error:
            full = f"The log directory takes no more: {error.strerror}"
            raise HTTPException(507, full) from error
        return {"uid": uid}

    return router


async def _receive(path: Path, blocks: AsyncIterator[bytes]) -> None:
    """Write a request's body, which the gate bounds, to a file that is on the disk afterwards."""
    async with await anyio.open_file(path, "wb") as file:
        async for block in blocks:
            await file.write(block)
        await file.flush()
        await to_thread.run_sync(os.fsync, file.wrapped.fileno())


def _checked(path: Path, uid: str) -> Document:
    """Return the start document of the whole log of the derived run `uid`.

    Raises
    ------
    HTTPException
        422 if the file is something else.
    """
    start: Document | None = None
    try:
        last = last_entry(path)
        if last is None or last.name != "stop":
            raise HTTPException(422, "The file does not end with a run's stop document.")
        if last.run != uid:
            raise HTTPException(422, f"The file holds run {last.run}, and not {uid}.")
        for entry in read_log(path):
            if start is None and not (entry.name == "start" and is_derived(entry.document)):
                raise HTTPException(422, "The file is not the log of a derived run.")
            start = start or entry.document
            if start.get("uid") != uid:
                raise HTTPException(422, f"The start document has uid {start.get('uid')!r}.")
    except (LogError, WireError) as error:
        # Errors name the file, of which the client knows nothing.
        said = str(error).replace(str(path), path.name)
        raise HTTPException(422, f"The file is damaged: {said}") from None
    if start is None:
        raise HTTPException(422, "The file does not begin as a run's log does.")
    return start
