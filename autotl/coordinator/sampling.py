"""How many images the first trials of a search learn from, where a pass over all of them takes too long."""

from dataclasses import dataclass, field

from autotl.study.scheduler import Scheduler
from autotl.study.trials import Trials
from autotl.workers.messages import RunTrial

__all__ = ["Sampling"]

FIRST_SHARE = 0.1
"""Share of the remaining time that the first trial's features may take."""
LARGEST_SHARE = 0.6
"""The same for all images, and for a larger sample where they take more."""
MIN_IMAGES, MIN_PER_CLASS = 64, 4
"""Images of a sample at least, and for each class."""
MAX_SHARE = 0.7
"""Share of the images from which a sample is no cheaper than all."""
GROWTH = 2.0
"""How many times as large as the last sample the next one is at least."""


@dataclass
class Sampling:
    """Trials on samples. Their features are reused by later trials, so that they cost little more than their fits; the
    same recipes follow on all images."""

    scheduler: Scheduler
    trials: Trials
    _sizes: list[int] = field(default_factory=list)

    def job(self, time_budget: float, slowness: float, *, has_trial: bool) -> RunTrial | None:
        """A trial on a sample, which is RUNNING when this returns; None where the next trial learns from all images.

        Args:
            time_budget: seconds until trials have to be done.
            slowness: how many times longer everything takes than on an idle machine.
            has_trial: whether a trial is complete.
        """
        scheduler = self.scheduler
        if scheduler.choices.accelerator or not scheduler.num_images or (has_trial and not self._sizes):
            return None
        recipes = [params for params in scheduler.cheap_queue if params["backbone"] not in scheduler.unusable]
        if not recipes or self.trials.waiting():
            return None
        size = self._size(recipes[0]["backbone"], time_budget, slowness)
        if size is None:
            return None
        self._sizes.append(size)
        self.trials.enqueue(recipes[0])
        number = self.trials.waiting()[-1].number
        self.trials.begin(number)
        return RunTrial(number, None, sample=size)

    def _size(self, backbone: str, time_budget: float, slowness: float) -> int | None:
        """The number of images; None where there is time for all, or no use for a larger sample."""
        scheduler = self.scheduler
        is_measured = backbone in scheduler.measured_speeds()
        seconds = scheduler.pass_seconds(backbone) * (1.0 if is_measured else slowness)
        share = LARGEST_SHARE if self._sizes else FIRST_SHARE
        if seconds <= share * time_budget:
            return None
        fitting = scheduler.num_images * share * time_budget / seconds
        if self._sizes:
            least = GROWTH * max(self._sizes)
        else:
            least = fitting = max(fitting, MIN_IMAGES, MIN_PER_CLASS * scheduler.choices.num_classes)
        is_of_use = least <= fitting <= MAX_SHARE * scheduler.num_images
        return int(fitting) if is_of_use else None
