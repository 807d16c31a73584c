"""The backbone contract: a pretrained network, how to build it, its preprocessing and its blocks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from autotl.errors import AutotlError

if TYPE_CHECKING:  # specs are light: registering a backbone imports no torch
    import numpy as np
    from torch import nn

__all__ = ["INTERPOLATIONS", "MAX_SIZE", "Backbone", "Block", "Preprocessing", "SourceHead"]

INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
MAX_SIZE = 2048
"""Pixels. No pretrained network takes larger images: timm's largest take 1024."""


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a backbone: as they were in its pretraining.

    The shorter side is resized to `size / crop` pixels (both sides with `squash`), the centre of `size` by `size`
    pixels is cut out, and x/255 is normalised by `mean` and `std` of the three RGB channels.
    """

    size: int
    crop: float
    interpolation: str  # "bicubic", "bilinear", "nearest" or "lanczos"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: bool = False
    """Resize without keeping the aspect ratio, so that nothing is cut off the longer side."""

    def check(self) -> None:
        """Raise ValueError where a value is none that a network has: what a stranger's file states is checked before an
        image is resized to it."""
        problems = (
            ("size", 1 <= self.size <= MAX_SIZE),
            ("crop", 0.1 <= self.crop <= 10),
            ("interpolation", self.interpolation in INTERPOLATIONS),
            ("mean", len(self.mean) == 3 and all(abs(value) <= 1000 for value in self.mean)),
            ("std", len(self.std) == 3 and all(1e-3 <= value <= 1000 for value in self.std)),
        )
        for name, is_valid in problems:
            if not is_valid:  # NaN is not, either
                raise ValueError(f"{name} = {getattr(self, name)!r} is no preprocessing of a network")


@dataclass(frozen=True)
class Block:
    """The unit that "unfrozen layers" counts: a stage or residual block.

    Together, the blocks of a backbone hold every parameter of the network exactly once.
    """

    name: str
    modules: tuple[str, ...]
    """Names of modules of which every parameter belongs to this block."""
    parameters: tuple[str, ...] = ()
    """Names of parameters in none of these modules: a class token, position embeddings."""


@dataclass(frozen=True, eq=False)
class SourceHead:
    """The classifier that a network was pretrained with: its answer to the network's output [n, num_features] is
    `output @ weight.T + bias`."""

    weight: "np.ndarray"
    """float32 [num_source_classes, num_features]."""
    bias: "np.ndarray"
    """float32 [num_source_classes]."""
    names: tuple[str, ...]
    """Of the source classes."""


class Backbone(ABC):
    """A pretrained network. Creating the object must be cheap: build no network, read no file, import no torch."""

    name: str
    pretrained_on: str = "unknown"
    license: str = "unknown"
    """Of the weights."""
    num_params: int | None = None
    """The number of the network's parameters, where it is known without building; see `count_params`."""
    folder: Path | None = None
    """The folder that the name gives, as in `local-dir:FOLDER`; None for any other name."""
    folder_prefix: ClassVar[str] = ""
    """`folder_prefix + FOLDER` names a backbone of this family whose `config_files` lie in FOLDER."""
    size: int | None = None
    """`preprocessing.size`, where it is known without reading a file."""
    num_features: int | None = None
    """The number of features in the network's output, where it is known without building."""
    gmacs: float | None = None
    """Billions of multiply-adds for one image, where they are known; speeds are estimated from them."""
    megabytes: int | None = None
    """Size of the weights' download, where it is known."""
    top1: float | None = None
    """Accuracy on ImageNet-1k in percent, where it was published."""

    @property
    @abstractmethod
    def is_cached(self) -> bool:
        """Whether the weights are on this machine."""

    @property
    def download(self) -> str | None:
        """The source and the size of the download, as a text for the user; None where nothing is to be downloaded."""
        return None

    @property
    def location(self) -> str | None:
        """Where `autotl.backbones.weights.fetch` downloads the weights from: a repository on the Hugging Face hub, or a
        URL. A process that downloads them then needs no library but the hub's. None where `weights_file` or `digest`
        downloads them."""
        return None

    @property
    def note(self) -> str | None:
        """What a user should know before a search with this backbone, as a text after its name; None for nothing."""
        return None

    def weights_file(self) -> Path | None:
        """The file that `build` and `digest` read, downloaded if necessary; None where the weights aren't one file.

        Raises:
            AutotlError: the file is missing, or can't be downloaded.
        """
        return None

    def config_files(self) -> dict[str, Path]:
        """The files other than the weights that `build(pretrained=False)` reads, by name.

        A saved model holds copies of them, and is loaded as `folder_prefix + FOLDER` with the folder of the copies: it
        reads no other file, and needs no network. A backbone without such files is found by its name, which must be
        registered, or be one that `autotl_list_backbones` lists.
        """
        return {}

    @cached_property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """How images are prepared: always as in the backbone's pretraining."""

    @cached_property
    @abstractmethod
    def digest(self) -> str:
        """Hex digits that change when the architecture or the weights change. Part of the key of recorded features."""

    @abstractmethod
    def build(self, *, pretrained: bool = True) -> "nn.Module":
        """The network in eval mode: normalised float images [N, 3, size, size] to pooled features [N, num_features].

        Args:
            pretrained: load the weights. Without, they are arbitrary: for a caller that loads its own afterwards.

        Raises:
            AutotlError: the pretrained weights are missing, damaged, or can't be downloaded.
        """

    @abstractmethod
    def blocks(self, module: "nn.Module") -> list[Block]:
        """The blocks of a network that `build` returned, from input to output."""

    def source_head(self) -> SourceHead | None:
        """The classifier that the network was pretrained with; None where there is none, or where it isn't linear."""
        return None

    def count_params(self) -> int:
        """The number of parameters: `num_params` where it is stated, otherwise counted by building without weights.

        The network is built at most once, and torch is imported only where `num_params` isn't stated.

        Raises:
            AutotlError: the network can't be built.
        """
        return self._counted[0] if self.num_params is None else self.num_params

    def count_bytes(self) -> int:
        """The bytes of the network's weights as a model saves them. Builds it once, without weights.

        Raises:
            AutotlError: the network can't be built.
        """
        return self._counted[1]

    @cached_property
    def _counted(self) -> tuple[int, int]:
        """The number of parameters, and the bytes of parameters and buffers."""
        import torch

        with torch.random.fork_rng(devices=[]):  # random initialisation must not advance the caller's generator
            try:
                with torch.device("meta"):  # no storage and no initialisation: takes milliseconds
                    module = self.build(pretrained=False)
            except AutotlError:
                raise
            except Exception:  # some constructors read the values of tensors, which meta tensors don't have
                module = self._build_for_counting()
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
        return sum(parameter.numel() for parameter in module.parameters()), num_bytes

    def _build_for_counting(self) -> "nn.Module":
        try:
            return self.build(pretrained=False)
        except AutotlError:
            raise
        except Exception as error:  # a plugin's code may raise anything
            raise AutotlError(
                f"Backbone {self.name!r} can't be built: {type(error).__name__}: {error} It was built to count its "
                "parameters; set num_params in its plugin, or choose other backbones with --backbone."
            ) from error

    @cached_property
    def num_blocks(self) -> int:
        """The number of blocks that can be unfrozen. Builds the network, unless a subclass knows a cheaper way."""
        return len(self.blocks(self.build(pretrained=False)))
