"""The backbone contract: a pretrained network, how to build it, what it wants to see, and its blocks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # specs are light: registering a backbone imports no torch
    from torch import nn

__all__ = ["LEVELS", "Backbone", "Block", "Layout", "Preprocessing"]

LEVELS = ("last", "stages", "inner+max", "stages+max")
"""Which recorded columns a head sees: the network's own output; the average of each earlier stage as well; averages and
maxima of the earlier stages alone, which tell images far from the pretraining ones apart best; everything."""


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone was trained to see. Images become RGB squares of `size` pixels.

    The shorter side is resized to `size / crop` (with `squash` both sides are), the centre is cut out, and x/255 is
    normalised by `mean` and `std`.
    """

    size: int
    crop: float
    interpolation: str  # "bicubic", "bilinear", "nearest" or "lanczos"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    squash: bool = False
    """Nothing is cut off at the longer side; the aspect ratio isn't kept."""


@dataclass(frozen=True)
class Block:
    """The unit that "unfrozen layers" counts: a stage or residual block.

    `modules` are the names of modules that belong to this block whole; `parameters` the names of parameters that
    stand alone (a class token, position embeddings). Together the blocks of a backbone hold every parameter once.
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()


class Backbone(ABC):
    """A pretrained network. Making one must be cheap: no network is built, no file read, torch not imported."""

    name: str
    pretrained_on: str = "unknown"
    license: str = "unknown"
    num_params: int | None = None
    """How many, where known without building."""
    folder: Path | None = None
    """Of a `local-dir:`: where its `config.json` lies, which goes into a saved model."""
    size: int | None = None
    """The side of the images that it sees, where known without reading anything; `preprocessing` says it anyway."""
    num_features: int | None = None
    """How wide its output is, where known without building."""

    @property
    @abstractmethod
    def is_cached(self) -> bool:
        """True where the weights are on this machine already."""

    @property
    def download(self) -> str | None:
        """Where the weights would come from and how large they are, in words; None where nothing is to be fetched."""
        return None

    def weights_file(self) -> Path | None:
        """The file that `build` and `digest` read the weights from, fetched where it has to be and may be.

        None where they aren't one file. Raises AutotlError where the file can't be had.
        """
        return None

    @cached_property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """The backbone's own, always."""

    @cached_property
    @abstractmethod
    def digest(self) -> str:
        """Hex digits that change when the architecture or the weights do."""

    @abstractmethod
    def build(self, pretrained: bool = True) -> "nn.Module":
        """The network in eval mode: float images [N, 3, size, size] to pooled features [N, num_features].

        Without `pretrained` the weights are arbitrary: for a caller that loads its own right after.
        Raises AutotlError where pretrained weights can't be had.
        """

    @abstractmethod
    def blocks(self, module: "nn.Module") -> list[Block]:
        """The blocks of what `build` returned, from input to output."""

    @cached_property
    def num_blocks(self) -> int:
        """How many blocks there are to unfreeze. Builds the network where a subclass doesn't know better."""
        return len(self.blocks(self.build(pretrained=False)))


@dataclass(frozen=True)
class Layout:
    """Which columns of a recorded row belong to which levels: the network's output first, then the earlier stages'
    averages, their maxima, and the last stage's. The order is part of the store's `FORMAT`."""

    output: int
    averages: int
    """And as many maxima of the earlier stages."""
    last: int
    """Maxima of the last stage."""

    @property
    def width(self) -> int:
        return self.output + 2 * self.averages + self.last

    def columns(self, levels: str) -> slice:
        earlier = slice(self.output, self.output + 2 * self.averages)
        return {
            "last": slice(0, self.output),
            "stages": slice(0, self.output + self.averages),
            "inner+max": earlier if self.averages else slice(0, self.output),  # of one stage there is but the output
            "stages+max": slice(0, self.width),
        }[levels]
