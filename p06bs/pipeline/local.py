"""Worker processes of this host."""

import asyncio
import itertools
import logging
import os
import signal
import time
from collections.abc import Collection
from typing import Any

from p06bs.pipeline.needs import ANYTHING, Needs, gpus
from p06bs.pipeline.started import Started

log = logging.getLogger(__name__)

START = 60.0
"""Seconds for the process of a worker to start, after which it is killed: it hangs."""

MISSING = 8.0
"""Seconds after which local workers that are missing are not waited for any more."""


class Local(Started):
    """Worker processes of this host.

    A nanny restarts a worker that dies. One that was told to stop, or could not start its
    worker again, is done, and the cluster goes on counting it.
    """

    def __init__(self, workers: int, needs: Needs = ANYTHING) -> None:
        super().__init__(workers)
        self.needs = needs
        self._missing: dict[str, float] = {}  # unit -> since when

    def make(self) -> Any:
        import distributed

        base: Any = distributed.LocalCluster  # not annotated
        plain_nanny: Any = distributed.Nanny
        each = self.needs.gpus

        numbers = itertools.count()

        class Nanny(plain_nanny):  # type: ignore[misc]
            """Does not wait for ever for a process that hangs; with `death_timeout` it fails."""

            async def instantiate(self) -> Any:
                late = asyncio.get_running_loop().call_later(START, self._kill)
                try:
                    return await super().instantiate()
                finally:
                    late.cancel()

            def _kill(self) -> None:
                if (pid := self.pid) is not None:
                    log.error("worker process %d hangs at its start; it is replaced", pid)
                    os.kill(pid, signal.SIGKILL)

        class Cluster(base):  # type: ignore[misc]
            """Workers that see GPUs of their own; no name is given twice."""

            def _new_worker_name(self, worker_number: int) -> int:
                return next(numbers)

            def new_worker_spec(self) -> dict[Any, Any]:
                ((name, spec),) = super().new_worker_spec().items()
                if not each:
                    return {name: spec}
                used = {
                    gpu
                    for other in self.worker_spec.values()
                    for gpu in other["options"]["env"]["CUDA_VISIBLE_DEVICES"].split(",")
                }
                mine = ",".join([gpu for gpu in gpus() if gpu not in used][:each])
                env = {**(spec["options"].get("env") or {}), "CUDA_VISIBLE_DEVICES": mine}
                return {name: {**spec, "options": {**spec["options"], "env": env}}}

        return Cluster(
            worker_class=Nanny,
            n_workers=0,  # those that are missing are started; one that dies then is no error here
            memory_limit=self.needs.memory or "auto",
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            # Who may connect to a scheduler may run code in its workers. The keys are made anew
            # each time and stay with this process: other users of this host have none.
            protocol="tls://",
            security=True,
            dashboard_address="127.0.0.1:0",  # a port of its own: 8787 may be taken
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )

    def lost(self, units: Collection[str], joined: Collection[str]) -> Collection[str]:
        now = time.monotonic()
        missing = set(units) - set(joined)
        self._missing = {unit: self._missing.get(unit, now) for unit in missing}
        return {unit for unit, since in self._missing.items() if now - since >= MISSING}
