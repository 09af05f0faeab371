"""Call what may hang or fail, for a limited time."""

import asyncio
import inspect
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any


class Patience:
    """Call methods of devices, each for at most so many seconds.

    What is not async runs in a thread, one at a time for one device. A thread that does not return
    is left behind; the device is not asked again before it has.

    Parameters
    ----------
    seconds : float
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hanging: dict[str, threading.Thread] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def call(self, name: str, function: Callable[[], Any]) -> Any:
        """Return what a function returns, or what it returns an awaitable of.

        Parameters
        ----------
        name : str
            Of the device.

        Raises
        ------
        TimeoutError
            If it takes longer.
        Exception
            Whatever it raises.
        """
        try:
            async with asyncio.timeout(self.seconds):
                if inspect.iscoroutinefunction(function):
                    return await function()
                async with self._turns[name]:
                    result = await self._in_thread(name, function)
                return await result if inspect.isawaitable(result) else result
        except TimeoutError as error:
            raise TimeoutError(str(error) or f"no answer in {self.seconds:g} s") from None

    async def _in_thread(self, name: str, function: Callable[[], Any]) -> Any:
        before = self._hanging.get(name)
        if before is not None and before.is_alive():
            raise TimeoutError("it still has not answered an earlier question")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(give: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                give(value)

        def run() -> None:
            try:
                settled = (future.set_result, function())
            except BaseException as error:
                settled = (future.set_exception, _raisable(error))
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, *settled)

        # Daemonic, other than those of an executor: the interpreter must not wait for it.
        thread = threading.Thread(target=run, name=f"asking-{name}", daemon=True)
        self._hanging[name] = thread
        thread.start()
        try:
            return await future
        finally:
            if not future.cancelled():
                thread.join()  # it has nothing left to do; not to be taken for one that hangs


def _raisable(error: BaseException) -> BaseException:
    # A future refuses these.
    stops = isinstance(error, StopIteration | KeyboardInterrupt | SystemExit)
    return RuntimeError(repr(error)) if stops else error
