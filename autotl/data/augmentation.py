"""Views: augmentations drawn from a seed of (image digest, policy, view number), so that their features can be cached.

A view of an image is the same in every process and thread. The built-in policies are torchvision's v2 transforms, or
the symmetries of a rectangle or a square, which are so few that the views of an image enumerate them.
"""

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image

from autotl.errors import AutotlError, find_named

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from autotl.registration import Register

__all__ = ["BUILT_IN", "ORIGINAL", "Augmentation", "Symmetries", "View", "draw", "view_key", "views_of"]


MIN_AREA = 0.5
"""The least share of an image's area in a random crop."""
JITTER = 0.3
"""How much brightness, contrast and saturation change at most."""


@dataclass(frozen=True)
class View:
    """An augmentation policy and the number of one of its draws. Each image has a different draw of the same view."""

    policy: str = "none"
    number: int = 0

    def __str__(self) -> str:
        return self.policy if self.policy == "none" else f"{self.policy}-{self.number}"


ORIGINAL = View()
"""The image without augmentation."""


class Augmentation(ABC):
    """An augmentation policy. Creating the object must be cheap: import no torch.

    Features of views are recorded, so a view must be the same in every process and thread: all that is random in it
    comes from `seed`.
    """

    name: str
    """Letters, digits and _; "none" is the image without augmentation."""
    version: str = ""
    """Change it when the draws change. Part of the key of recorded features."""
    max_views: int | None = None
    """How many different views an image has; None where there is no end of them."""

    @abstractmethod
    def draw(self, image: Image.Image, digest: str, number: int) -> Image.Image:
        """View number `number` of an image, as a new image of the same mode and of any size. Called by several threads.

        Args:
            image: mode RGB or L, of any size; it is resized to the backbone's input afterwards.
            digest: hex digits that differ for different images.
            number: of the view, from 0; below `max_views`.
        """

    def draw_batch(self, images: "Tensor", generator: "Generator") -> "Tensor | None":
        """New random draws of a batch of images on their device, for training whose images aren't recorded.

        Args:
            images: uint8 [n, size, size, 3].
            generator: on the CPU; all that is random must come from it.

        Returns:
            uint8 or float32 [n, size, size, 3], values 0 to 255. None, the default, where the policy only draws single
            images: training then goes through a few views of each image.
        """
        return None

    def seed(self, digest: str, number: int | None = None) -> int:
        """A seed of the image, the policy and the view, in [0, 2**56); without `number` of the image and the policy."""
        return _seed(f"{digest}/{self.name}" if number is None else f"{digest}/{self.name}/{number}")


T = Image.Transpose


class Symmetries(Augmentation):
    """Transposes of the image, one for each view. The identity is left out: it is ORIGINAL."""

    def __init__(self, name: str, *transposes: Image.Transpose):
        self.name, self.transposes, self.max_views = name, transposes, len(transposes)

    def draw(self, image: Image.Image, digest: str, number: int) -> Image.Image:
        return image.transpose(self.transpose_of(digest, number))

    def transpose_of(self, digest: str, number: int) -> Image.Transpose:
        """Starts at a different transpose for each image, so that each view has all of them."""
        return self.transposes[(self.seed(digest) + number) % len(self.transposes)]

    def draw_batch(self, images: "Tensor", generator: "Generator") -> "Tensor":
        from autotl.data.device_augmentation import random_symmetries

        return random_symmetries(images, self.transposes, generator)


class RandomTransforms(Augmentation):
    """torchvision's transforms.

    Args:
        transforms: a function from torchvision's `transforms.v2` to a list of transforms.
        batch: the same kind of draws of a batch: see `draw_batch`.
    """

    def __init__(
        self,
        name: str,
        transforms: Callable[[Any], list[Any]],
        batch: "Callable[[Tensor, Generator], Tensor] | None" = None,
    ):
        self.name, self._make, self._batch = name, transforms, batch

    @cached_property
    def transforms(self) -> tuple[Any, ...]:
        from torchvision.transforms import v2

        return tuple(self._make(v2))

    def draw(self, image: Image.Image, digest: str, number: int) -> Image.Image:
        import torch

        transforms = self.transforms
        with _generator_lock, torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed(digest, number))
            for transform in transforms:
                image = transform(image)
        return image

    def draw_batch(self, images: "Tensor", generator: "Generator") -> "Tensor | None":
        return self._batch(images, generator) if self._batch else None


