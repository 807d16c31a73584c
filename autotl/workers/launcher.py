"""The launcher contract: starts worker processes and carries messages. When to start which is decided above."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from autotl.devices import Slot
from autotl.workers.messages import FromWorker, ToWorker

__all__ = ["Ending", "Launcher"]


@dataclass(frozen=True)
class Ending:
    """How a worker's process ended."""

    cause: str
    """In words: exit code or signal, and the process's last line of output."""
    exit_code: int | None = None
    """None where it is unknown; negative for a signal."""
    log: str = ""
    """Where the process's output can be read."""
    slot_lost: bool = False
    """The worker's host is gone: no other worker can be started on this slot."""
    left: bool = False
    """Whoever made it join took it out again, so that nothing failed."""


class Launcher(ABC):
    """Starts workers on slots and exchanges messages with them.

    No method blocks longer than stated, and none raises for a worker that is gone: `alive` tells, and `how_it_ended`
    says why. A worker is identified by the string that `start` returned. All methods are called on one thread.
    """

    serves_study = False
    """Whether workers run where they can't read the study's folder: the pool then answers their requests."""

    @abstractmethod
    def start(self, slot: Slot) -> str:
        """Start a worker's process on `slot` and return its identity at once; Hello arrives when it is connected."""

    @abstractmethod
    def send(self, worker: str, message: ToWorker) -> None:
        """Send a message. It is dropped where the worker is not connected or gone."""

    @abstractmethod
    def receive(self, timeout: float) -> list[tuple[str, FromWorker]]:
        """All messages that have arrived, in order for each worker; waits up to `timeout` seconds for the first.

        Hello from an identity that `start` never returned is a worker that another process started and that joins.
        """

    @abstractmethod
    def alive(self, worker: str) -> bool:
        """Whether the worker's process runs, as far as can be told at once."""

    @abstractmethod
    def kill(self, worker: str) -> None:
        """End the process and its children immediately, and release what the launcher holds for it. Idempotent."""

    @abstractmethod
    def how_it_ended(self, worker: str) -> Ending:
        """How the process ended; meaningful once it is not alive."""

    def new_slots(self) -> list[Slot]:
        """Slots that have appeared since the last call: at first all slots of a cluster, later those of hosts that
        join it. None where the slots are fixed by whoever calls `start`."""
        return []

    def may_grow(self) -> bool:
        """Whether a search without any worker is to wait: a host that was lost may come back."""
        return False

    def close(self) -> None:
        """Release everything. All workers are ended before."""
        return
