"""What a search reports to its display: events, regular snapshots, and log lines."""

from dataclasses import dataclass

from autotl.events import Callback, TrialFinished

__all__ = ["Progress", "Snapshot", "WorkerLine"]


@dataclass(frozen=True)
class WorkerLine:
    """What one worker does at the moment of a snapshot."""

    name: str
    """The worker's slot: `cpu:0`."""
    trial: int | None
    """Number of the trial that the worker trains, None between trials."""
    description: str
    """The trial's recipe in one line, "" before it is drawn."""
    activity: str
    """The current step: `epoch 2/8`, `starting`."""
    seconds: float
    """Seconds since the worker's current job began."""


@dataclass(frozen=True)
class Snapshot:
    """The state of a running search."""

    seconds: float
    """Since the search began."""
    time_left: float | None
    """Seconds of the time budget that are left, None without a budget."""
    complete: int
    pruned: int
    failed: int
    trials_left: int | None
    """None where the number of trials is not limited."""
    workers: tuple[WorkerLine, ...]
    best: TrialFinished | None
    recent: tuple[TrialFinished, ...]
    """The last finished trials, newest last."""
    images_per_second: float | None = None
    """Speed of feature extraction, summed over the workers that extract now."""


class Progress(Callback):
    """Base class for progress displays, itself one that shows nothing.

    The coordinator calls all methods on its one thread: those of `Callback` for events, and these.
    """

    name = "progress"

    def checking(self, done: int, total: int) -> None:
        """Called for each image that is checked before the search; `done == total` ends it, also after an error."""

    def update(self, snapshot: Snapshot) -> None:
        """Called several times a second."""

    def log(self, line: str) -> None:
        """Called with each message for the user."""

    def confirm(self, question: str) -> bool:
        """Ask the user a question of yes or no, before the search starts; False where nobody can answer."""
        return False

    def close(self) -> None:
        """Called when the search has ended, however it ended: what is printed afterwards has to stay."""
