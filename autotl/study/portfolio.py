"""The warm-start portfolio: recipes that are tried before the sampler has learnt anything, cheap ones first."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from autotl.recipe import JOIN, Params, Value
from autotl.registry import Registry
from autotl.study.space import Choices

__all__ = ["cheap_portfolio", "expensive_heads", "expensive_portfolio", "learnt_recipes", "tried_expensive", "untried"]

PREFERRED_HEADS = ("kernel_ridge", "rbf_svm", "logistic_regression", "linear")
"""Heads for the first trial of a further strategy, the first available one: quick to fit and hard to beat."""
SCALABLE_HEADS = ("mlp", "linear")
"""Heads that train on any number of samples."""
FIRST_HEADS = ("logistic_regression", "linear")
"""Heads for the very first trial: the fastest, so that a model exists within seconds."""
NUM_JOINING = 2
"""Recipes, of different heads, that are tried first on further backbones and on joined ones, whose features are
recorded by then."""
NUM_EARLY = 5
"""Learnt recipes that are tried on the first backbone before the second one: the others of them bring less than the
features of a second network do, alone and beside those of the first (see studies/README.md)."""


@cache
def learnt_recipes() -> tuple[Mapping[str, Any], ...]:
    """The recipes of `portfolio.json`, without backbones, in the order in which they are tried. The first one is the
    very first trial. `studies/learn_portfolio.py` writes the file."""
    return tuple(json.loads(files("autotl.study").joinpath("portfolio.json").read_text()))


def cheap_portfolio(choices: Choices, registry: Registry) -> list[dict[str, Any]]:
    """Parameters of the cheap portfolio, in the order in which they are tried.

    On the first backbone some learnt recipes, the first of which is fitted fastest; the best of them on the second one
    and on both joined; the other learnt recipes; every other strategy once; the best of the learnt recipes on the other
    backbones and on joins of backbones; the heads that no learnt recipe has; then the rest on the other backbones.
    """

    def recipe(backbone: str, strategy: str, head: str, head_params: Params, **changes: Value) -> dict[str, Any]:
        params = {**registry.strategy(strategy).defaults(registry.head(head)), **changes}
        return _trial_params(choices, registry, backbone, strategy, head, params, head_params)

    by_strategy: list[dict[str, Any]] = []
    for strategy in choices.strategies:
        heads = choices.heads_for(strategy, registry)
        preferred = PREFERRED_HEADS if by_strategy else FIRST_HEADS
        head = next((name for name in preferred if name in heads), heads[0])
        by_strategy.append(recipe(choices.backbones_for(strategy, registry)[0], strategy, head, {}))
    cheapest = choices.strategies[0]
    heads = choices.heads_for(cheapest, registry)
    learnt = [known for known in learnt_recipes() if known["strategy"] == cheapest and known["head"] in heads]
    other_heads = [head for head in heads if head not in {known["head"] for known in learnt}]
    has_levels = "levels" in registry.strategy(cheapest).defaults(registry.head(heads[0]))
    all_levels = {"levels": "stages+max"} if has_levels else {}

    def of_learnt(backbone: str) -> list[dict[str, Any]]:
        return [
            recipe(backbone, cheapest, known["head"], known["head_params"], **known["strategy_params"])
            for known in learnt
        ]

    def of_other_heads(backbone: str) -> list[dict[str, Any]]:
        return [recipe(backbone, cheapest, head, {}, **all_levels) for head in other_heads]

    def joining(backbone: str) -> list[dict[str, Any]]:
        by_head = {params[f"{cheapest}.head"]: params for params in reversed(of_learnt(backbone)[1:])}
        promising = [params for params in of_learnt(backbone) if params in by_head.values()]
        return [*promising, *of_learnt(backbone), *of_other_heads(backbone)][:NUM_JOINING]

    first, *others = choices.backbones_for(cheapest, registry)
    singles = [name for name in others if JOIN not in name]
    early = [name for name in others if {first, *singles[:1]}.issuperset(name.split(JOIN))]
    queue = [by_strategy[0], *of_learnt(first)[:NUM_EARLY]]
    for backbone in early:
        queue += joining(backbone)
    queue += [*of_learnt(first), *by_strategy[1:]]
    for backbone in others:
        queue += joining(backbone)
    queue += of_other_heads(first)
    for backbone in singles:
        queue += of_learnt(backbone) + of_other_heads(backbone)
    return [params for i, params in enumerate(queue) if params not in queue[:i]]


def untried(queue: Sequence[dict[str, Any]], tried: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The recipes of a queue that no trial had. A trial also has the parameters that the sampler has drawn for it."""

    def kind(params: Mapping[str, Any]) -> tuple[Any, ...]:
        return params.get("strategy"), params.get("backbone"), params.get(f"{params.get('strategy')}.head")

    by_kind: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for params in tried:
        by_kind.setdefault(kind(params), []).append(params)
    return [
        recipe
        for recipe in queue
        if not any(recipe.items() <= params.items() for params in by_kind.get(kind(recipe), ()))
    ]


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
    return [_trial_params(choices, registry, backbone, strategy, head, params, {}) for params in recipes]


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
    choices: Choices,
    registry: Registry,
    backbone: str,
    strategy: str,
    head: str,
    params: Params,
    head_params: Params,
) -> dict[str, Any]:
    """Parameters of a trial, those of the head with its defaults, under their names in the search space.

    The sampler draws those whose default is not among the study's choices.
    """
    searched = {"policy": (*choices.augmentations, "none"), "loss": choices.losses, "levels": choices.levels}
    params = {name: value for name, value in params.items() if name not in searched or value in searched[name]}
    return {
        "strategy": strategy,
        "backbone": backbone,
        f"{strategy}.head": head,
        **_prefixed(strategy, params),
        **_prefixed(head, {**registry.head(head).defaults(), **head_params}),
    }


def _prefixed(owner: str, params: Mapping[str, Value]) -> dict[str, Any]:
    return {f"{owner}.{name}": value for name, value in params.items()}
