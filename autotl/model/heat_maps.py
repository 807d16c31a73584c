"""Heat maps: which places of an image speak for a class, for every head and any mix of members."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from autotl.atomic_io import write_atomically
from autotl.backbones.base import Backbone, Preprocessing
from autotl.backbones.levels import Layout, Levels
from autotl.data.preprocessing import crop_of, preprocess, resized_sides, within_aspect_ratio
from autotl.data.sandbox import SandboxedDecoder
from autotl.errors import AutotlError, find_named
from autotl.heads.evidence import falls, log_odds
from autotl.model.member import Member, MemberNetwork, networks_of
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
        """Write the image and, beside it, the overlay, as one picture in the format that the file's name ends in.

        Raises:
            AutotlError: no format has such a name.
            DiskFull: no room; an existing file stays as it is.
        """
        picture_format = Image.registered_extensions().get(Path(file).suffix.lower())
        if picture_format not in Image.SAVE:
            raise AutotlError(f"{file} has no name of a picture. End it in .png")
        width, height = self.image.size
        both = Image.new("RGB", (2 * width + 4, height), "white")
        both.paste(self.image, (0, 0))
        both.paste(self.overlay(), (width + 4, 0))
        write_atomically(file, lambda out: both.save(out, picture_format))


COLOURS = np.array([(40, 30, 130), (140, 30, 130), (220, 60, 80), (250, 140, 40), (255, 235, 100)], np.float32)
"""From weak to strong: lighter with each step, so that they read without colours, too."""


def _colours(strength: np.ndarray) -> np.ndarray:
    """[height, width, 3] for values from 0 to 1."""
    places = np.linspace(0, 1, len(COLOURS))
    return np.stack([np.interp(strength, places, COLOURS[:, channel]) for channel in range(3)], axis=2)


@dataclass
class ExplainedNetwork:
    """A network whose images get hidden windows."""

    hiding: "HidingNetwork"
    preprocessing: Preprocessing
    layout: Layout

    @classmethod
    def of(cls, module: "nn.Module", backbone: Backbone, device: str) -> "ExplainedNetwork":
        """The network `module`, in eval mode on the CPU."""
        from autotl.model.hiding import HidingNetwork

        layout = feature_network(module, backbone)[1]
        return cls(HidingNetwork(module, backbone, device), backbone.preprocessing, layout)


class Explainer:
    """Explains a model's answers. Its networks are built once.

    Args:
        members: the model's.
        module_of: builds a network of theirs, in eval mode on the CPU.
        backbones: by digest.
        feature_levels: by name.
        device: a torch device.
        decoder: of files of untrusted formats.
    """

    def __init__(
        self,
        members: Sequence[Member],
        module_of: "Callable[[MemberNetwork], nn.Module]",
        backbones: Mapping[str, Backbone],
        feature_levels: Mapping[str, Levels],
        device: str,
        decoder: SandboxedDecoder,
    ):
        self.members, self.feature_levels, self.decoder = members, feature_levels, decoder
        self.networks = {
            network.key: ExplainedNetwork.of(module_of(network), backbones[network.digest], device)
            for network in networks_of(members)
        }

    def explain(
        self, images: Sequence[Any], probabilities: np.ndarray, classes: Sequence[str], label: str | None
    ) -> list[HeatMap]:
        """A heat map of each image.

        Args:
            images: as `autotl.data.inputs.as_images` lists them.
            probabilities: the model's, [n, num_classes].
            label: the class to explain; None for each image's predicted one.
        """
        sides = [int(n.preprocessing.size / n.preprocessing.crop) for n in self.networks.values()]
        maps = []
        for item, row in zip(enumerate(images), probabilities, strict=True):
            number = int(row.argmax()) if label is None else classes.index(label)
            picture = open_picture(item, max(MAX_SIDE, 2 * max(sides)), self.decoder)
            maps.append(heat_map(picture, self.evidence(picture, number), classes[number], float(row[number])))
        return maps

    def evidence(self, picture: Image.Image, label: int) -> list[tuple[Preprocessing, np.ndarray]]:
        """How much the log odds of a class fall when a window is hidden: float64 [cells, cells], the mean over the
        windows that hide a cell and over the members by their weight. For each network, which sees a crop of its own: a
        window is hidden from all networks of a member at once, and each of them gets an equal part.

        Views of test-time augmentation are left out: every member answers to the image itself.
        """
        from autotl.model.hiding import windows

        recorded = {
            key: network.hiding.features(preprocess(picture, network.preprocessing))
            for key, network in self.networks.items()
        }
        hidden = windows()
        totals = {key: np.zeros(len(hidden)) for key in self.networks}
        weight = sum(member.weight for member in self.members)
        for member in self.members:
            levels = find_named("levels", member.fitted.levels, self.feature_levels)
            keys = member.network_keys
            parts = [recorded[key][:, part] for key in keys for part in self.networks[key].layout.slices(levels)]
            found = falls(partial(_log_odds_of, member, label), np.concatenate(parts, axis=1))
            for key in keys:
                totals[key] += member.weight / (weight * len(keys)) * found
        return [
            (self.networks[key].preprocessing, np.asarray(np.tensordot(total, hidden, 1) / hidden.sum(0)))
            for key, total in totals.items()
        ]


def _log_odds_of(member: Member, label: int, features: np.ndarray) -> np.ndarray:
    return log_odds(member.fitted.head, features, member.num_classes, member.fitted.temperature, label)


def heat_map(
    picture: Image.Image, evidence: Iterable[tuple[Preprocessing, np.ndarray]], name: str, probability: float
) -> HeatMap:
    """The heat map of one image.

    Args:
        picture: mode RGB, of any size.
        evidence: the cells of the crop that each network sees, [cells, cells]; they are added.
        name: of the class; `probability` is the model's.
    """
    rows, columns = within_aspect_ratio(picture.height, picture.width)
    shrink = min(1.0, MAX_SIDE / max(picture.size))
    size = max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))
    values = np.zeros(size[::-1])
    for preprocessing, cells in evidence:
        whole = preprocessing.squash
        seen = (slice(0, picture.height), slice(0, picture.width)) if whole else (rows, columns)
        left, top, right, bottom = _crop_in(seen, preprocessing, shrink)
        resized = Image.fromarray(cells.astype(np.float32)).resize(
            (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
        )
        placed = Image.new("F", size)
        placed.paste(resized, (left, top))
        values += np.asarray(placed)
    image = picture.resize(size, Image.Resampling.LANCZOS)
    return HeatMap(name, probability, values.astype(np.float32), image)


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
