"""Arrays leave as octets in pieces, so that a response costs little memory however large it is.

Tiled makes the whole array, then its bytes, then compresses them, and a stock client asks
for up to 100 MiB at once. So this route stands before Tiled's for what is below one tree.
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
from p06bs.server.tree.arrays import RESPONSE_LIMIT, ColumnAdapter

FULL_ARRAY = "/api/v1/array/full"


class _OctetRoute(APIRoute):
    """Match requests for octets; what wants another format goes on to Tiled's route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child = super().matches(scope)
        if match is not Match.NONE and not wants_octets(scope):
            return Match.NONE, {}
        return match, child


def stream_arrays(app: FastAPI, limit: int = RESPONSE_LIMIT, tree: str = "live") -> None:
    """Let arrays below `tree` that are read as octets leave `app`, Tiled's, in pieces.

    A request that asks for more than `limit` bytes is answered with 400.
    """
    before = list(app.router.routes)
    app.router.add_api_route(
        f"{FULL_ARRAY}/{tree}/{{path:path}}",
        _reading(tree, limit),
        methods=["GET"],
        include_in_schema=False,
        dependencies=[Security(check_scopes, scopes=["read:data"])],
        route_class_override=_OctetRoute,
        response_model=None,
    )
    routes = [route for route in app.router.routes if route not in before]
    app.router.routes[:] = [*routes, *before]


def _reading(tree: str, limit: int) -> Any:
    async def read(
        request: Request,
        path: str,
        caller: Caller,
        slice: Annotated[Any, Depends(parse_slice_param)],
        expected: Annotated[Any, Depends(expected_shape)],
        filename: str | None = None,
    ) -> Response:
        node = await node_for(
            request, f"{tree}/{path}", "read:data", caller, {StructureFamily.array}
        )
        headers = {}
        if filename is not None:
            headers["Content-Disposition"] = f'attachment; filename="{filename}"'
        try:
            shape = NDSlice(*slice).shape_after_slice(node.structure().shape)
            if expected is not None and expected != shape:
                raise HTTPException(422, f"The array has shape {shape}, not {expected}.")
            dtype = node.structure().data_type.to_numpy_dtype()
            if (nbytes := prod(shape) * dtype.itemsize) > limit:
                raise HTTPException(
                    400, f"This is {nbytes} bytes, the limit is {limit}: ask for a smaller ?slice."
                )
            if isinstance(node, ColumnAdapter):
                return await _streamed(node, slice, shape, headers)
            values = np.asarray(await ensure_awaitable(node.read, slice), dtype)
        except IndexError as error:
            raise HTTPException(400, str(error)) from None
        except DataNotReadyError as error:
            raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from None
        return Response(np.ascontiguousarray(values).tobytes(), media_type=OCTETS, headers=headers)

    return read


async def _streamed(
    node: ColumnAdapter, slice: NDSlice, shape: tuple[int, ...], headers: dict[str, str]
) -> Response:
    pieces = node.pieces(slice)
    first = await anyio.to_thread.run_sync(next, pieces)
    if first.shape == shape:
        return Response(first.tobytes(), media_type=OCTETS, headers=headers)
    headers["Content-Length"] = str(prod(shape) * first.dtype.itemsize)
    return StreamingResponse(_octets(chain([first], pieces)), media_type=OCTETS, headers=headers)


def _octets(pieces: Iterator[Array]) -> Iterator[bytes]:
    """Yield the bytes of pieces; it runs in a thread, one step for each."""
    for piece in pieces:
        yield piece.tobytes()
