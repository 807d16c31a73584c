"""When a worker records what the model needs of the test images: so late that the model has taken shape, and so early
that nothing has to be guessed when the trials end."""

from dataclasses import dataclass, field

from autotl.coordinator.scoreboard import Scoreboard
from autotl.study.scheduler import Scheduler
from autotl.workers.messages import RecordTest
from autotl.workers.pool import Worker, WorkerPool

__all__ = ["FinalPasses"]

MARGIN = 1.5
"""How much longer the passes may take than was measured. What is recorded too early costs nothing, since trials go
on."""
LEAST_SECONDS = 3.0
"""To select the members and load their heads."""
COMPILE_SECONDS = 6.0
"""To compile a fine-tuned network."""
MAX_NETWORKS = 3
"""Fine-tuned networks that a model is expected to have at most."""


@dataclass
class FinalPasses:
    """Passes over the test images that the trials kept so far may need.

    Args:
        num_test: number of test images.
    """

    num_test: int
    scheduler: Scheduler
    scoreboard: Scoreboard
    pool: WorkerPool
    _considered: dict[str, int] = field(default_factory=dict)
    """Networks among which the members were chosen when a worker last recorded passes, with their numbers of views."""

    def seconds(self) -> float:
        """Estimated seconds, with all cores, of the passes that nobody has considered yet."""
        if not self.num_test:
            return 0.0
        speeds = self.scheduler.measured_speeds()
        frozen, tuned = 0.0, []
        for name, (backbone, is_tuned, passes) in self.scoreboard.networks().items():
            per_image = speeds.get(backbone, self.scheduler.default_seconds_per_image)
            seconds = self.num_test * per_image * max(0, passes - self._considered.get(name, 0))
            if is_tuned and seconds:
                tuned.append(COMPILE_SECONDS + seconds)
            elif not is_tuned:
                frozen += seconds
        return frozen + sum(sorted(tuned)[-MAX_NETWORKS:])

    def job(self, worker: Worker, time_budget: float) -> RecordTest | None:
        """The job for an idle worker, where it is time for it; else None.

        Args:
            time_budget: seconds until trials have to be done.
        """
        accelerators = any(w.slot.is_accelerator for w in self.pool.workers)
        if worker.joined or (accelerators and not worker.slot.is_accelerator):
            return None  # the worker that makes the model reads what it has recorded itself
        seconds = self.seconds()
        # other workers use their cores meanwhile
        if not seconds or time_budget > LEAST_SECONDS + MARGIN * len(self.pool.workers) * seconds:
            return None
        self._considered = {name: passes for name, (_, _, passes) in self.scoreboard.networks().items()}
        return RecordTest(self.scheduler.measured_speeds(), time_budget)
