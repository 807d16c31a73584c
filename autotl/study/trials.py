"""What a coordinator needs of a study's trials: a small interface that tests and simulations implement in memory."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.study.study import TrialAttribute

__all__ = ["StudyTrials", "Trials"]


class Trials(Protocol):
    """The trials of one study. Returned trials are not copied: do not change them."""

    def get(self, number: int) -> FrozenTrial:
        """The trial with this number."""

    def all(self) -> list[FrozenTrial]:
        """All trials, by number."""

    def running(self) -> list[FrozenTrial]:
        """Trials in state RUNNING."""

    def num_waiting(self) -> int:
        """Number of enqueued trials, in state WAITING, that no worker has asked for yet."""

    def next_number(self) -> int:
        """Number of the trial that is created next."""

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> None:
        """Create a waiting trial with fixed `params` and user attributes. The worker that asks for it draws its other
        parameters."""

    def end(self, number: int, cause: str, state: TrialState = TrialState.FAIL) -> None:
        """Set the state of a running trial to FAIL or PRUNED, and the cause as an attribute. Raises RuntimeError where
        the trial has finished already."""


class StudyTrials:
    """`Trials` of an Optuna study.

    Args:
        on_end: called with each trial that `end` has ended.
    """

    def __init__(self, study: optuna.Study, on_end: Callable[[FrozenTrial], None] = lambda trial: None):
        self.study, self._on_end = study, on_end

    def get(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def num_waiting(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def next_number(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> None:
        self.study.enqueue_trial(dict(params), user_attrs=dict(attributes or {}))

    def end(self, number: int, cause: str, state: TrialState = TrialState.FAIL) -> None:
        optuna.Trial(self.study, self.get(number)._trial_id).set_user_attr(TrialAttribute.CAUSE, cause)
        self._on_end(self.study.tell(number, state=state))
