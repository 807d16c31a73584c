"""When the trials of a search end: in time for the model, at Ctrl-C, or late where the first one takes longer."""

import math
from dataclasses import dataclass

from autotl.clock import Clock
from autotl.coordinator.scoreboard import Scoreboard
from autotl.coordinator.signals import Interrupts
from autotl.report.write import report_seconds
from autotl.study.scheduler import Scheduler

__all__ = ["SearchTime"]

OVERTIME_SECONDS, MAX_LATE_TRIALS = 600.0, 3
"""Seconds that the first complete trial may be late: a late model is better than none. And the number of trials that
may end otherwise before."""


@dataclass
class SearchTime:
    """Owns the moments at which things have to be done. Moments are of `clock`.

    Args:
        time: seconds that the search may take; None for no limit.
        started: the moment at which it began.
        num_test: number of test images, for which time is reserved.
    """

    time: float | None
    started: float
    num_test: int
    clock: Clock
    scheduler: Scheduler
    scoreboard: Scoreboard
    interrupts: Interrupts
    stopped: float = math.inf
    """The moment at which a callback asked the search to stop."""
    waits_for_hook: bool = False
    """Whether a trial is complete whose worker waits for a plugin's hook, so that the scoreboard doesn't count it."""
    _is_late: bool = False

    @property
    def _has_trial(self) -> bool:
        return self.waits_for_hook or bool(self.scoreboard.counts["complete"])

    def deadline(self) -> float:
        """The moment at which trials have to be done, so that the model is saved and tested in time."""
        if self.time is None:
            return self.stopped
        speeds = self.scheduler.measured_speeds()
        seconds_per_image = max(speeds.values(), default=self.scheduler.default_seconds_per_image)
        test_pass = self.num_test * seconds_per_image
        # two passes over the test images always; more, for averages over views and networks, where there is time
        reserve = 10.0 + report_seconds(self.time) + max(2.0 * test_pass, min(24.0 * test_pass, 0.1 * self.time))
        return min(self.stopped, self.started + self.time - min(reserve, 0.3 * self.time))

    def trials_end(self) -> float:
        """The moment at which trials are ended: that of Ctrl-C, or the deadline, which is soft until a trial is
        complete."""
        if self.interrupts.moment is not None:
            return self.interrupts.moment
        may_be_late = not self._has_trial and self.scoreboard.num_finished < MAX_LATE_TRIALS
        if self.time is None or math.isfinite(self.stopped) or not may_be_late:
            return self.deadline()
        return self.deadline() + OVERTIME_SECONDS

    def lateness(self) -> str:
        """A line for the user where the first trial takes longer than the search's time, and another one when it is
        complete; else ""."""
        late = self.clock.now() - self.deadline()
        if self.time is None or late < 0 or self.interrupts.moment is not None:
            return ""
        if not self._has_trial:
            self._is_late = True
            return "The time is up, and no trial is complete: the search ends when the first one is."
        if not self._is_late:
            return ""
        self._is_late = False
        return f"The first trial was complete {late:.0f} s late."
