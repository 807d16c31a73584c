"""What runs beside the Dask workers: a report of their hosts, and an actor for each trial process."""

import os
import weakref
from typing import Any

import dask

from autotl.devices import Slot
from autotl.workers.relay import RelayedProcess, describe_host

__all__ = ["SlotActor", "report"]

TRIM = "MALLOC_TRIM_THRESHOLD_"
"""What a nanny sets for the memory of Dask's tasks. A trial's process would fetch each array's pages anew."""


def report(dask_worker: Any) -> dict[str, Any]:
    """The host of a Dask worker, for `Client.run`."""
    return describe_host(max(1, dask_worker.state.nthreads))


class SlotActor:
    """One trial process. Dask ends an actor by forgetting it; the process ends with it."""

    def __init__(self, slot: Slot, *given: Any):
        if os.environ.get(TRIM) == str(dask.config.get(f"distributed.nanny.pre-spawn-environ.{TRIM}", None)):
            del os.environ[TRIM]
        self._process = RelayedProcess(slot, *given)
        weakref.finalize(self, self._process.end)

    async def put(self, number: int, message: bytes) -> None:
        self._process.put(number, message)

    async def take(self, seconds: float) -> tuple[list[bytes], str | None]:
        return await self._process.take(seconds)

    async def end(self) -> None:
        self._process.end()