_generator_lock = threading.Lock()
"""For PyTorch's global generator, which torchvision's transforms draw from."""


def _crop(v2: Any) -> list[Any]:
    """Random flip, then a random crop of 50 to 100 % of the area."""
    return [v2.RandomHorizontalFlip(), _RandomCrop(v2, MIN_AREA)]


def _crop_colour(v2: Any) -> list[Any]:
    return [*_crop(v2), v2.ColorJitter(JITTER, JITTER, JITTER)]


def _crop_batch(images: "Tensor", generator: "Generator") -> "Tensor":
    from autotl.data.device_augmentation import random_crops

    return random_crops(images, MIN_AREA, generator)


def _crop_colour_batch(images: "Tensor", generator: "Generator") -> "Tensor":
    from autotl.data.device_augmentation import jitter_colours

    return jitter_colours(_crop_batch(images, generator), JITTER, generator)


def _trivial(v2: Any) -> list[Any]:
    """Random flip, then TrivialAugment (Müller & Hutter, ICCV 2021): one random operation of random strength."""
    return [v2.RandomHorizontalFlip(), v2.TrivialAugmentWide()]


class _RandomCrop:
    """RandomResizedCrop without the resize, which is left to the backbone's preprocessing."""

    def __init__(self, v2: Any, min_area: float):
        self.sampler = v2.RandomResizedCrop(size=1, scale=(min_area, 1.0))
        self.crop = v2.functional.crop

    def __call__(self, image: Image.Image) -> Image.Image:
        box = self.sampler.make_params([image])
        return self.crop(image, box["top"], box["left"], box["height"], box["width"])


BUILT_IN: Mapping[str, Augmentation] = {
    augmentation.name: augmentation
    for augmentation in (
        # for most photographs: mirrored ones show the same class
        Symmetries("flip", T.FLIP_LEFT_RIGHT),
        # for images without a top, such as solar cells and tiles
        Symmetries(
            "dihedral",
            *(T.ROTATE_180, T.FLIP_LEFT_RIGHT, T.FLIP_TOP_BOTTOM, T.TRANSPOSE),
            *(T.ROTATE_90, T.TRANSVERSE, T.ROTATE_270),
        ),
        RandomTransforms("crop", _crop, _crop_batch),
        RandomTransforms("crop_colour", _crop_colour, _crop_colour_batch),
        RandomTransforms("trivial", _trivial),
    )
}
"""The policies that are registered, by name."""


def views_of(policy: str, n: int, augmentations: Mapping[str, Augmentation] = BUILT_IN) -> list[View]:
    """ORIGINAL and `n` views of a policy, fewer if the policy has fewer. Only ORIGINAL for the policy "none".

    Raises:
        UnknownName: no such policy.
    """
    if policy == "none":
        return [ORIGINAL]
    most = find_named("augmentation", policy, augmentations).max_views
    return [ORIGINAL, *(View(policy, number) for number in range(n if most is None else min(n, most)))]


def view_key(view: View, augmentations: Mapping[str, Augmentation] = BUILT_IN) -> str:
    """The part of the key of recorded features that stands for a view. Raises UnknownName."""
    version = "" if view.policy == "none" else find_named("augmentation", view.policy, augmentations).version
    return f"{view}, version {version}" if version else str(view)


def draw(
    image: Image.Image, digest: str, view: View, augmentations: Mapping[str, Augmentation] = BUILT_IN
) -> Image.Image:
    """One view of an image.

    Args:
        image: mode RGB or L.
        digest: of the image file's bytes; seeds the draw.
        view: which view.
        augmentations: the policies, by name.

    Raises:
        UnknownName: no such policy.
        AutotlError: a plugin's policy drew something else than an image of mode RGB or L.
    """
    if view.policy == "none":
        return image
    drawn = find_named("augmentation", view.policy, augmentations).draw(image, digest, view.number)
    if not isinstance(drawn, Image.Image) or drawn.mode not in ("RGB", "L") or not min(drawn.size):
        described = f"mode {drawn.mode}, {drawn.size}" if isinstance(drawn, Image.Image) else type(drawn).__name__
        raise AutotlError(f"Augmentation {view.policy!r} drew {described}, not an image of mode RGB or L.")
    return drawn


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def autotl_register_augmentations(register: "Register[Augmentation]") -> None:
    for augmentation in BUILT_IN.values():
        register(augmentation)
