"""What differs from family to family in torchvision: where the classifier is, and where a block begins."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision import models

__all__ = ["FAMILIES", "Family", "family_of", "known_models"]

Cut = Callable[[Any], None]


@dataclass(frozen=True)
class Family:
    """Networks that are built alike."""

    models: str
    """A pattern of torchvision's names."""
    classifier: str
    """The module that tells ImageNet's classes apart, which is left out."""
    cut: Cut
    """Takes it off, so that the network ends in pooled features."""
    begins: str
    """A pattern of parameter names; where what its group holds changes, a block begins."""
    last_joins: bool = False
    """The last of them, a lone convolution, belongs to the block before it."""

    def groups(self, module: nn.Module) -> dict[str, int]:
        """The number of its block for each parameter. They are listed in the order in which images pass them."""
        number, current = -1, None
        groups: dict[str, int] = {}
        for name, _ in module.named_parameters():
            found = re.match(self.begins, name)
            key = found[1] if found else current
            if number < 0 or key != current:
                number, current = number + 1, key
            groups[name] = number
        if self.last_joins:
            groups = {name: min(group, number - 1) for name, group in groups.items()}
        return groups


def _without(name: str) -> Cut:
    return lambda module: setattr(module, name, nn.Identity())


def _keep_first(n: int) -> Cut:
    """The first layers of a classifier that normalise the pooled features: they are pretrained for any images."""

    def cut(module: Any) -> None:
        module.classifier = module.classifier[:n]

    return cut


def _pooled(module: Any) -> None:
    """The average of each channel instead of VGG's two layers of 4,096 units.

    They are 119 of its 138 million parameters, made for telling ImageNet's classes apart, and see 7×7 places with their
    order. The method's definition extracts from the convolutional base, and the fine-tuned VGG-19 that was published
    for solar cells (Deitsch et al. 2019) puts global average pooling in their place.
    """
    module.avgpool = nn.AdaptiveAvgPool2d(1)
    module.classifier = nn.Identity()


class Vgg(Family):
    """A block is what lies between two poolings, as the paper has it."""

    def groups(self, module: nn.Module) -> dict[str, int]:
        layers = module.get_submodule("features").named_children()
        pools = [int(name) for name, layer in layers if isinstance(layer, nn.MaxPool2d)]
        return {name: sum(pool < int(name.split(".")[1]) for pool in pools) for name, _ in module.named_parameters()}


FAMILIES = (
    Vgg(r"vgg\d+(_bn)?", "classifier", _pooled, ""),
    Family(r"(resnet|resnext|wide_resnet)\w+", "fc", _without("fc"), r"(layer\d)\."),
    Family(r"densenet\d+", "classifier", _without("classifier"), r"features\.(denseblock\d)\."),
    Family(r"regnet_\w+", "fc", _without("fc"), r"(trunk_output\.block\d)\."),
    Family(r"shufflenet_\w+", "fc", _without("fc"), r"(stage\d)\."),
    Family(r"mobilenet_\w+", "classifier", _without("classifier"), r"features\.(\d+)\.", last_joins=True),
    Family(r"efficientnet_\w+", "classifier", _without("classifier"), r"features\.(\d+)\.", last_joins=True),
    Family(r"convnext_\w+", "classifier", _keep_first(2), r"features\.([01357])\."),
    Family(r"swin_\w+", "head", _without("head"), r"features\.([01357])\."),
    Family(r"maxvit_\w+", "classifier", _keep_first(3), r"(blocks\.\d)\."),
    Family(r"vit_\w+", "heads", _without("heads"), r"encoder\.layers\.(encoder_layer_\d+)\."),
)


def family_of(model: str, families: Iterable[Family] = FAMILIES) -> Family | None:
    return next((family for family in families if re.fullmatch(family.models, model)), None)


def known_models() -> list[str]:
    """torchvision's names of the networks that belong to a family."""
    return [name for name in models.list_models(module=models) if family_of(name)]
