"""The classifier that a timm network was pretrained with."""

from typing import TYPE_CHECKING

from autotl.backbones.base import SourceHead

if TYPE_CHECKING:
    from torch import nn

__all__ = ["linear_head"]

IMAGENET = 1000


def linear_head(module: "nn.Module") -> SourceHead | None:
    """The classifier of a whole timm network; None where it has none, or where it isn't one linear layer."""
    from torch import nn

    classifier = module.get_classifier() if hasattr(module, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear) or classifier.out_features < 2:
        return None
    weight = classifier.weight.detach().float().numpy()
    bias = classifier.bias.detach().float().numpy() if classifier.bias is not None else weight[:, 0] * 0
    return SourceHead(weight.copy(), bias.copy(), _names(classifier.out_features))


def _names(number: int) -> tuple[str, ...]:
    """The names of ImageNet-1k's classes, without synonyms; numbers where there are others."""
    if number != IMAGENET:
        return tuple(f"class {i}" for i in range(number))
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return tuple(info.index_to_description(i).split(",")[0] for i in range(number))
