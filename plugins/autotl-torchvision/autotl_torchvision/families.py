"""torchvision's families of networks: where the classifier is, and where each block begins."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision import models

__all__ = ["FAMILIES", "Family", "family_of", "known_models"]

RemoveClassifier = Callable[[Any], None]
"""Changes a network in place so that it ends in pooled features."""


@dataclass(frozen=True)
class Family:
    """Networks with the same structure."""

    models: str
    """A regular expression of torchvision's names."""
    classifier: str
    """The module that classifies ImageNet's classes."""
    remove_classifier: RemoveClassifier
    block_pattern: str
    """A regular expression of parameter names with one group. A block begins where the group's text changes."""
    merge_last: bool = False
    """Merge the last block, a single convolution, into the block before it."""

    def groups(self, module: nn.Module) -> dict[str, int]:
        """The block number of each parameter. torchvision lists parameters from input to output."""
        number, current = -1, None
        groups: dict[str, int] = {}
        for name, _ in module.named_parameters():
            match = re.match(self.block_pattern, name)
            key = match[1] if match else current
            if number < 0 or key != current:
                number, current = number + 1, key
            groups[name] = number
        if self.merge_last:
            groups = {name: min(group, number - 1) for name, group in groups.items()}
        return groups


def _replace_by_identity(name: str) -> RemoveClassifier:
    return lambda module: setattr(module, name, nn.Identity())


def _keep_first(n: int) -> RemoveClassifier:
    """Keep the first `n` layers of the classifier, which normalise the pooled features and don't depend on classes."""

    def remove_classifier(module: Any) -> None:
        module.classifier = module.classifier[:n]

    return remove_classifier


def _pool_globally(module: Any) -> None:
    """Global average pooling in place of VGG's two layers of 4,096 units.

    Those layers have 119 of its 138 million parameters, are specific to ImageNet's classes, and need the 7×7 positions
    of images of 224 px. Transfer learning extracts features from the convolutional base, and the fine-tuned VGG-19 that
    was published for solar cells (Deitsch et al. 2019) has global average pooling, too.
    """
    module.avgpool = nn.AdaptiveAvgPool2d(1)
    module.classifier = nn.Identity()


class Vgg(Family):
    """A block is the layers between two poolings, as in the paper."""

    def groups(self, module: nn.Module) -> dict[str, int]:
        layers = module.get_submodule("features").named_children()
        pools = [int(name) for name, layer in layers if isinstance(layer, nn.MaxPool2d)]
        return {name: sum(pool < int(name.split(".")[1]) for pool in pools) for name, _ in module.named_parameters()}


FAMILIES = (
    Vgg(r"vgg\d+(_bn)?", "classifier", _pool_globally, ""),
    Family(r"(resnet|resnext|wide_resnet)\w+", "fc", _replace_by_identity("fc"), r"(layer\d)\."),
    Family(r"densenet\d+", "classifier", _replace_by_identity("classifier"), r"features\.(denseblock\d)\."),
    Family(r"regnet_\w+", "fc", _replace_by_identity("fc"), r"(trunk_output\.block\d)\."),
    Family(r"shufflenet_\w+", "fc", _replace_by_identity("fc"), r"(stage\d)\."),
    Family(r"mobilenet_\w+", "classifier", _replace_by_identity("classifier"), r"features\.(\d+)\.", merge_last=True),
    Family(
        r"efficientnet_\w+", "classifier", _replace_by_identity("classifier"), r"features\.(\d+)\.", merge_last=True
    ),
    Family(r"convnext_\w+", "classifier", _keep_first(2), r"features\.([01357])\."),
    Family(r"swin_\w+", "head", _replace_by_identity("head"), r"features\.([01357])\."),
    Family(r"maxvit_\w+", "classifier", _keep_first(3), r"(blocks\.\d)\."),
    Family(r"vit_\w+", "heads", _replace_by_identity("heads"), r"encoder\.layers\.(encoder_layer_\d+)\."),
)


def family_of(model: str, families: Iterable[Family] = FAMILIES) -> Family | None:
    return next((family for family in families if re.fullmatch(family.models, model)), None)


def known_models() -> list[str]:
    """torchvision's names of the networks that belong to one of `FAMILIES`."""
    return [name for name in models.list_models(module=models) if family_of(name)]
