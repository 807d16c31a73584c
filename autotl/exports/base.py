"""The exporter contract: writes a model in a format that other programs run, and runs what it wrote."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from autotl.backbones.base import Backbone

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ExportedMember", "ExportedModel", "ExportedNetwork", "Exporter", "Runtime"]

Runtime: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB images of any one size [N, height, width, 3] to probabilities, float [N, num_classes]."""


@dataclass(frozen=True)
class ExportedMember:
    """A fitted head of the model, and which features it sees."""

    head: Any
    """A trained torch module, or a fitted scikit-learn classifier."""
    parts: tuple[slice, ...]
    """Positions of the features that the head sees, in a network's output; the head gets them side by side."""
    transposes: tuple[Image.Transpose | None, ...]
    """The views of an image over which the head's logits are averaged; None is the image as it is."""
    temperature: float
    """Probabilities are softmax(logits / temperature)."""
    weight: float
    description: str
    """The recipe in one line."""


@dataclass(frozen=True)
class ExportedNetwork:
    """A network with the members that see its features."""

    backbone: Backbone
    """Where the network is from, and how images are prepared for it."""
    module: "nn.Module"
    """The network with the weights that it was fitted with, as `Backbone.build` returns it, in eval mode."""
    features: "nn.Module"
    """Normalised float images [N, 3, size, size] to all feature levels [N, width]; shares its weights with `module`."""
    is_tuned: bool
    """Whether some of its blocks were fine-tuned."""
    members: tuple[ExportedMember, ...]


@dataclass(frozen=True)
class ExportedModel:
    """What an exporter gets: the parts of a model. `autotl.exports.graph.model_graph` makes one module of them."""

    name: str
    """Of its study, or its folder."""
    classes: tuple[str, ...]
    networks: tuple[ExportedNetwork, ...]
    size_hint: int
    """Pixels that are needed along the shorter side of an image: a JPEG may be decoded at a reduced size that keeps as
    many (`PIL.Image.Image.draft`)."""


class Exporter(ABC):
    """A format that models are exported to. Creating the object must be cheap: import its library in the methods."""

    name: str
    """What `autotl export --to` takes."""
    requires: str = ""
    """What `pip install` needs to run the example; Pillow and NumPy are added."""
    tolerance: float = 1e-3
    """How far a probability may be from that of `ImageModel.predict_proba` in fp32."""

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

    @abstractmethod
    def example(self, model: ExportedModel, folder: Path) -> str:
        """The source of a Python script that runs without autotl: it classifies the images that are its arguments, and
        prints for each `path label probability`. See `autotl.exports.examples`."""
