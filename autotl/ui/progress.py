"""What the terminal shows while a search runs."""

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["Progress", "Snapshot", "TrialLine", "WorkerLine"]


@dataclass(frozen=True)
class WorkerLine:
    """What one worker does now: `cpu:0`, `trial 12 · efficientnet_lite0 · fine_tuning … · epoch 2/8`."""

    name: str
    doing: str
    seconds: float


@dataclass(frozen=True)
class TrialLine:
    """A finished trial. `state` is "complete", "pruned" or "failed"; `note` the cause of a failure."""

    number: int
    state: str
    value: float | None
    description: str
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Snapshot:
    """How a search stands."""

    seconds: float
    seconds_left: float | None
    complete: int
    pruned: int
    failed: int
    trials_left: int | None
    workers: tuple[WorkerLine, ...]
    best: TrialLine | None
    recent: tuple[TrialLine, ...]
    images_per_second: float | None = None


class Progress(Protocol):
    """Told of everything; shows what its kind shows. Called by the coordinator's one thread."""

    def begin(self, headline: dict[str, Any]) -> None: ...

    def update(self, snapshot: Snapshot) -> None: ...

    def trial(self, line: TrialLine, best: bool) -> None: ...

    def say(self, line: str) -> None: ...

    def end(self, result: dict[str, Any]) -> None: ...
