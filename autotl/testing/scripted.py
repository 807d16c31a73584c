"""Stand-ins for what a coordinator works with: a virtual clock, and a launcher that delivers what a test scripted."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from autotl.devices import Slot
from autotl.workers.launcher import Ending, Launcher
from autotl.workers.messages import FromWorker, ToWorker

__all__ = ["ScriptedLauncher", "VirtualClock"]


class VirtualClock:
    """A clock (`autotl.clock.Clock`) on which time passes only while a caller waits."""

    def __init__(self, time: float = 1000.0):
        self.time = time

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += max(0.0, seconds)


@dataclass
class ScriptedLauncher(Launcher):
    """Workers without processes: `inbox` is delivered by the next `receive`, the rest records what was done."""

    clock: VirtualClock | None = None
    """Advanced by `receive` where there is nothing to deliver."""
    inbox: list[tuple[str, FromWorker]] = field(default_factory=list)
    late: list[tuple[str, FromWorker]] = field(default_factory=list)
    """Delivered by the `receive` after the next one."""
    sent: list[tuple[str, ToWorker]] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    ending: Ending = field(default_factory=lambda: Ending("the worker ended (exit code 1)", 1, "worker.log"))
    num_started: int = 0

    def deliver(self, worker: str, messages: Iterable[FromWorker]) -> None:
        """Let `receive` return messages of a worker."""
        self.inbox += [(worker, message) for message in messages]

    def jobs(self, worker: str) -> list[ToWorker]:
        """What was sent to a worker."""
        return [message for identity, message in self.sent if identity == worker]

    def start(self, slot: Slot) -> str:
        self.num_started += 1
        return f"{slot.name}-{self.num_started}"

    def send(self, worker: str, message: ToWorker) -> None:
        self.sent.append((worker, message))

    def receive(self, timeout: float) -> list[tuple[str, FromWorker]]:
        messages, self.inbox, self.late = self.inbox, self.late, []
        if not messages and self.clock:
            self.clock.sleep(timeout)
        return messages

    def alive(self, worker: str) -> bool:
        return worker not in self.dead

    def kill(self, worker: str) -> None:
        if worker not in self.killed:
            self.killed.append(worker)
        self.dead.add(worker)

    def how_it_ended(self, worker: str) -> Ending:
        return self.ending
