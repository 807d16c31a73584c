"""Views: reproducible draws that depend on the image, the policy and the view's number only."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from autotl.data.augmentation import BUILT_IN, ORIGINAL, Augmentation, View, draw, view_key, views_of
from autotl.errors import AutotlError, UnknownName


@pytest.mark.parametrize("policy", BUILT_IN)
def test_a_view_is_independent_of_threads_and_other_draws(policy: str, patches) -> None:
    images = [Image.open(path).convert("RGB") for path in patches[0].paths[:8]]
    digests, view = patches[0].digests[:8], View(policy, 1)
    expected = [np.array(draw(*pair, view)) for pair in zip(images, digests, strict=True)]
    torch.rand(7)
    with ThreadPoolExecutor(4) as pool:
        drawn = pool.map(lambda pair: np.array(draw(*pair, view)), [*zip(images, digests, strict=True)] * 3)
        assert all(np.array_equal(a, b) for a, b in zip(drawn, expected * 3, strict=True))


@pytest.mark.parametrize("policy", BUILT_IN)
def test_views_differ_by_their_number_and_by_image(policy: str, patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    numbers = {draw(image, patches[0].digests[0], View(policy, n)).tobytes() for n in range(12)}
    digests = {draw(image, digest, View(policy, 0)).tobytes() for digest in patches[0].digests[:12]}
    if BUILT_IN[policy].max_views:
        assert len(numbers) == BUILT_IN[policy].max_views == {"flip": 1, "dihedral": 7}[policy]
    else:
        assert len(numbers) > 1
    assert len(digests) > 1 or policy == "flip"  # which has one view


def test_drawing_leaves_the_global_generator_unchanged(patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    draw(image, patches[0].digests[0], View("trivial", 3))
    assert torch.equal(torch.rand(3), expected)


def test_dihedral_views_keep_every_pixel() -> None:
    image = Image.fromarray(np.arange(1, 61, dtype=np.uint8).reshape(4, 5, 3))
    everything = sorted(np.array(image).reshape(-1, 3).tolist())
    sizes = set()
    for number in range(20):
        turned = draw(image, "0" * 32, View("dihedral", number))
        assert sorted(np.array(turned).reshape(-1, 3).tolist()) == everything
        sizes.add(turned.size)
    assert sizes == {(5, 4), (4, 5)}


def test_the_original_view_is_the_image(patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    assert draw(image, patches[0].digests[0], ORIGINAL) is image


def test_views_of_a_policy_begin_with_the_original_and_end_with_its_last_symmetry() -> None:
    assert views_of("none", 5) == [ORIGINAL]
    assert views_of("flip", 5) == [ORIGINAL, View("flip", 0)]
    assert views_of("crop", 2) == [ORIGINAL, View("crop", 0), View("crop", 1)]
    assert len(views_of("dihedral", 100)) == 8


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(UnknownName):
        draw(Image.new("RGB", (4, 4)), "0" * 32, View("unknown", 0))


class Turned(Augmentation):
    name, max_views = "turned", 3

    def draw(self, image, digest, number):
        return image.rotate(90 * (number + 1), expand=True)


def test_a_policy_of_a_plugin_is_drawn_and_its_version_is_part_of_the_key() -> None:
    turned = Turned()
    policies = {"turned": turned}
    assert views_of("turned", 9, policies) == [ORIGINAL, *(View("turned", n) for n in range(3))]
    assert draw(Image.new("L", (4, 8)), "0" * 32, View("turned", 0), policies).size == (8, 4)
    assert view_key(View("turned", 1), policies) == "turned-1"
    turned.version = "2"
    assert view_key(View("turned", 1), policies) == "turned-1, version 2"


@pytest.mark.parametrize("drawn", [np.zeros((4, 4, 3)), Image.new("CMYK", (4, 4)), Image.new("RGB", (0, 4)), None])
def test_a_policy_that_draws_something_else_than_an_image_is_named(drawn) -> None:
    class Wrong(Turned):
        def draw(self, image, digest, number):
            return drawn

    with pytest.raises(AutotlError, match=r"Augmentation 'turned' drew .*not an image of mode RGB or L"):
        draw(Image.new("RGB", (4, 4)), "0" * 32, View("turned", 0), {"turned": Wrong()})
