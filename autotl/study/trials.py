"""What a coordinator needs of a study's trials: a small interface that tests and simulations implement in memory."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, TrialState

from autotl.config import Limits
from autotl.study.storage import Journal, storage_on
from autotl.study.study import StudyDeleted, TrialAttribute

__all__ = ["StudyTrials", "Trials", "params_of", "rank"]


def rank(
    trial: FrozenTrial, limits: Limits, *, maximize: bool, shift: float = 0.0
) -> tuple[bool, float, float, float, int]:
    """Sorts complete trials, the best first: those within the limits, those on a sample of the images after those on
    more, by score, of equal scores by log loss, then by number. A log loss that is missing, NaN or no number at all, as
    a stranger's journal may have it, comes last.

    Args:
        shift: added to the score.
    """
    sample = trial.user_attrs.get(TrialAttribute.SAMPLE, math.inf)
    sample = float(sample) if isinstance(sample, int | float) and not math.isnan(sample) else 0.0
    loss = trial.user_attrs.get("log_loss")
    loss = float(loss) if isinstance(loss, int | float) and math.isfinite(loss) else math.inf
    value = ((trial.value or 0.0) + shift) * (-1.0 if maximize else 1.0)
    return not limits.keeps(trial.user_attrs), -sample, value, loss, trial.number


def params_of(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters that a trial has drawn, and those that it was enqueued with and hasn't drawn yet."""
    return {**trial.system_attrs.get("fixed_params", {}), **trial.params}


class Trials(Protocol):
    """The trials of one study. Returned trials are not copied: do not change them."""

    def get(self, number: int) -> FrozenTrial:
        """The trial with this number."""

    def all(self) -> list[FrozenTrial]:
        """All trials, by number."""

    def running(self) -> list[FrozenTrial]:
        """Trials in state RUNNING."""

    def waiting(self) -> list[FrozenTrial]:
        """Enqueued trials, in state WAITING, that no worker has got yet, by number."""

    def next_number(self) -> int:
        """Number of the trial that is created next."""

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> None:
        """Create a waiting trial with fixed `params` and user attributes. The worker that gets it draws its other
        parameters."""

    def begin(self, number: int) -> None:
        """Set the state of a waiting trial to RUNNING: a worker gets this trial and no other."""

    def end(self, number: int, cause: str, state: TrialState = TrialState.FAIL) -> None:
        """Set the state of a running trial to FAIL or PRUNED, and the cause as an attribute. Raises RuntimeError where
        the trial has finished already."""

    def copy_to(self, folder: Path) -> "Trials":
        """The study as it was when this process last read it, in a journal in `folder`. Needs no storage of its own."""


class StudyTrials:
    """`Trials` of an Optuna study. Every method raises StudyDeleted where the study was deleted meanwhile.

    Args:
        folder: the study's folder, for the message.
        on_end: called with each trial that `end` has ended.
    """

    def __init__(self, study: optuna.Study, folder: Path, on_end: Callable[[FrozenTrial], None] = lambda trial: None):
        self.study, self.folder, self._on_end = study, folder, on_end
        self._known, self._attributes, self._direction = self._trials(), study.user_attrs, study.direction
        """What a copy is made of where the storage is lost."""

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        with self._existing():
            trials = self.study.get_trials(deepcopy=False, states=states)
        if states is None:
            self._known = trials
        return trials

    def copy_to(self, folder: Path) -> "StudyTrials":
        folder.mkdir(parents=True)
        storage = storage_on(Journal(folder))
        copy = optuna.create_study(study_name=self.study.study_name, storage=storage, direction=self._direction)
        for name, value in self._attributes.items():
            copy.set_user_attr(name, value)
        copy.add_trials(self._known)
        return StudyTrials(copy, self.folder, self._on_end)

    @contextmanager
    def _existing(self) -> Iterator[None]:
        try:
            yield
        except KeyError as error:  # what Optuna's storages raise for an unknown study or trial
            raise StudyDeleted(self.folder) from error

    def get(self, number: int) -> FrozenTrial:
        return self._trials()[number]

    def all(self) -> list[FrozenTrial]:
        return self._trials()

    def running(self) -> list[FrozenTrial]:
        return self._trials((TrialState.RUNNING,))

    def waiting(self) -> list[FrozenTrial]:
        return self._trials((TrialState.WAITING,))

    def next_number(self) -> int:
        return len(self._trials())

    def enqueue(self, params: Mapping[str, Any], attributes: Mapping[str, Any] | None = None) -> None:
        with self._existing():
            self.study.enqueue_trial(dict(params), user_attrs=dict(attributes or {}))

    def begin(self, number: int) -> None:
        with self._existing():
            self.study._storage.set_trial_state_values(self.get(number)._trial_id, TrialState.RUNNING)

    def end(self, number: int, cause: str, state: TrialState = TrialState.FAIL) -> None:
        with self._existing():
            optuna.Trial(self.study, self.get(number)._trial_id).set_user_attr(TrialAttribute.CAUSE, cause)
            ended = self.study.tell(number, state=state)
        self._on_end(ended)
