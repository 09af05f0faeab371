"""HTTP routes to what the sink holds: a list, and pins."""

from collections.abc import Mapping

from fastapi import APIRouter, HTTPException, Request, Security
from pydantic import BaseModel, Field
from tiled.server.authentication import check_scopes

from p06bs.http_api import SINK
from p06bs.server.access.policy import Everybody
from p06bs.server.callers import Caller, node_for, viewer_of
from p06bs.server.gate.routes import route
from p06bs.server.sink.retention import PinError
from p06bs.server.sink.sink import Held, Sink

ROUTES = (route("GET", SINK), route("POST", rf"{SINK}/[^/]+/(pin|unpin)"))
"""What the gate has to let pass."""


class HeldRun(BaseModel):
    """What is held of a run."""

    uid: str
    scan_id: int | str | None = None
    plan: str | None = Field(None, description="name of the plan, or of the modality")
    state: str = Field(description='"running" or "done"')
    rows: int = Field(description="rows of its events")
    rows_in_log: int = Field(description="rows of its events that are by reference: in the log")
    rows_in_files: int = Field(description="rows in files of detectors, by reference always")
    bytes: int = Field(description="what it takes in memory")
    idle: float = Field(description="seconds since somebody read its data")
    pinned: bool


class Holdings(BaseModel):
    """What the sink holds."""

    budget: int = Field(description="bytes, what is in flight included")
    limit: int = Field(description="bytes that runs may hold")
    bytes: int = Field(description="bytes that runs hold which the caller may see")
    refused: dict[str, int] = Field(
        description="documents that were refused, by kind and error; for who may see all runs"
    )
    runs: list[HeldRun]


def sink_router(sink: Sink, tree: str = "live") -> APIRouter:
    """Return routes for an application of Tiled that serves the sink as `tree`."""
    router = APIRouter(prefix=SINK, tags=["sink"])

    @router.get("", dependencies=[Security(check_scopes, scopes=["read:metadata"])])
    async def held(request: Request, caller: Caller) -> Holdings:
        """Return what is held of the runs that the caller may see."""
        visible = set(await node_for(request, tree, "read:metadata", caller))
        viewer = viewer_of(request, caller)
        runs = [_shown(run) for run in sink.held() if run.uid in visible]
        # Sums over all runs would tell of those of others.
        sees_all = viewer is None or isinstance(viewer, Everybody)
        return Holdings(
            budget=sink.budget,
            limit=sink.shares.held,
            bytes=sink.nbytes if sees_all else sum(run.bytes for run in runs),
            refused=dict(sink.refused) if sees_all else {},
            runs=runs,
        )

    @router.post("/{uid}/pin", dependencies=[Security(check_scopes, scopes=["write:metadata"])])
    async def pin(request: Request, uid: str, caller: Caller) -> dict[str, bool]:
        """Keep a run in memory; 409 if pinned runs would take more than their share."""
        await node_for(request, f"{tree}/{uid}", "write:metadata", caller)
        try:
            sink.pin(uid)
        except KeyError:
            raise HTTPException(404, f"Run {uid} is not in memory.") from None
        except PinError as error:
            raise HTTPException(409, str(error)) from None
        return {"pinned": True}

    @router.post("/{uid}/unpin", dependencies=[Security(check_scopes, scopes=["write:metadata"])])
    async def unpin(request: Request, uid: str, caller: Caller) -> dict[str, bool]:
        """Let a run leave memory when its turn comes."""
        await node_for(request, f"{tree}/{uid}", "write:metadata", caller)
        try:
            sink.unpin(uid)
        except KeyError:
            raise HTTPException(404, f"Run {uid} is not in memory.") from None
        return {"pinned": False}

    return router


def _shown(held: Held) -> HeldRun:
    start = held.metadata["start"]
    process = start.get("process")
    plan = process.get("name") if isinstance(process, Mapping) else start.get("plan_name")
    scan_id = start.get("scan_id")
    return HeldRun(
        uid=held.uid,
        scan_id=scan_id if isinstance(scan_id, int | str) else None,
        plan=plan if isinstance(plan, str) else None,
        state="running" if held.running else "done",
        rows=held.rows,
        rows_in_log=held.in_log,
        rows_in_files=held.external,
        bytes=held.nbytes,
        idle=round(held.idle, 3),
        pinned=held.pinned,
    )
