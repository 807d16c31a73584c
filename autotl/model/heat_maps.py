"""Heat maps: which places of an image speak for a class, for every head and any mix of members."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from autotl.backbones.base import Backbone, Preprocessing
from autotl.backbones.levels import Layout, Levels
from autotl.data.preprocessing import crop_of, preprocess, resized_sides, within_aspect_ratio
from autotl.data.sandbox import SandboxedDecoder
from autotl.errors import find_named
from autotl.heads.evidence import falls, log_odds
from autotl.model.member import Member
from autotl.model.network import feature_network
from autotl.model.opening import open_picture

if TYPE_CHECKING:
    from torch import nn

    from autotl.model.hiding import HidingNetwork

__all__ = ["MAX_SIDE", "ExplainedNetwork", "Explainer", "HeatMap", "heat_map"]

MAX_SIDE = 448
"""Pixels along the longer side of a heat map."""


@dataclass(frozen=True)
class HeatMap:
    """Which places of an image speak for a class."""

    label: str
    """The class that is explained: the predicted one unless another was asked for."""
    probability: float
    """The model's probability of `label`."""
    values: np.ndarray
    """float32 [height, width]: how much the logarithm of the odds of `label` falls when a window around the pixel is
    hidden. Positive where the image speaks for the class, negative where it speaks against it, 0 where the networks'
    crop leaves the image out."""
    image: Image.Image
    """What was explained, upright, RGB, of the size of `values`: at most MAX_SIDE pixels along its longer side."""

    def overlay(self) -> Image.Image:
        """The image in dimmed grey, coloured where it speaks for the class: the stronger, the brighter."""
        strength = np.maximum(self.values, 0)
        strength = strength / max(float(strength.max()), 1e-12)
        grey = np.asarray(self.image.convert("L"), np.float32)[:, :, None] * 0.75 + 32
        opacity = 0.75 * np.sqrt(strength)[:, :, None]
        mixed = (1 - opacity) * grey + opacity * _colours(strength)
        return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))

    def save(self, file: Path) -> None:
        """Write the image and, beside it, the overlay, as one picture in the format that the file's name ends in."""
        width, height = self.image.size
        both = Image.new("RGB", (2 * width + 4, height), "white")
        both.paste(self.image, (0, 0))
        both.paste(self.overlay(), (width + 4, 0))
        both.save(file)


COLOURS = np.array([(40, 30, 130), (140, 30, 130), (220, 60, 80), (250, 140, 40), (255, 235, 100)], np.float32)
"""From weak to strong: lighter with each step, so that they read without colours, too."""


def _colours(strength: np.ndarray) -> np.ndarray:
    """[height, width, 3] for values from 0 to 1."""
    places = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(strength, places, COLOURS[:, channel]) for channel in range(3)], axis=2)


@dataclass
class ExplainedNetwork:
    """A network, and the members that use its features."""

    hiding: "HidingNetwork"
    preprocessing: Preprocessing
    layout: Layout
    members: list[Member]
    feature_levels: Mapping[str, Levels]
    """By name."""

    @classmethod
    def of(
        cls,
        module: "nn.Module",
        backbone: Backbone,
        members: list[Member],
        feature_levels: Mapping[str, Levels],
        device: str,
    ) -> "ExplainedNetwork":
        """The network `module`, in eval mode on the CPU, of members that share it."""
        from autotl.model.hiding import HidingNetwork

        layout = feature_network(module, backbone)[1]
        hiding = HidingNetwork(module, backbone, device)
        return cls(hiding, backbone.preprocessing, layout, members, feature_levels)

    def evidence(self, pixels: np.ndarray, label: int) -> np.ndarray:
        """How much the log odds of a class fall when a window is hidden: float64 [cells, cells], the mean over the
        windows that hide a cell, summed over the members, each times its weight.

        Views of test-time augmentation are left out: every member answers to the image itself.

        Args:
            pixels: uint8 [size, size, 3].
            label: the class.
        """
        from autotl.model.hiding import windows

        recorded = self.hiding.features(pixels)
        total = np.zeros(len(recorded) - 1)
        for member in self.members:
            slices = self.layout.slices(find_named("levels", member.fitted.levels, self.feature_levels))
            features = np.concatenate([recorded[:, part] for part in slices], axis=1)
            score = partial(_log_odds_of, member, label)
            total += member.weight * falls(score, features)
        hidden = windows()
        return np.asarray(np.tensordot(total, hidden, 1) / hidden.sum(0))


