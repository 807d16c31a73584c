"""Optuna's TPE for a search space in which every head and every strategy has its own parameters."""

from bisect import insort
from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotl.config import Limits
from autotl.study.space import seed_of

__all__ = ["NO_LIMITS", "NUM_STARTUP_TRIALS", "ConditionalTPESampler"]

NUM_STARTUP_TRIALS = 4
"""Finished trials of a group below which its parameters are drawn at random."""
GroupKey = tuple[str, ...]
"""(), (strategy,) or (strategy, head)."""
NO_LIMITS = Limits()
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class ConditionalTPESampler(BaseSampler):
    """Multivariate TPE over the joint parameters of a strategy and a head, fitted to the trials that have both.

    `TPESampler(group=True)` draws from each of its groups at every ask (18 with the built-in heads, which takes 130 ms
    after a thousand trials) and ranks all trials together. Here a group is drawn from when its first parameter is
    suggested, and only trials of the same strategy and head are compared: a learning rate for an MLP is learnt from
    MLPs.

    Draws depend on the study's seed, the trial's number and the other trials, not on the process: a worker that
    replaces another one does not repeat its draws. Running trials of all processes count as bad ones (constant liar,
    Ginsbourger et al. 2010), so that workers do not try the same point at the same time.

    Args:
        seed: the study's seed, the same in every process.
        limits: what a trial may cost. One that costs more counts as worse than any other, by its attributes, so that a
            resumed study may have other limits.
    """

    def __init__(self, seed: int, limits: Limits = NO_LIMITS):
        self._seed, self._limits = seed, limits
        self._groups: dict[GroupKey, _Group] = {}
        self._learnt: set[int] = set()
        """Numbers of the finished trials that the groups have."""
        self._draws: dict[int, _Draw] = {}
        """By number of the running trials of this process."""

    def reseed_rng(self) -> None:
        """Do nothing: each trial has a generator of its own."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}  # a group is known only once the trial has its strategy and head

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        draw = self._draws.get(trial.number)
        if draw is None:
            self._learn(study)
            draw = self._draws[trial.number] = _Draw(_tpe_sampler(seed_of(self._seed, trial.number)))
        key = _group_of(trial.params, param_name)
        group = self._group(study, key)
        if key not in draw.groups:
            draw.groups.add(key)
            group.set_running(_running(study, trial, key, group.space))
            values = draw.sampler.sample_relative(group.study(), trial, group.space)
            draw.values |= {name: (group.space[name], value) for name, value in values.items()}
        distribution, value = draw.values.pop(param_name, (None, None))
        if distribution == param_distribution:
            return value
        group.set_running(_running(study, trial, key, {param_name: param_distribution}))
        return draw.sampler.sample_independent(group.study(), trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self._draws.pop(trial.number, None)

    def _group(self, study: optuna.Study, key: GroupKey) -> "_Group":
        if key not in self._groups:
            self._groups[key] = _Group(study.direction)
        return self._groups[key]

    def _learn(self, study: optuna.Study) -> None:
        """Add the trials that have finished since the last call to the groups whose parameters they have."""
        for trial in study.get_trials(deepcopy=False, states=FINISHED):
            if trial.number in self._learnt:
                continue
            self._learnt.add(trial.number)
            names_by_group: dict[GroupKey, list[str]] = {}
            for name in trial.params:
                names_by_group.setdefault(_group_of(trial.params, name), []).append(name)
            for key, names in names_by_group.items():
                self._group(study, key).learn(trial, names, self._limits)


def _tpe_sampler(seed: int) -> TPESampler:
    return TPESampler(multivariate=True, seed=seed, n_startup_trials=NUM_STARTUP_TRIALS, constant_liar=True)


def _group_of(params: Mapping[str, Any], name: str) -> GroupKey:
    """The group that the parameter `name` of a trial with `params` is drawn in."""
    strategy = params.get("strategy", "")
    if name == "strategy":
        return ()
    if name in ("backbone", f"{strategy}.head"):
        return (strategy,)
    return (strategy, params.get(f"{strategy}.head", ""))


def _running(
    study: optuna.Study, trial: FrozenTrial, key: GroupKey, space: Mapping[str, BaseDistribution]
) -> list[FrozenTrial]:
    """Running trials of all processes but `trial`, with those parameters of a group that are drawn already or fixed
    since they were enqueued, and that lie in `space`."""
    running = []
    for other in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        params = {**other.system_attrs.get("fixed_params", {}), **other.params}
        names = [name for name in space if name in params and _group_of(params, name) == key]
        names = [name for name in names if _is_valid(space[name], params[name])]
        if names and other.number != trial.number:
            running.append(_part_of(other, {name: params[name] for name in names}, space))
    return running


def _is_valid(distribution: BaseDistribution, value: Any) -> bool:
    try:
        distribution.to_internal_repr(value)
    except ValueError:
        return False
    return True


def _part_of(trial: FrozenTrial, params: dict[str, Any], distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """The trial with some of its parameters."""
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions={name: distributions[name] for name in params},
        user_attrs={},
        system_attrs={},
        intermediate_values=trial.intermediate_values,
        trial_id=trial._trial_id,
    )


@dataclass
class _Draw:
    """What was drawn for one running trial."""

    sampler: TPESampler
    """With the trial's own generator."""
    groups: set[GroupKey] = field(default_factory=set)
    """Groups that were drawn from."""
    values: dict[str, tuple[BaseDistribution, Any]] = field(default_factory=dict)
    """Values that were drawn jointly and not suggested yet."""


class _Group:
    """The trials that have the parameters of one group, as a study in memory for a TPESampler."""

    def __init__(self, direction: StudyDirection):
        self._storage = _GroupStorage()
        self._storage.create_new_study([direction], "group")
        self.space: dict[str, BaseDistribution] = {}
        """Distributions that all finished trials of the group share; parameters outside are drawn independently."""

    def learn(self, trial: FrozenTrial, names: Collection[str], limits: Limits) -> None:
        """Add a finished trial with its parameters of this group."""
        part = _part_of(trial, {name: trial.params[name] for name in names}, trial.distributions)
        for cost, excess in limits.constraints(trial.user_attrs).items():
            part.set_constraint(cost, excess)
        shared = part.distributions if not self._storage.finished else self.space
        self.space = {
            name: d for name, d in sorted(shared.items()) if part.distributions.get(name) == d and not d.single()
        }
        insort(self._storage.finished, part, key=lambda finished: finished.number)

    def set_running(self, trials: list[FrozenTrial]) -> None:
        """Replace the running trials."""
        self._storage.running = trials

    def study(self) -> optuna.Study:
        """A study that has not cached any trials."""
        return optuna.load_study(study_name="group", storage=self._storage, sampler=RandomSampler(0))


class _GroupStorage(InMemoryStorage):
    """Trials under the numbers that they have in the search's study."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[FrozenTrial] = []
        """By number."""
        self.running: list[FrozenTrial] = []

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,  # noqa: FBT001, FBT002 (the base class's signature)
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        return [trial for trial in (*self.finished, *self.running) if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Do nothing: TPESampler announces joint draws here, and running trials are read from the search's study."""
