"""The one conditional search space: an Optuna trial becomes a Recipe. Parameters are named by their owner."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from autotl.recipe import Recipe, Value
from autotl.registry import Registry

__all__ = ["Choices", "seed_of", "suggest"]


@dataclass(frozen=True)
class Choices:
    """What a study chooses from: frozen in its attributes, because a study is one space."""

    backbones: tuple[str, ...]
    """Cheapest first."""
    strategies: tuple[str, ...]
    """Each can train at least one of `heads`."""
    heads: tuple[str, ...]
    num_train: int
    num_classes: int
    accelerator: bool = False

    def heads_for(self, strategy: str, registry: Registry) -> tuple[str, ...]:
        """The heads that a strategy can train on so many images."""
        spec = registry.strategy(strategy)
        heads = [registry.head(name) for name in self.heads]
        rows = self.num_train * spec.samples_per_image
        return tuple(h.name for h in heads if h.type in spec.head_types and rows <= (h.max_train_samples or rows))


@dataclass
class OwnedSpace:
    """A trial's space, in which every name begins with its owner's: `fine_tuning.unfrozen_blocks`."""

    trial: optuna.Trial
    owner: str
    num_train: int
    num_classes: int
    accelerator: bool

    def categorical(self, name: str, choices: Sequence[Value]) -> Any:
        return self.trial.suggest_categorical(f"{self.owner}.{name}", choices)

    def int(self, name: str, low: int, high: int, log: bool = False) -> int:
        return self.trial.suggest_int(f"{self.owner}.{name}", low, high, log=log)

    def float(self, name: str, low: float, high: float, log: bool = False) -> float:
        return self.trial.suggest_float(f"{self.owner}.{name}", low, high, log=log)


def seed_of(study_seed: int, trial_number: int) -> int:
    """A trial's own seed: parallel searches can't be repeated, each of their trials can."""
    return int.from_bytes(hashlib.sha256(f"{study_seed}/{trial_number}".encode()).digest()[:4], "big") >> 1


def suggest(trial: optuna.Trial, choices: Choices, registry: Registry, study_seed: int) -> Recipe:
    """The trial's recipe: every choice is made, by the sampler or by what was enqueued."""

    def owned(owner: str) -> OwnedSpace:
        return OwnedSpace(trial, owner, choices.num_train, choices.num_classes, choices.accelerator)

    strategy = registry.strategy(trial.suggest_categorical("strategy", choices.strategies))
    backbone = registry.backbone(trial.suggest_categorical("backbone", choices.backbones))
    head = registry.head(trial.suggest_categorical(f"{strategy.name}.head", choices.heads_for(strategy.name, registry)))
    return Recipe(
        backbone=backbone.name,
        strategy=strategy.name,
        head=head.name,
        seed=seed_of(study_seed, trial.number),
        strategy_params=strategy.suggest(owned(strategy.name), backbone, head),
        head_params=head.suggest(owned(head.name)),
    )
