"""The requirements of an augmentation policy, tested on pieces of two photographs."""

import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from autotl.data.augmentation import Augmentation, View, draw, views_of
from autotl.testing.check import Checks, expect
from autotl.testing.images import photographs

__all__ = ["AUGMENTATION"]

AUGMENTATION = Checks("augmentation", Augmentation)
NUM_VIEWS = 4


@AUGMENTATION.requires(Augmentation)
def is_described(augmentation: Augmentation) -> None:
    """A policy has a name (letters, digits and _) other than "none", a version that is a text, and a positive number of
    views or None."""
    name = augmentation.name
    expect(isinstance(name, str) and re.fullmatch(r"\w+", name) and name != "none", f"name is {name!r}")
    expect(isinstance(augmentation.version, str), f"version is {augmentation.version!r}")
    most = augmentation.max_views
    expect(most is None or (type(most) is int and most > 0), f"max_views is {most!r}")


@AUGMENTATION.requires(Augmentation.draw)
def draws_images_of_the_same_mode(augmentation: Augmentation) -> None:
    """A view is a PIL image of the mode of the original, RGB or L, also where that is not square or a few pixels large,
    and the original stays as it was."""
    for image in _images():
        before = image.tobytes()
        for view in _views(augmentation):
            drawn = draw(image, "0" * 32, view, {augmentation.name: augmentation})
            expect(drawn.mode == image.mode, f"a view of an image of mode {image.mode} has mode {drawn.mode}")
        expect(image.tobytes() == before, "draw changed the original")


@AUGMENTATION.requires(Augmentation)
def is_the_same_in_every_thread(augmentation: Augmentation) -> None:
    """The same image, digest and number give the same view, whatever else draws random numbers, in any thread."""
    image, views = _images()[0], _views(augmentation)
    expected = [np.array(augmentation.draw(image, "1" * 32, view.number)) for view in views]
    np.random.rand()  # noqa: NPY002  # the legacy global generator
    with ThreadPoolExecutor(4) as pool:
        drawn = pool.map(lambda view: np.array(augmentation.draw(image, "1" * 32, view.number)), views * 4)
        same = all(np.array_equal(a, b) for a, b in zip(expected * 4, drawn, strict=True))
    expect(same, "two draws of one view differ: take all that is random from self.seed(digest, number)")


@AUGMENTATION.requires(Augmentation)
def changes_the_image(augmentation: Augmentation) -> None:
    """Of some images and views at least one differs from the original."""
    image = _images()[0]
    drawn = [augmentation.draw(image, f"{i:032x}", v.number) for i in range(8) for v in _views(augmentation)]
    expect(any(view.tobytes() != image.tobytes() for view in drawn), "all views are the original")


def _views(augmentation: Augmentation) -> list[View]:
    return views_of(augmentation.name, NUM_VIEWS, {augmentation.name: augmentation})[1:]


def _images() -> list[Image.Image]:
    pixels = photographs()[0]
    return [
        Image.fromarray(pixels[:64, :96]),
        Image.fromarray(pixels[:64, :96]).convert("L"),
        Image.fromarray(pixels[:3, :5]),
    ]
