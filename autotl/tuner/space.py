"""The one conditional search space: an Optuna trial becomes a Recipe. Parameters are named by their owner."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from autotl.recipe import Params, Recipe, Value
from autotl.registry import Registry

__all__ = ["Choices", "known_good", "seed_of", "suggest", "thorough", "thorough_heads"]


@dataclass(frozen=True)
class Choices:
    """What a study chooses from: frozen in its attributes, because a study is one space."""

    backbones: tuple[str, ...]
    """Cheapest first."""
    strategies: tuple[str, ...]
    """Each can train at least one of `heads`."""
    heads: tuple[str, ...]
    n_train: int
    n_classes: int
    accelerator: bool = False

    def heads_for(self, strategy: str, registry: Registry) -> tuple[str, ...]:
        """The heads that a strategy can train on so many images."""
        spec = registry.strategy(strategy)
        heads = [registry.head(name) for name in self.heads]
        rows = self.n_train * spec.rows_per_image
        return tuple(h.name for h in heads if h.kind in spec.head_kinds and rows <= (h.max_rows or rows))


@dataclass
class OwnedSpace:
    """A trial's space, in which every name begins with its owner's: `fine_tuning.unfrozen_blocks`."""

    trial: optuna.Trial
    owner: str
    n_train: int
    n_classes: int
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
        return OwnedSpace(trial, owner, choices.n_train, choices.n_classes, choices.accelerator)

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


PREFERRED = ("rbf_svm", "logistic_regression", "linear")
"""Heads for a strategy's first trial: quick and hard to beat."""
MANY_ROWS = ("mlp", "linear")
"""Heads that any number of views of the images can be given to."""
FIRST = ("logistic_regression", "linear")
"""And for the very first: it says little of what can be had, but says it soon."""


def known_good(choices: Choices, registry: Registry) -> list[dict[str, Any]]:
    """Parameters to try before the sampler knows anything, cheapest first: every strategy once on the smallest
    backbone; then, on each backbone, every head that reads recorded features, with its own defaults."""

    def parameters(backbone: str, strategy: str, head: str, **more: Value) -> dict[str, Any]:
        params = {**registry.strategy(strategy).defaults(registry.head(head)), **more}
        return _enqueued(registry, backbone, strategy, head, params)

    first: list[dict[str, Any]] = []
    for strategy in choices.strategies:
        heads = choices.heads_for(strategy, registry)
        head = next((h for h in (PREFERRED if first else FIRST) if h in heads), heads[0])
        first.append(parameters(choices.backbones[0], strategy, head))
    cheapest = choices.strategies[0]
    heads = choices.heads_for(cheapest, registry)
    tapped = "taps" in registry.strategy(cheapest).defaults(registry.head(heads[0]))
    wide = {"taps": "stages+max"} if tapped else {}
    inner = [head for head in heads if tapped and head in (*PREFERRED, *MANY_ROWS)]
    on_each = [
        [
            *(parameters(backbone, cheapest, head, **wide) for head in heads),
            *(parameters(backbone, cheapest, head, taps="inner+max") for head in inner),
        ]
        for backbone in choices.backbones
    ]
    return [*first[:1], *on_each[0], *first[1:], *(recipe for recipes in on_each[1:] for recipe in recipes)]


def thorough_heads(choices: Choices, registry: Registry, strategy: str) -> list[str]:
    """The heads of a strategy's thorough recipes: a preferred one, and where that is cheap to try one for many rows."""
    heads = choices.heads_for(strategy, registry)
    kinds = (PREFERRED, MANY_ROWS) if "estimator" in registry.strategy(strategy).head_kinds else (PREFERRED,)
    return list(dict.fromkeys(next((h for h in kind if h in heads), heads[0]) for kind in kinds))


def thorough(registry: Registry, backbone: str, strategy: str, head: str, passes: int) -> list[dict[str, Any]]:
    """A strategy's dearer known-good parameters, which record at most `passes` passes of a backbone over the
    images."""
    dearer = registry.strategy(strategy).thorough(registry.head(head), passes)
    return [_enqueued(registry, backbone, strategy, head, params) for params in dearer]


def _enqueued(registry: Registry, backbone: str, strategy: str, head: str, params: Params) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "backbone": backbone,
        f"{strategy}.head": head,
        **_owned(strategy, params),
        **_owned(head, registry.head(head).defaults()),
    }


def _owned(owner: str, params: Mapping[str, Value]) -> dict[str, Any]:
    return {f"{owner}.{name}": value for name, value in params.items()}
