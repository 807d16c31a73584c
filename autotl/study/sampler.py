"""Optuna's TPE for a space in which every head and strategy has other parameters."""

from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

__all__ = ["ConditionalTPESampler"]

STARTUP = 4
"""Trials of a group before its parameters are more than drawn at random."""


class ConditionalTPESampler(BaseSampler):
    """Multivariate TPE over all parameters of a head with its strategy, among the trials of both.

    `TPESampler(group=True)` draws from each of its groups at every ask (18 with the built-in heads, which takes 130 ms
    after a thousand trials) and ranks all trials together. Here a group is drawn from when its first parameter is asked
    for, and like is compared with like: a learning rate for an MLP is learnt from MLPs.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._groups: dict[tuple[str, ...], _Group] = {}
        self._learnt: set[int] = set()
        self._number = -1
        self._drawn: dict[str, tuple[BaseDistribution, Any]] = {}
        """What was drawn together for the trial with that number, and wasn't asked for yet."""

    def reseed_rng(self) -> None:
        for group in self._groups.values():
            group.sampler.reseed_rng()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}  # the group is known once strategy and head are chosen

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if trial.number != self._number:
            self._learn(study)
            self._number, self._drawn = trial.number, {}
        group = self._group(study, trial, param_name)
        if param_name not in self._drawn:
            self._drawn |= group.draw(trial)
        distribution, value = self._drawn.pop(param_name, (None, None))
        if distribution == param_distribution:
            return value
        return group.sampler.sample_independent(group.study, trial, param_name, param_distribution)

    def _group(self, study: optuna.Study, trial: FrozenTrial, name: str) -> "_Group":
        strategy = trial.params.get("strategy", "")
        key: tuple[str, ...] = ()
        if name in ("backbone", f"{strategy}.head"):
            key = (strategy,)
        elif name != "strategy":
            key = (strategy, trial.params.get(f"{strategy}.head", ""))
        if key not in self._groups:
            self._groups[key] = _Group(study.direction, self._seed + len(self._groups))
        return self._groups[key]

    def _learn(self, study: optuna.Study) -> None:
        """Give the trials that were finished since the last time to the groups whose parameters they have."""
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)):
            if trial.number in self._learnt:
                continue
            self._learnt.add(trial.number)
            groups: dict[_Group, list[str]] = {}
            for name in trial.params:
                groups.setdefault(self._group(study, trial, name), []).append(name)
            for group, names in groups.items():
                group.learn(trial, names)


class _Group:
    """Parameters that are chosen together, as a study in memory."""

    def __init__(self, direction: optuna.study.StudyDirection, seed: int):
        self._storage = InMemoryStorage()
        self.study = optuna.create_study(study_name="group", storage=self._storage, direction=direction)
        self.sampler = TPESampler(
            multivariate=True,
            seed=seed,
            n_startup_trials=STARTUP,
            constant_liar=False,  # of trials that run, each draws from its own study in memory
        )

    def learn(self, trial: FrozenTrial, names: list[str]) -> None:
        self.study.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=trial.value,
                params={name: trial.params[name] for name in names},
                distributions={name: trial.distributions[name] for name in names},
                intermediate_values=trial.intermediate_values,
            )
        )
        # a study that isn't asked reads its trials once: another one reads them anew
        self.study = optuna.load_study(study_name="group", storage=self._storage, sampler=self.sampler)

    def draw(self, trial: FrozenTrial) -> dict[str, tuple[BaseDistribution, Any]]:
        """Values for the parameters that all the group's trials have."""
        space = self.sampler.infer_relative_search_space(self.study, trial)
        values = self.sampler.sample_relative(self.study, trial, space)
        return {name: (space[name], value) for name, value in values.items()}
