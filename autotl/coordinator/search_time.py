"""The clock of a search: when its trials end (in time for the model, at Ctrl-C, or late where the first one takes
longer), when the model is due, and how long others may keep it waiting."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from autotl.clock import Clock
from autotl.coordinator.scoreboard import Scoreboard
from autotl.coordinator.signals import Interrupts
from autotl.report.write import report_seconds

__all__ = ["MIN_TRIAL_SECONDS", "SearchTime"]

OVERTIME_SECONDS, MAX_LATE_TRIALS = 600.0, 3
"""Seconds that the first complete trial may be late: a late model is better than none. And the number of trials that
may end otherwise before."""
MODEL_SECONDS = 5.0
"""To select, save and score the model of eight members, on a machine as fast as `NORMAL_START` says."""
NORMAL_START, MAX_SLOWNESS = 5.0, 3.0
"""Seconds in which a worker imports its libraries on two idle cores, and how much slower a machine is taken to be at
most: a loaded one is late with both."""
MAX_RESERVE = 0.3
"""Share of the time that the end of a search takes at most."""
MIN_TRIAL_SECONDS = 1.0
"""Seconds before the deadline in which no trial is started."""
TOLERANCE = 0.5
"""Seconds that the deadline may move without word to the workers."""
CALL_GRACE = 2.0
"""Seconds that a callback gets after the moment at which trials have to be done."""
LAST_CALL_SECONDS, LAST_CALL_LIMIT = 30.0, 600.0
"""The same for its last call: as long as the search, but at least these; and the limit without a time budget."""
LATE_SECONDS = 8.0
"""Seconds past the deadline after which a model that is saved is the result, whatever its worker still does."""
PLUGIN_SECONDS, PLUGIN_LIMIT = 30.0, 600.0
"""Seconds that plugins get after the model is tested, also where the time is up by then; and without a time budget."""
INTERRUPTED_PLUGIN_SECONDS = 1.0
"""The same after Ctrl-C, in which the worker also reports its end where there is no plugin."""
MIN_OVERRUN = 2.0
"""Seconds from which a search says that it took longer than it was given."""


@dataclass
class SearchTime:
    """Owns the moments at which things have to be done. Moments are of `clock`.

    Args:
        time: seconds that the search may take; None for no limit.
        started: the moment at which it began.
        test_seconds: estimated seconds of what is still to be computed of the test images.
    """

    time: float | None
    started: float
    clock: Clock
    scoreboard: Scoreboard
    interrupts: Interrupts
    test_seconds: Callable[[], float] = lambda: 0.0
    stopped: float = math.inf
    """The moment at which a callback asked the search to stop."""
    waits_for_hook: bool = False
    """Whether a trial is complete whose worker waits for a plugin's hook, so that the scoreboard doesn't count it."""
    finalizing_since: float = -math.inf
    """The moment at which the last trial had ended."""
    model_saved: float = -math.inf
    """The moment at which a model was on disk, of which the test images are not predicted yet."""
    _start_seconds: float = math.inf
    _is_late: bool = False
    _told: float = math.inf

    @property
    def end(self) -> float:
        """The moment at which the search has to be over; infinity for no limit."""
        return math.inf if self.time is None else self.started + self.time

    @property
    def _has_trial(self) -> bool:
        return self.waits_for_hook or bool(self.scoreboard.counts["complete"])

    def worker_started(self, seconds: float) -> None:
        """A worker took so many seconds to import its libraries; 0 where it isn't known."""
        if seconds:
            self._start_seconds = min(seconds, self._start_seconds)

    @property
    def slowness(self) -> float:
        """How many times longer everything takes than on an idle machine, from how long the quickest worker took to
        start; 1 where that isn't known."""
        start = NORMAL_START if math.isinf(self._start_seconds) else self._start_seconds
        return min(MAX_SLOWNESS, max(1.0, start / NORMAL_START))

    def deadline(self) -> float:
        """The moment at which trials have to be done, so that the model is saved and tested in time."""
        if self.time is None:
            return self.stopped
        reserve = self.slowness * MODEL_SECONDS + report_seconds(self.time) + self.test_seconds()
        return min(self.stopped, self.end - min(reserve, MAX_RESERVE * self.time))

    def trials_end(self) -> float:
        """The moment at which trials are ended: that of Ctrl-C, or the deadline, which is soft until a trial is
        complete."""
        if self.interrupts.moment is not None:
            return self.interrupts.moment
        may_be_late = not self._has_trial and self.scoreboard.num_finished < MAX_LATE_TRIALS
        if self.time is None or math.isfinite(self.stopped) or not may_be_late:
            return self.deadline()
        return self.deadline() + OVERTIME_SECONDS

    def moved(self) -> float | None:
        """The moment at which trials are ended, where it is another one than the workers were told last; else None."""
        moment = self.trials_end()
        if math.isinf(moment) or abs(moment - self._told) < TOLERANCE:
            return None
        self._told = moment
        return moment

    def left(self) -> float:
        """Seconds that a job which begins now has until trials have to be done."""
        return max(MIN_TRIAL_SECONDS, self.deadline() - self.clock.now())

    def callback_seconds(self, *, last: bool) -> float:
        """Seconds that a call of a callback's method may take."""
        if last:
            return max(LAST_CALL_LIMIT if self.time is None else self.end - self.clock.now(), LAST_CALL_SECONDS)
        return max(0.0, self.deadline() - self.clock.now()) + CALL_GRACE

    def model_is_late(self) -> bool:
        """Whether the saved model is the result now, though the test images are not predicted."""
        limit = max(self.end, self.model_saved) + LATE_SECONDS
        return self.interrupts.overdue() or self.clock.now() > limit

    def plugins_are_late(self, tested: float) -> bool:
        """Whether plugins have had their time.

        Args:
            tested: the moment at which the model was tested.
        """
        if self.interrupts.moment is not None:
            limit = tested + INTERRUPTED_PLUGIN_SECONDS
        elif self.time is None:
            limit = tested + PLUGIN_LIMIT
        else:
            limit = max(self.end, self.finalizing_since, tested + PLUGIN_SECONDS)
        return self.clock.now() > limit

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

    def overrun(self) -> str:
        """A line for the user where the search took longer than it was given; else ""."""
        late = self.clock.now() - self.end
        if self.time is None or late < MIN_OVERRUN or self.interrupts.moment is not None:
            return ""
        return f"The search took {late:.0f} s longer than the {self.time:.0f} s that it was given."
