"""Near-duplicates of real photographs: copies are found, other images of the same scene are not."""

import io
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from autotl.data.decoding import verify
from autotl.data.near_duplicates import MAX_COMPARED, near_duplicates

COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed again": lambda image: _recompress(image, 40),
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "without colour": lambda image: image.convert("L"),
    "another format": lambda image: image,
}


def _recompress(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def thumbnails(paths: list[Path]) -> np.ndarray:
    return np.stack([np.frombuffer(verify(path), np.uint8) for path in paths])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """60 crops of four photographs at different positions: the same scenes, but no duplicates."""
    from skimage import data

    folder, rng = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    names = ("astronaut", "chelsea", "coffee", "rocket")
    paths = []
    for i in range(60):
        photograph = Image.fromarray(getattr(data, names[i % len(names)])())
        side = min(photograph.size) // 2
        left, top = (int(rng.integers(0, whole - side)) for whole in photograph.size)
        paths.append(folder / f"{i:02}.png")
        photograph.crop((left, top, left + side, top + side)).save(paths[-1])
    return paths


@pytest.mark.parametrize("change", COPIES)
def test_only_copies_are_found(change: str, photographs: list[Path], tmp_path: Path) -> None:
    copied = [7, 18, 31, 42, 55]
    copies = []
    for i in copied:
        with Image.open(photographs[i]) as image:
            copies.append(tmp_path / f"{i}.{'webp' if change == 'another format' else 'jpg'}")
            COPIES[change](image).save(copies[-1], quality=85)
    everything = thumbnails([*photographs, *copies])
    before = {tuple(pair) for pair in near_duplicates(everything[:60], np.arange(60)).tolist()}
    after = {tuple(pair) for pair in near_duplicates(everything, np.arange(65)).tolist()}
    assert {(i, 60 + n) for n, i in enumerate(copied)} <= after - before
    assert len(before) <= 1


def test_solar_cells_in_one_pose_are_not_near_duplicates(tmp_path: Path) -> None:
    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.origin is not None
    cells = sorted((Path(spec.origin).parent / "data" / "images").glob("*.png"))[:300]
    pixels = thumbnails(cells)
    assert len(near_duplicates(pixels, np.arange(300))) <= 3
    with Image.open(cells[9]) as image:
        image.save(tmp_path / "copy.jpg", quality=60)
    pairs = near_duplicates(np.vstack([pixels, thumbnails([tmp_path / "copy.jpg"])]), np.arange(301))
    assert [9, 300] in pairs.tolist()


def test_exact_duplicates_make_no_pair(photographs: list[Path]) -> None:
    pixels = thumbnails(photographs)
    pixels[11] = pixels[10]
    digests = np.arange(60)
    assert [10, 11] in near_duplicates(pixels, digests).tolist()
    digests[11] = 10
    assert [10, 11] not in near_duplicates(pixels, digests).tolist()


def test_uniform_images_make_no_pair(photographs: list[Path]) -> None:
    pixels = thumbnails(photographs)
    pixels[:20] = np.arange(20, dtype=np.uint8)[:, None]
    pixels[41] = pixels[40]
    assert near_duplicates(pixels, np.arange(60)).tolist() == [[40, 41]]


@pytest.mark.parametrize("n", [0, 1, 2, MAX_COMPARED + 1])
def test_too_few_and_too_many_are_not_compared(n: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (n, 4)).astype(np.uint8)
    assert near_duplicates(pixels, np.arange(n)).shape == (0, 2)


def test_twenty_thousand_are_compared_within_seconds() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20_000, 256), dtype=np.uint8)
    pixels[19_999] = pixels[3]
    start = time.monotonic()
    assert near_duplicates(pixels, np.arange(20_000)).tolist() == [[3, 19_999]]
    assert time.monotonic() - start < 30
