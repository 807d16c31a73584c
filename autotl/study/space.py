"""The search space: an Optuna trial becomes a Recipe. Parameters are named after the part they belong to."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotl.backbones.levels import BUILT_IN as BUILT_IN_LEVELS
from autotl.data.augmentation import BUILT_IN as BUILT_IN_AUGMENTATIONS
from autotl.recipe import JOIN, Recipe, Value
from autotl.registry import Registry
from autotl.strategies.losses import BUILT_IN as BUILT_IN_LOSSES

if TYPE_CHECKING:
    import optuna

__all__ = ["Choices", "PrefixedSpace", "seed_of", "suggest"]


@dataclass(frozen=True)
class Choices:
    """What the search space of a study is made of. It is kept in the study's attributes and never changes."""

    backbones: tuple[str, ...]
    """Cheapest first."""
    strategies: tuple[str, ...]
    """Each can train at least one of `heads`."""
    heads: tuple[str, ...]
    num_train: int
    """Number of training images."""
    num_classes: int
    accelerator: bool = False
    """Whether a slot has a device other than a CPU."""
    augmentations: tuple[str, ...] = tuple(BUILT_IN_AUGMENTATIONS)
    losses: tuple[str, ...] = tuple(BUILT_IN_LOSSES)
    levels: tuple[str, ...] = tuple(BUILT_IN_LEVELS)

    @property
    def single_backbones(self) -> tuple[str, ...]:
        """The backbones without those that are joined."""
        return tuple(name for name in self.backbones if JOIN not in name)

    def backbones_for(self, strategy: str, registry: Registry) -> tuple[str, ...]:
        """The backbones that a strategy can use: joined ones only where it reads recorded features alone."""
        if registry.strategy(strategy).cross_validated:
            return self.backbones
        return self.single_backbones

    def heads_for(self, strategy: str, registry: Registry) -> tuple[str, ...]:
        """The heads that a strategy can train on this number of images."""
        spec = registry.strategy(strategy)
        heads = [registry.head(name) for name in self.heads]
        samples = self.num_train * spec.samples_per_image
        return tuple(h.name for h in heads if h.type in spec.head_types and samples <= (h.max_train_samples or samples))


@dataclass
class PrefixedSpace:
    """A `Space` in which the names of parameters begin with their owner's: `fine_tuning.unfrozen_blocks`.

    Args:
        owner: name of the head or strategy that suggests.
    """

    trial: "optuna.Trial"
    owner: str
    num_train: int
    num_classes: int
    accelerator: bool
    augmentations: tuple[str, ...]
    losses: tuple[str, ...]
    levels: tuple[str, ...]

    def categorical(self, name: str, choices: Sequence[Value]) -> Any:
        return self.trial.suggest_categorical(f"{self.owner}.{name}", choices)

    def int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self.trial.suggest_int(f"{self.owner}.{name}", low, high, log=log)

    def float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.trial.suggest_float(f"{self.owner}.{name}", low, high, log=log)


def seed_of(study_seed: int, trial_number: int) -> int:
    """The seed of a trial, in [0, 2**31): it depends on the study's seed and the trial's number alone, so that each
    trial of a parallel search can be repeated."""
    return int.from_bytes(hashlib.sha256(f"{study_seed}/{trial_number}".encode()).digest()[:4], "big") >> 1


def suggest(trial: "optuna.Trial", choices: Choices, registry: Registry, study_seed: int) -> Recipe:
    """The trial's recipe. Parameters that were enqueued with the trial are taken, the sampler draws the others."""

    def space_of(owner: str) -> PrefixedSpace:
        size = (choices.num_train, choices.num_classes, choices.accelerator)
        return PrefixedSpace(trial, owner, *size, choices.augmentations, choices.losses, choices.levels)

    strategy = registry.strategy(trial.suggest_categorical("strategy", choices.strategies))
    backbone = registry.backbone(trial.suggest_categorical("backbone", choices.backbones))
    head = registry.head(trial.suggest_categorical(f"{strategy.name}.head", choices.heads_for(strategy.name, registry)))
    if backbone.name not in choices.backbones_for(strategy.name, registry):
        backbone = backbone.parts[0]  # of a foreign sampler: the scheduler fixes one that fits
    return Recipe(
        backbone=backbone.name,
        strategy=strategy.name,
        head=head.name,
        seed=seed_of(study_seed, trial.number),
        strategy_params=strategy.suggest(space_of(strategy.name), backbone, head),
        head_params=head.suggest(space_of(head.name)),
    )
