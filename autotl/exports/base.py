"""The exporter contract: writes a model in a format that other programs run, and runs what it wrote."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from autotl.backbones.base import Backbone

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ExportedFamiliar", "ExportedMember", "ExportedModel", "ExportedNetwork", "Exporter", "Runtime"]

Runtime: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB images of any one size [N, height, width, 3] to probabilities, float [N, num_classes]."""


@dataclass(frozen=True)
class ExportedMember:
    """A fitted head of the model, and which features it sees."""

    head: Any
    """A trained torch module, or a fitted scikit-learn classifier."""
    parts: tuple[tuple[int, slice], ...]
    """The features that the head sees side by side: the number of a network among the model's, and the positions in its
    output. The network of all parts is the same, unless the head joins the features of several."""
    transposes: tuple[Image.Transpose | None, ...]
    """The views of an image over which the head's logits are averaged; None is the image as it is."""
    temperature: float
    """Probabilities are softmax(logits / temperature)."""
    weight: float
    description: str
    """The recipe in one line."""

    @property
    def networks(self) -> tuple[int, ...]:
        """The number of each network whose features the head sees."""
        return tuple(dict.fromkeys(number for number, _ in self.parts))


@dataclass(frozen=True)
class ExportedNetwork:
    """A network whose features members see."""

    backbone: Backbone
    """Where the network is from, and how images are prepared for it."""
    module: "nn.Module"
    """The network with the weights that it was fitted with, as `Backbone.build` returns it, in eval mode."""
    features: "nn.Module"
    """Normalised float images [N, 3, size, size] to all feature levels [N, width]; shares its weights with `module`."""
    is_tuned: bool
    """Whether some of its blocks were fine-tuned."""


@dataclass(frozen=True, eq=False)
class ExportedFamiliar:
    """Training images that others are compared with, to tell unknown ones: see `autotl.model.doubt.Familiar`."""

    network: int
    """The number of the network among the model's; its first features are compared."""
    samples: np.ndarray
    """float [m, num_features], of unit length."""
    distances: np.ndarray
    """float [units], ascending."""
    neighbours: int
    """An image is as far as the sample of this number, from the nearest one."""


@dataclass(frozen=True)
class ExportedModel:
    """What an exporter gets: the parts of a model. `autotl.exports.graph.model_graph` makes one module of them."""

    name: str
    """Of its study, or its folder."""
    classes: tuple[str, ...]
    networks: tuple[ExportedNetwork, ...]
    members: tuple[ExportedMember, ...]
    size_hint: int
    """Pixels that are needed along the shorter side of an image: a JPEG may be decoded at a reduced size that keeps as
    many (`PIL.Image.Image.draft`)."""
    familiar: ExportedFamiliar | None = None
    """None where the model can't tell unknown images."""
    thresholds: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    """For `doubt.json`: see `autotl.model.doubt.Doubt.thresholds`."""


class Exporter(ABC):
    """A format that models are exported to. Creating the object must be cheap: import its library in the methods."""

    name: str
    """What `autotl export --to` takes."""
    requires: str = ""
    """What `pip install` needs to run the example; Pillow and NumPy are added."""
    tolerance: float = 1e-3
    """How far a probability may be from that of `ImageModel.predict_proba` in fp32."""
    precisions: tuple[str, ...] = ("fp32",)
    """Of "fp32", "fp16" and "int8": those that `export` (fp32) and `compress` (the others) write."""

    @abstractmethod
    def export(self, model: ExportedModel, folder: Path) -> None:
        """Write the model's files into a folder that exists. autotl adds labels.txt, example.py and README.md.

        Raises:
            AutotlError: the format can't hold the model, or a library is missing; the message says what to type.
        """

    @abstractmethod
    def load(self, folder: Path) -> Runtime | None:
        """What the folder's files compute, in the library that they are for. None where they are not a whole model: no
        probabilities can be compared then."""

    def load_likeness(self, folder: Path) -> Runtime | None:
        """What the files compute of how usual images are, [N], as `autotl.model.doubt.Familiar.likeness`. None without
        such an output, which is optional: see `autotl.exports.graph.model_graph`."""
        return None

    def compress(self, exact: Path, folder: Path, precision: str, images: Sequence[np.ndarray]) -> None:
        """Write the model again with smaller numbers, where `precisions` has more than "fp32". Only the networks need
        them: resizing and heads are small, and lose more than they win.

        Args:
            exact: the folder that `export` wrote, which stays as it is.
            folder: an empty folder for the files of the same names.
            precision: "fp16" (weights in fp16, computed in fp32) or "int8" (weights and activations in 8 bits).
            images: training images to find the ranges of activations with, each uint8 [height, width, 3].

        Raises:
            AutotlError: a library is missing; the message says what to type.
        """
        raise NotImplementedError(f"{self.name} states precisions, and has no compress()")

    @abstractmethod
    def example(self, model: ExportedModel, folder: Path) -> str:
        """The source of a Python script that runs without autotl: it classifies the images that are its arguments, and
        prints for each `path label probability`. See `autotl.exports.examples`."""
