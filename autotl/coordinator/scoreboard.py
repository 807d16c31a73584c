"""The score of a running search: trials by state, the best one, and which fitted models are worth keeping."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

from optuna.trial import FrozenTrial, TrialState

from autotl.config import Limits
from autotl.events import TrialFinished
from autotl.metrics import Metric
from autotl.study.study import TrialAttribute, trial_event

__all__ = ["FINISHED_STATES", "HOPELESS_FAILURES", "Scoreboard", "why_none_is_within", "why_none_succeeded"]

FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
HOPELESS_FAILURES = 10
"""Failures of one cause, without any other outcome, after which a search ends early with that cause."""
NUMBERS = re.compile(r"0x[0-9a-f]+|\d{4,}")
"""Parts of a cause that differ from trial to trial: addresses, process ids, long numbers."""
NUM_RECENT = 12


@dataclass
class Scoreboard:
    """Counts each finished trial once.

    Args:
        folder: the study's folder.
    """

    folder: Path
    metric: Metric
    limits: Limits = field(default_factory=Limits)
    counts: dict[str, int] = field(default_factory=lambda: {"complete": 0, "pruned": 0, "failed": 0})
    best: TrialFinished | None = None
    """Of the trials within the limits."""
    nearest: FrozenTrial | None = None
    """The complete trial that exceeds the limits least, as long as none is within."""
    recent: list[TrialFinished] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)
    """Of trials that failed in this search, without the numbers in them."""
    earlier: int = 0
    """Finished trials of earlier searches, whose outcome says nothing about this one."""
    resumable: int = 0
    """Trials that ended with an earlier search: their recipes are retried beyond the trials that were asked for."""
    _kept: dict[tuple[str, str, str], TrialFinished] = field(default_factory=dict)
    """The trial whose fitted model is kept, by (strategy, backbone, head)."""
    _rank_of: dict[int, tuple[bool, float, float, int]] = field(default_factory=dict)
    """By number of the complete trials; the best ranks lowest."""

    @property
    def num_finished(self) -> int:
        return sum(self.counts.values())

    def add(self, trial: FrozenTrial, *, worker_lost: bool = False) -> TrialFinished:
        """Count a finished trial. Removes the fitted model of whichever trial of the same strategy, backbone and head
        scores worse, since a model is made of the best of each and fitted models fill disks."""
        event = trial_event(trial)
        self.counts[event.state] += 1
        if event.state == "failed" and not worker_lost:  # lost workers disable their device instead
            self.causes[NUMBERS.sub("#", event.cause) or "unknown"] += 1
        if event.value is not None:
            rank = self._rank_of[event.number] = self._rank(trial, event.value)
            if not self.limits.keeps(trial.user_attrs):
                self._note_nearest(trial)
            elif self.best is None or rank < self._rank_of[self.best.number]:
                event = self.best = trial_event(trial, is_best=True)
            self._keep_best(event)
        self.recent = [*self.recent, event][-NUM_RECENT:]
        return event

    def _note_nearest(self, trial: FrozenTrial) -> None:
        def excess(some: FrozenTrial) -> float:
            return max(self.limits.constraints(some.user_attrs).values())

        if self.nearest is None or excess(trial) < excess(self.nearest):
            self.nearest = trial

    def _keep_best(self, event: TrialFinished) -> None:
        key = event.strategy, event.backbone, event.head
        kept = self._kept.get(key)
        worse = event
        if kept is None or self._rank_of[event.number] < self._rank_of[kept.number]:
            self._kept[key], worse = event, kept or event
        if kept is not None:
            rmtree(self.folder / "trials" / f"{worse.number:05}", ignore_errors=True)

    def _rank(self, trial: FrozenTrial, value: float) -> tuple[bool, float, float, int]:
        """Sorts the best first, those beyond the limits last; equal scores by log loss, of which a trial may have none,
        then by number."""
        sign = -1.0 if self.metric.greater_is_better else 1.0
        exceeds, loss = not self.limits.keeps(trial.user_attrs), trial.user_attrs.get("log_loss", math.inf)
        return exceeds, sign * value, loss, trial.number

    @property
    def hopeless(self) -> bool:
        """Whether nothing but one cause of failure came of at least HOPELESS_FAILURES trials."""
        finished = self.num_finished - self.earlier
        return len(self.causes) == 1 and self.causes.total() >= max(HOPELESS_FAILURES, finished)

    def begin(self) -> None:
        """All trials so far are those of earlier searches."""
        self.earlier = self.num_finished
        self.causes.clear()


def why_none_is_within(limits: Limits, trials: Iterable[FrozenTrial], nearest: FrozenTrial | None) -> str:
    """The message for a search in which nothing is within the limits: what comes nearest, and what to type.

    Args:
        nearest: the complete trial that exceeds the limits least; None where no backbone is within.
    """
    if nearest is not None:
        attributes = nearest.user_attrs
        what = f"The nearest, trial {nearest.number} ({attributes.get(TrialAttribute.DESCRIPTION, '')}),"
        more = limits.remedy(attributes) or "--time 10m, so that its costs can be measured"
        return f"No trial is within {limits.describe()}. {what} takes {limits.explain(attributes)}. Type {more}"
    over = [trial for trial in trials if limits.exceeded(trial.user_attrs)]
    least = min(over, key=lambda trial: max(limits.constraints(trial.user_attrs).values()))
    return (
        f"No backbone is within {limits.describe()}. The nearest: {least.user_attrs.get(TrialAttribute.CAUSE, '')}. "
        f"Type {limits.remedy(least.user_attrs)}, or add a smaller one: --backbone NAME (autotl backbones --sort "
        "num-params)"
    )


def why_none_succeeded(trials: Iterable[FrozenTrial], disabled: Mapping[str, str], folder: Path, *, early: bool) -> str:
    """The message for a search without a complete trial: the distinct causes.

    Args:
        disabled: the cause for each disabled device.
        folder: the study's.
        early: whether the search ended before its time.
    """
    causes: Counter[str] = Counter()
    for trial in trials:
        if trial.state in FINISHED_STATES and trial.state != TrialState.COMPLETE:
            causes[trial.user_attrs.get(TrialAttribute.CAUSE, "unknown")] += 1
    lines = [f"  {count} × {cause}" for cause, count in causes.most_common()]
    lines += [f"  {place} is disabled: {cause}" for place, cause in disabled.items()]
    if not lines:
        return "No trial was finished in the time given. Give more: --time 10m"
    return (
        f"No trial succeeded:{' The search ended early, since every trial failed alike.' if early else ''}\n"
        + "\n".join(lines)
        + f"\nMore: {folder / 'logs'}, and each trial's traceback in `autotl dashboard`"
    )
