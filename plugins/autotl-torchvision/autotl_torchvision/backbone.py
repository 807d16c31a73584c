"""A torchvision network as a backbone: weights downloaded from torchvision, where that is allowed, or from a file."""

import hashlib
import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.backbones.blocks import blocks_from_groups
from autotl.backbones.weights import cached, fetch, file_digest, read_tensors
from autotl.errors import AutotlError, nearest
from autotl.folders import expand_home

if TYPE_CHECKING:
    from torch import Tensor, nn

    from autotl_torchvision.families import Family

__all__ = ["PREFIX", "TorchvisionBackbone"]

PREFIX = "torchvision:"
"""Distinguishes these backbones from timm's networks of the same names, which have other weights and features."""
DEFAULT_MEMBER = "IMAGENET1K_V1"
"""The weights by default: the original training recipe, even where there is a newer one. Label smoothing and similar
additions gain on ImageNet and lose as frozen features (Kornblith et al., NeurIPS 2021)."""
OLD_DENSENET = re.compile(r"(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)")
"""Parameter names in DenseNet checkpoints from before PyTorch forbade dots in module names."""


class TorchvisionBackbone(Backbone):
    """A network by torchvision's name, ending in pooled features, with the preprocessing of its weights.

    Args:
        name: as users type it: `torchvision:vgg16`, `torchvision:resnet50.IMAGENET1K_V2` with a member of the weights'
            enum, `torchvision:vgg16@weights.pth` with a file.
        num_params: without the classifier; counted by default.
        num_features: of the output, where known.
        url: of the weights; looked up in torchvision by default.
        megabytes: size of the download; looked up in torchvision by default.
        size: side of the images in pixels; that of the weights by default. Where it is stated, the backbone is listed
            without importing torchvision.
    """

    def __init__(
        self,
        name: str,
        *,
        num_params: int | None = None,
        num_features: int | None = None,
        url: str | None = None,
        megabytes: int | None = None,
        size: int | None = None,
    ):
        self.name, self.num_params, self.num_features = name, num_params, num_features
        self.megabytes, self.size = megabytes, size
        self._known_url = url
        network, at, path = name.removeprefix(PREFIX).partition("@")
        self.model, _, member = network.partition(".")
        self.member = member or DEFAULT_MEMBER
        self.file = expand_home(path).absolute() if at and path else None
        is_swag = "SWAG" in self.member  # trained on Instagram images first
        self.pretrained_on = "unknown" if self.file else "Instagram, then ImageNet-1k" if is_swag else "ImageNet-1k"
        self.license = "unknown" if self.file else "CC-BY-NC-4.0" if is_swag else "BSD-3-Clause"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def check_name(self) -> None:
        """Check the name without reading or building anything.

        Raises:
            AutotlError: torchvision has no such network or weights, or no file follows the '@'.
        """
        _ = self._family, self._weights
        if self.name.endswith("@"):
            raise AutotlError(f"{self.name!r} names no file. Type {PREFIX}{self.model}@path/to/weights.pth")

    @property
    def is_cached(self) -> bool:
        return self.file.is_file() if self.file else cached(self._url) is not None

    @property
    def download(self) -> str | None:
        if self.file or self.is_cached:
            return None
        megabytes = self.megabytes or round(self._weights.meta["_file_size"])
        return f"{self._url}, about {megabytes} MB"

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """That of the weights. With a user's own file, that of the default weights unless a member is named."""
        transforms = self._weights.transforms()
        return Preprocessing(
            self.size or transforms.crop_size[0],
            transforms.crop_size[0] / transforms.resize_size[0],
            transforms.interpolation.value,
            tuple(map(float, transforms.mean)),  # type: ignore[arg-type]  # three floats each
            tuple(map(float, transforms.std)),  # type: ignore[arg-type]
        )

    def weights_file(self) -> Path:
        if self.file is None:
            return fetch(self._url)
        if not self.file.is_file():
            raise AutotlError(f"There is no weights file {str(self.file)!r} for {self.name}. Check the path after '@'.")
        return self.file

    @cached_property
    def digest(self) -> str:
        content = json.dumps(["torchvision", self.model, self.preprocessing.size, file_digest(self.weights_file())])
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def build(self, *, pretrained: bool = True) -> "nn.Module":
        import torch

        tensors = self._tensors() if pretrained else None
        with torch.random.fork_rng(devices=[]):  # random initialisation must not advance the caller's generator
            module = self._network()
        if tensors is not None:
            self._fill(module, tensors)
        return module.eval()

    def at_size(self, size: int) -> "TorchvisionBackbone | None":
        return None if self.model.startswith("vit_") else self._copy_at_size(size)  # one embedding for each position

    def blocks(self, module: "nn.Module") -> list[Block]:
        return blocks_from_groups(module, self._family.groups(module))

    @cached_property
    def num_blocks(self) -> int:
        import torch

        with torch.device(
            "cpu" if self.model.startswith("regnet_") else "meta"
        ):  # RegNet constructors read the values of tensors
            return len(self.blocks(self._network()))

    def _network(self) -> Any:
        """The network without its classifier, with arbitrary weights."""
        from torchvision.models import get_model

        sized = {"image_size": self.preprocessing.size} if self.model.startswith("vit_") else {}
        module: Any = get_model(self.model, weights=None, **sized)
        self._family.remove_classifier(module)
        if self.model.startswith("swin_"):
            module.output_fmt = "NHWC"  # the format between its blocks: levels pool over positions
        return module

    def _tensors(self) -> "dict[str, Tensor]":
        tensors = read_tensors(self.weights_file())
        if self.model.startswith("densenet"):
            tensors = {OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in tensors.items()}
        return tensors

    def _fill(self, module: "nn.Module", tensors: "dict[str, Tensor]") -> None:
        """Load the tensors strictly, except for a classifier, which may have any number of classes or be missing."""
        expected = module.state_dict().keys()
        ignored = f"{self._family.classifier}."
        try:
            module.load_state_dict(
                {name: tensor for name, tensor in tensors.items() if name in expected or not name.startswith(ignored)}
            )
        except RuntimeError as error:
            raise AutotlError(
                f"The weights in {str(self.weights_file())!r} don't fit torchvision's {self.model}: "
                f"{' '.join(str(error).split())[:400]} Give a file that was saved from that architecture."
            ) from error

    @cached_property
    def _family(self) -> "Family":
        from autotl_torchvision.families import family_of, known_models

        known = known_models()
        family = family_of(self.model) if self.model in known else None
        if family is None:
            raise AutotlError(
                f"autotl-torchvision has no network {self.model!r}.{nearest(self.model, known)} It has: "
                f"{', '.join(known)}."
            )
        return family

    @cached_property
    def _weights(self) -> Any:
        """The member of torchvision's enum of the network's weights.

        Raises:
            AutotlError: there is no such network, or no such member.
        """
        from torchvision.models import get_model_weights

        known = {member.name: member for member in get_model_weights(self.model)}
        member = known.get(self.member)
        if member is None and self.member == DEFAULT_MEMBER:  # the name gives no member
            member = next(iter(known.values()), None)
        if member is None:
            raise AutotlError(
                f"torchvision's {self.model} has no weights {self.member!r}.{nearest(self.member, known)} "
                f"It has: {', '.join(known)}."
            )
        return member

    @property
    def _url(self) -> str:
        return self._known_url or self._weights.url
