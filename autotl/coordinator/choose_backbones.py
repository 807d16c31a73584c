"""Which backbones a search takes: those that were named, else those that need no download, else a few to fetch."""

from collections.abc import Callable

from autotl.backbones.base import Backbone
from autotl.config import StudyConfig
from autotl.errors import AutotlError
from autotl.registry import Registry

__all__ = ["choose_backbones"]

FEW = 3
"""How many of the registered ones are fetched where none is here."""


def choose_backbones(config: StudyConfig, registry: Registry, say: Callable[[str], None]) -> list[Backbone]:
    """Cheapest first. What has to be fetched is announced with its size before anything is; raises AutotlError
    where it can't be had."""
    here = [b for b in registry.backbones.values() if b.is_cached]
    if config.backbones:
        chosen = [registry.backbone(name) for name in config.backbones]
    elif here:
        chosen = here
    else:
        chosen = sorted(registry.backbones.values(), key=_cost)[:FEW]
    to_fetch = [b for b in chosen if not b.is_cached]
    if not config.offline:
        for backbone in to_fetch:
            say(f"{backbone.name}: its weights are fetched from {backbone.download}")
    for backbone in to_fetch:
        try:
            _ = backbone.digest  # fetches, once for all workers
        except AutotlError as error:
            listed = ", ".join(b.name for b in here) or "none"
            raise AutotlError(f"{backbone.name}: {error} Backbones that are on this machine: {listed}.") from error
    return sorted(chosen, key=_cost)


def _cost(backbone: Backbone) -> tuple[int, str]:
    return (backbone.count_params(), backbone.name)
