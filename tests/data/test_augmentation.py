"""Views: the same for the same image, wherever and whenever they are drawn."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from autotl.data.augmentation import ORIGINAL, POLICIES, View, draw


@pytest.mark.parametrize("policy", POLICIES)
def test_a_view_is_the_same_in_any_thread_and_after_any_other_draw(policy: str, patches) -> None:
    images = [Image.open(path).convert("RGB") for path in patches[0].paths[:8]]
    digests, view = patches[0].digests[:8], View(policy, 1)
    expected = [np.array(draw(*pair, view)) for pair in zip(images, digests, strict=True)]
    torch.rand(7)
    with ThreadPoolExecutor(4) as pool:
        drawn = pool.map(lambda pair: np.array(draw(*pair, view)), [*zip(images, digests, strict=True)] * 3)
        assert all(np.array_equal(a, b) for a, b in zip(drawn, expected * 3, strict=True))


@pytest.mark.parametrize("policy", POLICIES)
def test_views_differ_by_their_number_and_by_image(policy: str, patches) -> None:
    image = Image.open(patches[0].paths[0]).convert("RGB")
    numbers = {draw(image, patches[0].digests[0], View(policy, n)).tobytes() for n in range(12)}
    digests = {draw(image, digest, View(policy, 0)).tobytes() for digest in patches[0].digests[:12]}
    num_symmetries = {"flip": 1, "dihedral": 7}.get(policy)
    assert len(numbers) == num_symmetries if num_symmetries else len(numbers) > 1
    assert len(digests) > 1 or policy == "flip"


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
