"""The warm-start portfolio: recipes that are tried before the sampler has learnt anything, cheap ones first."""

from collections.abc import Mapping, Sequence
from typing import Any

from autotl.recipe import JOIN, Params, Value
from autotl.registry import Registry
from autotl.study.space import Choices

__all__ = ["cheap_portfolio", "expensive_heads", "expensive_portfolio", "tried_expensive"]

PREFERRED_HEADS = ("kernel_ridge", "rbf_svm", "logistic_regression", "linear")
"""Heads for a strategy's first trial, the first available one: quick to fit and hard to beat."""
SCALABLE_HEADS = ("mlp", "linear")
"""Heads that train on any number of samples."""
JOINING_HEADS = ("kernel_ridge", "logistic_regression")
"""Heads that are tried first on further backbones and on joined ones, whose features are recorded by then."""
FIRST_HEADS = ("logistic_regression", "linear")
"""Heads for the very first trial: the fastest, so that a model exists within seconds."""


def cheap_portfolio(choices: Choices, registry: Registry) -> list[dict[str, Any]]:
    """Parameters of the cheap portfolio, in the order in which they are tried.

    The first trial; on the first backbone every head with the cheapest strategy; every other strategy once; then on the
    other backbones, and on joins of backbones, the preferred heads before the others.
    """

    def recipe(backbone: str, strategy: str, head: str, **changes: Value) -> dict[str, Any]:
        params = {**registry.strategy(strategy).defaults(registry.head(head)), **changes}
        return _trial_params(choices, registry, backbone, strategy, head, params)

    by_strategy: list[dict[str, Any]] = []
    for strategy in choices.strategies:
        heads = choices.heads_for(strategy, registry)
        preferred = PREFERRED_HEADS if by_strategy else FIRST_HEADS
        head = next((name for name in preferred if name in heads), heads[0])
        by_strategy.append(recipe(choices.backbones_for(strategy, registry)[0], strategy, head))
    cheapest = choices.strategies[0]
    heads = choices.heads_for(cheapest, registry)
    has_levels = "levels" in registry.strategy(cheapest).defaults(registry.head(heads[0]))
    all_levels = {"levels": "stages+max"} if has_levels else {}
    inner_heads = [head for head in heads if has_levels and head in (*PREFERRED_HEADS, *SCALABLE_HEADS)]
    first_heads = [head for head in JOINING_HEADS if head in heads] or heads[:1]
    first, *others = choices.backbones_for(cheapest, registry)
    singles = [name for name in others if JOIN not in name]

    def of_heads(backbone: str) -> list[dict[str, Any]]:
        return [
            *(recipe(backbone, cheapest, head, **all_levels) for head in heads),
            *(recipe(backbone, cheapest, head, levels="inner+max") for head in inner_heads),
        ]

    joining = [recipe(backbone, cheapest, head, **all_levels) for backbone in others for head in first_heads]
    rest = [params for backbone in singles for params in of_heads(backbone) if params not in joining]
    return [by_strategy[0], *of_heads(first), *by_strategy[1:], *joining, *rest]


def expensive_heads(choices: Choices, registry: Registry, strategy: str) -> list[str]:
    """Heads of a strategy's expensive recipes: a preferred one and, where the strategy trains heads alone, one for many
    samples."""
    heads = choices.heads_for(strategy, registry)
    trains_heads_alone = "estimator" in registry.strategy(strategy).head_types
    preferences = (PREFERRED_HEADS, SCALABLE_HEADS) if trains_heads_alone else (PREFERRED_HEADS,)
    return list(dict.fromkeys(next((h for h in preferred if h in heads), heads[0]) for preferred in preferences))


def expensive_portfolio(
    choices: Choices, registry: Registry, backbone: str, strategy: str, head: str, passes: int
) -> list[dict[str, Any]]:
    """Parameters of a strategy's expensive recipes that extract features in at most `passes` passes over the images."""
    recipes = registry.strategy(strategy).expensive_defaults(registry.head(head), passes)
    return [_trial_params(choices, registry, backbone, strategy, head, params) for params in recipes]


def tried_expensive(
    choices: Choices, registry: Registry, backbone: str, strategy: str, head: str, tried: Sequence[Mapping[str, Any]]
) -> bool:
    """Whether one of a strategy's expensive recipes was tried, with as many views as there was time for then."""
    recorded = {f"{strategy}.{name}" for name in registry.strategy(strategy).recorded_params}
    for recipe in expensive_portfolio(choices, registry, backbone, strategy, head, 100):
        fixed = {name: value for name, value in recipe.items() if name not in recorded}
        if any(all(params.get(name) == value for name, value in fixed.items()) for params in tried):
            return True
    return False


def _trial_params(
    choices: Choices, registry: Registry, backbone: str, strategy: str, head: str, params: Params
) -> dict[str, Any]:
    """Parameters of a trial, with the head's defaults, under their names in the search space.

    The sampler draws those whose default is not among the study's choices.
    """
    searched = {"policy": (*choices.augmentations, "none"), "loss": choices.losses, "levels": choices.levels}
    params = {name: value for name, value in params.items() if name not in searched or value in searched[name]}
    return {
        "strategy": strategy,
        "backbone": backbone,
        f"{strategy}.head": head,
        **_prefixed(strategy, params),
        **_prefixed(head, registry.head(head).defaults()),
    }


def _prefixed(owner: str, params: Mapping[str, Value]) -> dict[str, Any]:
    return {f"{owner}.{name}": value for name, value in params.items()}
