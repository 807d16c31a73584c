"""A study's trials as a coordinator sees them: a small contract, so that tests and simulations can hand in their own."""

from collections.abc import Mapping
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

__all__ = ["StudyTrials", "Trials"]


class Trials(Protocol):
    """The trials of one study."""

    def get(self, number: int) -> FrozenTrial:
        """The trial of that number. Do not change it."""

    def all(self) -> list[FrozenTrial]:
        """All trials, by number. Do not change them."""

    def running(self) -> list[FrozenTrial]:
        """Trials in state RUNNING."""

    def num_waiting(self) -> int:
        """Number of enqueued trials that no worker has asked for yet."""

    def next_number(self) -> int:
        """The number that the next created trial gets."""

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> None:
        """Create a waiting trial with fixed `params`; the sampler draws the others when a worker asks for it."""

    def fail(self, number: int, cause: str) -> None:
        """Tell a running trial as failed, with its cause as an attribute."""


class StudyTrials:
    """The trials of an Optuna study."""

    def __init__(self, study: optuna.Study):
        self.study = study

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

    def fail(self, number: int, cause: str) -> None:
        optuna.Trial(self.study, self.get(number)._trial_id).set_user_attr("cause", cause)
        self.study.tell(number, state=TrialState.FAIL)