class Explainer:
    """Explains a model's answers. Its networks are built once.

    Args:
        groups: the members that share a network, by network.
        module_of: builds a member's network, in eval mode on the CPU.
        backbones: by digest.
        feature_levels: by name.
        device: a torch device.
        decoder: of files of untrusted formats.
    """

    def __init__(
        self,
        groups: Mapping[str, list[Member]],
        module_of: "Callable[[Member], nn.Module]",
        backbones: Mapping[str, Backbone],
        feature_levels: Mapping[str, Levels],
        device: str,
        decoder: SandboxedDecoder,
    ):
        self.decoder = decoder
        self.networks = [
            ExplainedNetwork.of(
                module_of(members[0]), backbones[members[0].backbone_digest], members, feature_levels, device
            )
            for members in groups.values()
        ]

    def explain(
        self, images: Sequence[Any], probabilities: np.ndarray, classes: Sequence[str], label: str | None
    ) -> list[HeatMap]:
        """A heat map of each image.

        Args:
            images: as `autotl.data.inputs.as_images` lists them.
            probabilities: the model's, [n, num_classes].
            label: the class to explain; None for each image's predicted one.
        """
        sides = [int(n.preprocessing.size / n.preprocessing.crop) for n in self.networks]
        maps = []
        for item, row in zip(enumerate(images), probabilities, strict=True):
            number = int(row.argmax()) if label is None else classes.index(label)
            picture = open_picture(item, max(MAX_SIDE, 2 * max(sides)), self.decoder)
            maps.append(heat_map(picture, self.networks, number, classes[number], float(row[number])))
        return maps


def _log_odds_of(member: Member, label: int, features: np.ndarray) -> np.ndarray:
    return log_odds(member.fitted.head, features, member.num_classes, member.fitted.temperature, label)


def heat_map(
    picture: Image.Image, networks: Iterable[ExplainedNetwork], label: int, name: str, probability: float
) -> HeatMap:
    """The heat map of one image.

    Args:
        picture: mode RGB, of any size.
        label: number of the class; `name` is its name, and `probability` the model's.
    """
    rows, columns = within_aspect_ratio(picture.height, picture.width)
    shrink = min(1.0, MAX_SIDE / max(picture.size))
    size = max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))
    values = np.zeros(size[::-1])
    total = 0.0
    for network in networks:
        cells = network.evidence(preprocess(picture, network.preprocessing), label)
        whole = network.preprocessing.squash
        seen = (slice(0, picture.height), slice(0, picture.width)) if whole else (rows, columns)
        left, top, right, bottom = _crop_in(seen, network.preprocessing, shrink)
        resized = Image.fromarray(cells.astype(np.float32)).resize(
            (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
        )
        placed = Image.new("F", size)
        placed.paste(resized, (left, top))
        values += np.asarray(placed)
        total += sum(member.weight for member in network.members)
    image = picture.resize(size, Image.Resampling.LANCZOS)
    return HeatMap(name, probability, (values / total).astype(np.float32), image)


def _crop_in(seen: tuple[slice, slice], preprocessing: Preprocessing, shrink: float) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the pixels that a network gets, in the picture that is `shrink` times as large.

    Args:
        seen: the rows and columns of the picture that are resized.
    """
    sides = seen[0].stop - seen[0].start, seen[1].stop - seen[1].start
    resized = resized_sides(*sides, preprocessing)
    top, left, border = crop_of(resized, preprocessing.size)
    edges = []
    for first, part, side, full in zip((top, left), seen, sides, resized, strict=True):
        scale = side / full
        edges.append(
            [round((part.start + (first - border + step) * scale) * shrink) for step in (0, preprocessing.size)]
        )
    (top, bottom), (left, right) = edges
    return left, top, right, bottom
