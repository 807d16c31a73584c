"""Compares trials that have predicted all folds with those that have predicted the validation images alone: as
fine-tuned ones, and those that had no time for more."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from optuna.trial import FrozenTrial

from autotl.config import Limits
from autotl.study.study import TrialAttribute
from autotl.study.trials import rank

__all__ = ["OUT_OF_FOLD", "SAMPLE", "VALIDATION", "HoldoutLine", "is_ahead", "scored_on"]

OUT_OF_FOLD, VALIDATION, SAMPLE = "out of fold", "validation images", "a sample"
"""What a score is of."""
MIN_TRIALS = 5
"""Trials with both scores from which a line is fitted to them; fewer give a difference."""


def scored_on(trial: FrozenTrial) -> str:
    """The images that a complete trial's score is of."""
    if TrialAttribute.SAMPLE in trial.user_attrs:
        return SAMPLE
    return VALIDATION if trial.user_attrs.get(TrialAttribute.FOLDS) == 1 else OUT_OF_FOLD


def is_ahead(one: FrozenTrial, other: FrozenTrial, limits: Limits, *, maximize: bool) -> bool:
    """Whether a complete trial ranks before another one of its strategy, backbone and head. Where they have predicted
    different folds, the images that both have predicted decide, and of equal scores the one on more folds."""
    folds = [trial.user_attrs.get(TrialAttribute.FOLDS) for trial in (one, other)]
    if folds[0] == folds[1] or any(TrialAttribute.HOLDOUT not in trial.user_attrs for trial in (one, other)):
        return rank(one, limits, maximize=maximize) < rank(other, limits, maximize=maximize)

    def place(trial: FrozenTrial) -> tuple[Any, ...]:
        shift = trial.user_attrs[TrialAttribute.HOLDOUT] - (trial.value or 0.0)
        is_beyond, sample, value, _, number = rank(trial, limits, maximize=maximize, shift=shift)
        return is_beyond, sample, value, -trial.user_attrs.get(TrialAttribute.FOLDS, 1), number

    return place(one) < place(other)


@dataclass
class HoldoutLine:
    """What a score on the validation images would be out of fold: by the line through the trials that have both.

    The validation images may be harder than the others, which is what the line's height is for. And the best of many
    scores on few images is too good by chance: the line's slope, from 0 to 1, draws it towards the mean as far as the
    other trials' scores on these images say nothing about those out of fold.
    """

    _num: int = 0
    _holdout: float = 0.0
    """Mean score on the validation images."""
    _value: float = 0.0
    """Mean score out of fold."""
    _spread: float = 0.0
    """Sum of squared differences of the former to their mean."""
    _shared: float = 0.0
    """Sum of the products of both differences."""

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial]) -> Self:
        """The line through complete trials."""
        line = cls()
        for trial in trials:
            line.add(trial)
        return line

    def add(self, trial: FrozenTrial) -> None:
        """Learn from a complete trial, if it has both scores."""
        holdout = trial.user_attrs.get(TrialAttribute.HOLDOUT)
        if scored_on(trial) != OUT_OF_FOLD or holdout is None or trial.value is None:
            return
        self._num += 1
        from_mean = holdout - self._holdout
        self._holdout += from_mean / self._num
        self._value += (trial.value - self._value) / self._num
        self._spread += from_mean * (holdout - self._holdout)
        self._shared += from_mean * (trial.value - self._value)

    def comparable(self, trial: FrozenTrial) -> float:
        """A complete trial's score, as it would be out of fold."""
        value = trial.value or 0.0
        if scored_on(trial) != VALIDATION or not self._num:
            return value
        is_known = self._num >= MIN_TRIALS and self._spread > 0
        slope = min(1.0, max(0.0, self._shared / self._spread)) if is_known else 1.0
        return self._value + slope * (value - self._holdout)

    def rank(self, trial: FrozenTrial, limits: Limits, *, maximize: bool) -> tuple[bool, float, float, float, int]:
        """The sort key of `autotl.study.trials.rank`, with a complete trial's score as it would be out of fold."""
        return rank(trial, limits, maximize=maximize, shift=self.comparable(trial) - (trial.value or 0.0))
