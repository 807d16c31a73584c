"""The score of a running search: trials by state, the best one, and which fitted models are worth keeping."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shutil import rmtree

from optuna.trial import FrozenTrial, TrialState

from autotl.config import Limits
from autotl.events import TrialFinished
from autotl.metrics import Metric
from autotl.recipe import JOIN
from autotl.study.comparison import SAMPLE, HoldoutLine, is_ahead, scored_on
from autotl.study.study import EARLIER_FILE, FOLD_FILE, TrialAttribute, trial_event
from autotl.workers.messages import member_folder

__all__ = ["FINISHED_STATES", "HOPELESS_FAILURES", "Scoreboard", "why_none_is_within", "why_none_succeeded"]

FINISHED_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
HOPELESS_FAILURES = 10
"""Failures of one cause, without any other outcome, after which a search ends early with that cause."""
NUMBERS = re.compile(r"0x[0-9a-f]+|\d{4,}")
"""Parts of a cause that differ from trial to trial: addresses, process ids, long numbers."""
NUM_RECENT = 12
MAX_CAUSES = 8
"""Distinct causes that the message of a search without a model lists, the most frequent first."""


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
    is_resuming: bool = False
    """Whether the trials of earlier searches are being added, whose models are on disk, or not."""
    resumable: int = 0
    """Trials that ended with an earlier search: their recipes are retried beyond the trials that were asked for."""
    _kept: dict[tuple[str, str, str], FrozenTrial] = field(default_factory=dict)
    """The trial whose fitted model is kept, by (strategy, backbone, head)."""
    _line: HoldoutLine = field(default_factory=HoldoutLine)
    _leaders: dict[str, FrozenTrial] = field(default_factory=dict)
    """The best trial within the limits, by what its score is of."""

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
            self._line.add(trial)
            if not self.limits.keeps(trial.user_attrs):
                self._note_nearest(trial)
            elif self._choose_best(trial) and self.best:
                event = self.best
            self._keep_best(event, trial)
        self.recent = [*self.recent, event][-NUM_RECENT:]
        return event

    def networks(self) -> dict[str, tuple[str, bool, int]]:
        """The networks of the fitted models that are kept: their backbone, whether they are fine-tuned, and the number
        of views that they see."""
        networks: dict[str, tuple[str, bool, int]] = {}
        for (_, joined, _), trial in self._kept.items():
            is_tuned, passes = bool(trial.user_attrs.get(TrialAttribute.TUNED)), trial.user_attrs.get("passes") or 1
            backbones = joined.split(JOIN)
            for backbone in backbones:
                name = f"{backbone}/{trial.number}" if is_tuned else backbone
                most = max(passes // len(backbones), networks.get(name, ("", False, 0))[2])
                networks[name] = backbone, is_tuned, most
        return networks

    def comparable(self, trial: FrozenTrial) -> float | None:
        """A trial's score as it would be out of fold; None where it has none, or only that of a sample."""
        if trial.state != TrialState.COMPLETE or scored_on(trial) == SAMPLE:
            return None
        return self._line.comparable(trial)

    def _choose_best(self, trial: FrozenTrial) -> bool:
        """Whether a trial within the limits is the best one now."""
        place = partial(self._line.rank, limits=self.limits, maximize=self.metric.greater_is_better)
        leader = self._leaders.get(scored_on(trial))
        if leader is None or place(trial) < place(leader):
            self._leaders[scored_on(trial)] = trial
        best = min(self._leaders.values(), key=place)
        if self.best is None or best.number != self.best.number:
            self.best = trial_event(best, is_best=True)
        return best.number == trial.number

    def _note_nearest(self, trial: FrozenTrial) -> None:
        def excess(some: FrozenTrial) -> float:
            return max(self.limits.constraints(some.user_attrs).values())

        if self.nearest is None or excess(trial) < excess(self.nearest):
            self.nearest = trial

    def _keep_best(self, event: TrialFinished, trial: FrozenTrial) -> None:
        key = event.strategy, event.backbone, event.head
        kept = self._kept.get(key)
        worse = trial
        if kept is None or (
            is_ahead(trial, kept, self.limits, maximize=self.metric.greater_is_better)
            # an earlier search, with other limits, may have kept another one
            and (not self.is_resuming or self._has_model(trial) or not self._has_model(kept))
        ):
            self._kept[key], worse = trial, kept or trial
        if kept is not None:
            _remove_model(member_folder(self.folder, worse.number), was_kept=worse is kept)

    def _has_model(self, trial: FrozenTrial) -> bool:
        return (member_folder(self.folder, trial.number) / "member.json").exists()

    @property
    def hopeless(self) -> bool:
        """Whether nothing but one cause of failure came of at least HOPELESS_FAILURES trials."""
        finished = self.num_finished - self.earlier
        return len(self.causes) == 1 and self.causes.total() >= max(HOPELESS_FAILURES, finished)

    def begin(self) -> None:
        """All trials so far are those of earlier searches."""
        self.earlier, self.is_resuming = self.num_finished, False
        self.causes.clear()


def _remove_model(folder: Path, *, was_kept: bool) -> None:
    """Remove a trial's fitted model. What one that was kept until now predicted stays: it says what the model of the
    search would have been."""
    try:
        if was_kept:
            (folder / FOLD_FILE).replace(folder / EARLIER_FILE)
    except OSError:  # its worker died before it was written
        was_kept = False
    if not was_kept:
        rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.is_dir():
            rmtree(path, ignore_errors=True)
        elif path.name != EARLIER_FILE:
            path.unlink(missing_ok=True)


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
    lines = [f"  {count} × {cause}" for cause, count in causes.most_common(MAX_CAUSES)]
    if len(causes) > MAX_CAUSES:
        lines.append(f"  and {len(causes) - MAX_CAUSES} other causes")
    lines += [f"  {place} is disabled: {cause}" for place, cause in disabled.items()]
    if not lines:
        return "No trial was finished in the time given. Give more: --time 10m"
    return (
        f"No trial succeeded:{' The search ended early, since every trial failed alike.' if early else ''}\n"
        + "\n".join(lines)
        + f"\nMore: {folder / 'logs'}, and each trial's traceback in `autotl dashboard`"
    )
