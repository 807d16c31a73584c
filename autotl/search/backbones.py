"""Which backbones a search takes: those that were named, else those that need no download, else a few to fetch."""

from collections.abc import Callable

from autotl.backbones.backbone import Backbone
from autotl.config import StudyConfig
from autotl.errors import AutotlError
from autotl.registry import Registry

__all__ = ["choose_backbones"]

FEW = 3
"""How many of the registered ones are fetched where none is here."""


def choose_backbones(config: StudyConfig, registry: Registry, say: Callable[[str], None]) -> list[Backbone]:
    """Cheapest first. Raises AutotlError where weights would have to be fetched and may not."""
    here = [b for b in registry.backbones.values() if b.offline]
    if config.backbones:
        chosen = [registry.backbone(name) for name in config.backbones]
    elif here:
        chosen = here
    else:
        chosen = sorted(registry.backbones.values(), key=_cost)[:FEW]
    to_fetch = [b for b in chosen if not b.offline]
    if to_fetch and not config.allow_downloads:
        wanted = "; ".join(f"{b.name} ({b.download or 'no weights here'})" for b in to_fetch)
        offline = f"Backbones that are here: {', '.join(b.name for b in here)}." if here else "None is here."
        raise AutotlError(
            f"The weights of some backbones aren't on this machine: {wanted}. {offline} "
            "Let them be fetched with --allow-downloads, or give a file: --backbone NAME@weights.safetensors"
        )
    for backbone in to_fetch:
        say(f"{backbone.name}: its weights are fetched from {backbone.download}")
    for backbone in chosen:
        _ = backbone.preprocessing  # what can't be had shows before the first trial
    return sorted(chosen, key=_cost)


def _cost(backbone: Backbone) -> tuple[int, str]:
    return (backbone.parameters or 10**9, backbone.name)
