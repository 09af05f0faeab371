"""Arrays leave as octets in pieces, so that a response costs little memory however large it is.

Tiled makes the whole array, then its bytes, then compresses them, and a stock client asks
for up to 100 MiB at once. So this route stands before Tiled's.
"""

from collections.abc import Iterator
from itertools import chain
from math import prod
from typing import Annotated, Any

import anyio.to_thread
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Security
from fastapi.routing import APIRoute
from starlette.responses import Response, StreamingResponse
from starlette.routing import Match
from starlette.types import Scope
from tiled.adapters.utils import DataNotReadyError
from tiled.ndslice import NDSlice
from tiled.server.authentication import check_scopes
from tiled.server.dependencies import expected_shape, parse_slice_param
from tiled.structures.core import StructureFamily
from tiled.utils import ensure_awaitable

from p06bs.server.callers import Caller, node_for
from p06bs.server.gate.in_flight import OCTETS, wants_octets
from p06bs.server.sink.columns import Array
from p06bs.server.tree.arrays import RESPONSE_LIMIT, check_size, parts_of

FULL_ARRAY = "/api/v1/array/full"

PART_BYTES = 1 << 20
"""Of what is sent at a time: one row may be a large image."""


class _OctetRoute(APIRoute):
    """Match requests for octets; what wants another format goes on to Tiled's route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is not Match.NONE and not wants_octets(scope):
            return Match.NONE, {}
        return match, child


def stream_arrays(app: FastAPI, limit: int = RESPONSE_LIMIT) -> None:
    """Let arrays that are read as octets leave `app`, Tiled's, in pieces.

    A request that asks for more than `limit` bytes is answered with 400. Arrays with a
    method `pieces` (see `ColumnAdapter`) are read in pieces, others as a whole.
    """
    before = list(app.router.routes)
    app.router.add_api_route(
        f"{FULL_ARRAY}/{{path:path}}",
        _reading(limit),
        methods=["GET"],
        include_in_schema=False,
        dependencies=[Security(check_scopes, scopes=["read:data"])],
        route_class_override=_OctetRoute,
        response_model=None,
    )
    routes = [route for route in app.router.routes if route not in before]
    app.router.routes[:] = [*routes, *before]


def _reading(limit: int) -> Any:
    async def read(
        request: Request,
        path: str,
        caller: Caller,
        slice: Annotated[Any, Depends(parse_slice_param)],
        expected: Annotated[Any, Depends(expected_shape)],
        filename: str | None = None,
    ) -> Response:
        node = await node_for(request, path, "read:data", caller, {StructureFamily.array})
        headers = {}
        if filename is not None:
            headers["Content-Disposition"] = f'attachment; filename="{filename}"'
        try:
            shape = NDSlice(*slice).shape_after_slice(node.structure().shape)
            if expected is not None and expected != shape:
                raise HTTPException(422, f"The array has shape {shape}, not {expected}.")
            dtype = node.structure().data_type.to_numpy_dtype()
            nbytes = prod(shape) * dtype.itemsize
            check_size(nbytes, limit)
            if hasattr(node, "pieces"):
                pieces = node.pieces(slice)
                first = await anyio.to_thread.run_sync(next, pieces)
            else:
                first = np.asarray(await ensure_awaitable(node.read, slice), dtype)
                pieces = iter(())
        except IndexError as error:
            raise HTTPException(400, str(error)) from None
        except DataNotReadyError as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from None
        if nbytes <= PART_BYTES and first.shape == shape:
            return Response(first.tobytes(), media_type=OCTETS, headers=headers)
        headers["Content-Length"] = str(nbytes)
        octets = _octets(chain([first], pieces))
        return StreamingResponse(octets, media_type=OCTETS, headers=headers)

    return read


def _octets(pieces: Iterator[Array]) -> Iterator[bytes]:
    """Yield the bytes of pieces; it runs in a thread, one step for each."""
    for piece in pieces:
        for part in parts_of(np.ascontiguousarray(piece).reshape(-1), PART_BYTES):
            yield part.tobytes()
