"""Views: augmentations drawn from a seed of (image digest, policy, view number), so that their features can be cached.

A view of an image is the same in every process and thread. The policies are torchvision's v2 transforms, or the
symmetries of a rectangle or a square. These are so few that the views of an image enumerate them without repetition.
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
    """An augmentation policy and the number of one of its draws. Each image has a different draw of the same view."""

    policy: str = "none"
    number: int = 0

    def __str__(self) -> str:
        return self.policy if self.policy == "none" else f"{self.policy}-{self.number}"


ORIGINAL = View()
"""The image without augmentation."""

T = Image.Transpose
SYMMETRIES = {
    # for most photographs: mirrored ones show the same class
    "flip": (T.FLIP_LEFT_RIGHT,),
    # for images without a top, such as solar cells and tiles
    "dihedral": (
        T.ROTATE_180, T.FLIP_LEFT_RIGHT, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_90, T.TRANSVERSE, T.ROTATE_270,
    ),
}  # fmt: skip
"""By policy: the transposes that make the views of an image, one each. The identity is left out: it is ORIGINAL."""


def _crop(v2: Any) -> list[Any]:
    """Random flip, then a random crop of 50 to 100 % of the area."""
    return [v2.RandomHorizontalFlip(), _RandomCrop(v2, 0.5)]


def _crop_colour(v2: Any) -> list[Any]:
    return [*_crop(v2), v2.ColorJitter(0.3, 0.3, 0.3)]


def _trivial(v2: Any) -> list[Any]:
    """Random flip, then TrivialAugment (Müller & Hutter, ICCV 2021): one random operation of random strength."""
    return [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()]


RANDOM_TRANSFORMS: dict[str, Callable[[Any], list[Any]]] = {
    "crop": _crop,
    "crop_colour": _crop_colour,
    "trivial": _trivial,
}
"""By policy: a function from torchvision's `transforms.v2` to a list of transforms."""

POLICIES = (*SYMMETRIES, *RANDOM_TRANSFORMS)


def views_of(policy: str, n: int) -> list[View]:
    """ORIGINAL and `n` views of a policy, fewer if the policy has fewer. Only ORIGINAL for the policy "none"."""
    if policy == "none":
        return [ORIGINAL]
    num_views = min(n, len(SYMMETRIES[policy])) if policy in SYMMETRIES else n
    return [ORIGINAL, *(View(policy, number) for number in range(num_views))]


class _RandomCrop:
    """RandomResizedCrop without the resize, which is left to the backbone's preprocessing."""

    def __init__(self, v2: Any, min_area: float):
        self.sampler = v2.RandomResizedCrop(size=1, scale=(min_area, 1.0))
        self.crop = v2.functional.crop

    def __call__(self, image: Image.Image) -> Image.Image:
        box = self.sampler.make_params([image])
        return self.crop(image, box["top"], box["left"], box["height"], box["width"])


@cache
def _transforms(policy: str) -> tuple[Any, ...]:
    from torchvision.transforms import v2

    return tuple(RANDOM_TRANSFORMS[policy](v2))


_generator_lock = threading.Lock()
"""For PyTorch's global generator, which torchvision's transforms draw from."""


def draw(image: Image.Image, digest: str, view: View) -> Image.Image:
    """One view of an image.

    Args:
        image: mode RGB or L.
        digest: of the image file's bytes; seeds the draw.
        view: which view.

    Raises:
        KeyError: unknown policy.
    """
    if view.policy == "none":
        return image
    if view.policy in SYMMETRIES:  # starts at a different transpose for each image, so that each view has all of them
        transposes = SYMMETRIES[view.policy]
        return image.transpose(transposes[(_seed(f"{digest}/{view.policy}") + view.number) % len(transposes)])
    import torch

    transforms = _transforms(view.policy)
    with _generator_lock, torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(f"{digest}/{view.policy}/{view.number}"))
        for transform in transforms:
            image = transform(image)
    return image


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
