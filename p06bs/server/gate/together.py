"""What goes on together until one of it ends, as both ends of a WebSocket do."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def until_one_ends(
    *coroutines: Coroutine[Any, Any, Any], expected: type[Exception] | tuple[()] = ()
) -> None:
    """Run coroutines until one ends, and cancel the others.

    Raises
    ------
    Exception
        The first that one of them raised, in their order; none of type `expected`.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, expected):
            raise result
