"""The warm-start portfolio: recipes that are tried before the sampler knows anything, cheap ones first."""

from collections.abc import Mapping
from typing import Any

from autotl.recipe import Params, Value
from autotl.registry import Registry
from autotl.study.space import Choices

__all__ = ["cheap_portfolio", "expensive_heads", "expensive_portfolio"]

PREFERRED = ("rbf_svm", "logistic_regression", "linear")
"""Heads for a strategy's first trial: quick and hard to beat."""
MANY_ROWS = ("mlp", "linear")
"""Heads that any number of views of the images can be given to."""
FIRST = ("logistic_regression", "linear")
"""And for the very first: it says little of what can be had, but says it soon."""


def cheap_portfolio(choices: Choices, registry: Registry) -> list[dict[str, Any]]:
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
    leveled = "levels" in registry.strategy(cheapest).defaults(registry.head(heads[0]))
    wide = {"levels": "stages+max"} if leveled else {}
    inner = [head for head in heads if leveled and head in (*PREFERRED, *MANY_ROWS)]
    on_each = [
        [
            *(parameters(backbone, cheapest, head, **wide) for head in heads),
            *(parameters(backbone, cheapest, head, levels="inner+max") for head in inner),
        ]
        for backbone in choices.backbones
    ]
    return [*first[:1], *on_each[0], *first[1:], *(recipe for recipes in on_each[1:] for recipe in recipes)]


def expensive_heads(choices: Choices, registry: Registry, strategy: str) -> list[str]:
    """The heads of a strategy's thorough recipes: a preferred one, and where that is cheap to try one for many rows."""
    heads = choices.heads_for(strategy, registry)
    kinds = (PREFERRED, MANY_ROWS) if "estimator" in registry.strategy(strategy).head_types else (PREFERRED,)
    return list(dict.fromkeys(next((h for h in kind if h in heads), heads[0]) for kind in kinds))


def expensive_portfolio(
    registry: Registry, backbone: str, strategy: str, head: str, passes: int
) -> list[dict[str, Any]]:
    """A strategy's dearer known-good parameters, which record at most `passes` passes of a backbone over the
    images."""
    dearer = registry.strategy(strategy).expensive_defaults(registry.head(head), passes)
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
