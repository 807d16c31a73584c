"""Views: an augmentation drawn from a seed of (image digest, policy, view number), so that it can be recorded.

The policies are torchvision's v2 transforms, or the symmetries of a rectangle and of a square, of which there are so
few that the views of an image are all different. A view is the same for the same image, whoever draws it.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

__all__ = ["ORIGINAL", "POLICIES", "View", "draw", "views_of"]


@dataclass(frozen=True)
class View:
    """One way to look at every image: an augmentation policy and which of its draws."""

    policy: str = "none"
    number: int = 0

    def __str__(self) -> str:
        return self.policy if self.policy == "none" else f"{self.policy}-{self.number}"


ORIGINAL = View()

T = Image.Transpose
SYMMETRIES = {
    # left and right change nothing for most photographs
    "flip": (T.FLIP_LEFT_RIGHT,),
    # for images without an up, such as cells and tiles
    "dihedral": (
        T.ROTATE_180, T.FLIP_LEFT_RIGHT, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_90, T.TRANSVERSE, T.ROTATE_270,
    ),
}  # fmt: skip
"""What turns the plain image into its other views, one by one."""


def _crop(v2: Any) -> list[Any]:
    """Flip, and look at half of the image or more."""
    return [v2.RandomHorizontalFlip(), _RandomCrop(v2, 0.5)]


def _crop_colour(v2: Any) -> list[Any]:
    return [*_crop(v2), v2.ColorJitter(0.3, 0.3, 0.3)]


def _trivial(v2: Any) -> list[Any]:
    """TrivialAugment (Müller & Hutter, ICCV 2021): one random operation of random strength."""
    return [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()]


RANDOM: dict[str, Callable[[Any], list[Any]]] = {
    "crop": _crop,
    "crop_colour": _crop_colour,
    "trivial": _trivial,
}

POLICIES = (*SYMMETRIES, *RANDOM)


def views_of(policy: str, n: int) -> list[View]:
    """The plain image and `n` other views of a policy, or as many as it has."""
    if policy == "none":
        return [ORIGINAL]
    return [ORIGINAL, *(View(policy, number) for number in range(min(n, len(SYMMETRIES.get(policy, range(n))))))]


class _RandomCrop:
    """RandomResizedCrop's draw without its resize, which the backbone's preprocessing does after it."""

    def __init__(self, v2: Any, smallest: float):
        self.sampler = v2.RandomResizedCrop(size=1, scale=(smallest, 1.0))
        self.crop = v2.functional.crop

    def __call__(self, image: Image.Image) -> Image.Image:
        box = self.sampler.make_params([image])
        return self.crop(image, box["top"], box["left"], box["height"], box["width"])


@cache
def _transforms(policy: str) -> tuple[Any, ...]:
    from torchvision.transforms import v2

    return tuple(RANDOM[policy](v2))


_generator = threading.Lock()  # v2 draws from torch's one global generator


def draw(image: Image.Image, digest: str, view: View) -> Image.Image:
    """The view of an RGB image whose bytes have this digest. Raises KeyError for a policy that doesn't exist."""
    if view.policy == "none":
        return image
    if view.policy in SYMMETRIES:  # each image begins elsewhere, so that one view shows every symmetry to a network
        turns = SYMMETRIES[view.policy]
        return image.transpose(turns[(_seed(f"{digest}/{view.policy}") + view.number) % len(turns)])
    import torch

    transforms = _transforms(view.policy)
    with _generator, torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(f"{digest}/{view.policy}/{view.number}"))
        for transform in transforms:
            image = transform(image)
    return image


def _seed(words: str) -> int:
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:7], "big")
