"""Which backbones a search joins: features of several networks, or of one at two sizes, that one head sees."""

from collections.abc import Sequence
from itertools import combinations

from autotl.backbones.base import Backbone
from autotl.backbones.joined import larger_size
from autotl.config import StudyConfig
from autotl.recipe import JOIN

__all__ = ["propose_joins"]

MAX_BACKBONES = 4
"""Backbones of a search whose features are joined with each other: the first ones, which are the cheapest."""


def propose_joins(config: StudyConfig, backbones: Sequence[Backbone]) -> list[str]:
    """Names of joined backbones, in the order in which they are tried: pairs, then threes and so on. A search that has
    found one backbone joins it with itself on larger images, where it takes them.

    Args:
        backbones: of the search, the cheapest first.
    """
    if any(JOIN in backbone.name for backbone in backbones):
        return []  # the user joins them
    first = [backbone.name for backbone in backbones[:MAX_BACKBONES]]
    joins = [JOIN.join(names) for n in range(2, config.joined + 1) for names in combinations(first, n)]
    if len(backbones) == 1 and config.joined > 1 and not config.backbones and backbones[0].any_size:
        (only,) = backbones
        size = larger_size(only)
        joins += [] if size is None else [JOIN.join((only.name, f"{only.name},size={size}"))]
    return joins
