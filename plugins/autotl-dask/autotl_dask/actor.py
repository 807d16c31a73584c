"""What runs beside the Dask workers: a report of their hosts, and an actor for each trial process."""

import asyncio
import weakref
from typing import Any

from autotl.devices import Slot
from autotl.workers.relay import RelayedProcess, describe_host

__all__ = ["SlotActor", "report"]

PAUSE = 0.01


def report(dask_worker: Any) -> dict[str, Any]:
    """The host of a Dask worker, for `Client.run`."""
    return describe_host(max(1, dask_worker.state.nthreads))


class SlotActor:
    """One trial process. Dask ends an actor by forgetting it; the process ends with it."""

    def __init__(self, slot: Slot, *given: Any):
        self._process = RelayedProcess(slot, *given)
        weakref.finalize(self, self._process.end)
        self._early, self._next = dict[int, bytes](), 0

    async def put(self, number: int, message: bytes) -> None:
        """Pass on a message of the coordinator. Calls may overtake each other: `number` is their order."""
        self._early[number] = message
        while self._next in self._early:
            self._process.put(self._early.pop(self._next))
            self._next += 1

    async def take(self, seconds: float) -> tuple[list[bytes], str | None]:
        """`RelayedProcess.take`, awaiting the first message for up to `seconds`."""
        for _ in range(int(seconds / PAUSE)):
            if any(taken := self._process.take()):
                return taken
            await asyncio.sleep(PAUSE)
        return [], None

    async def end(self) -> None:
        self._process.end()
