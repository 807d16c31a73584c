"""Near-duplicates of real photographs: copies are found, other images of the same scene are not."""

import io
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import autotl.data.near_duplicates as near_duplicates_module
from autotl.data.decoding import verify
from autotl.data.digests import digest_file
from autotl.data.near_duplicates import MAX_COMPARED, _spectra, connected, near_duplicates

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def solar_cells() -> np.ndarray:
    """Thumbnails of elpv's 2,624 cells."""
    spec = find_spec("elpv_dataset")
    assert spec is not None
    assert spec.origin is not None
    paths = sorted((Path(spec.origin).parent / "data" / "images").glob("*.png"))
    with ThreadPoolExecutor(2) as pool:
        return np.stack(list(pool.map(lambda path: np.frombuffer(verify(path), np.uint8), paths)))


@pytest.mark.slow
def test_a_cell_that_was_photographed_twice_is_found_among_cells_in_one_pose(solar_cells: np.ndarray) -> None:
    """elpv's cells 1741 to 1758 come again as 2283 to 2301, out of focus. Intact cells without structure, in the same
    pose and of the same type, are no near-duplicates, although the correlation of their thumbnails is 0.97."""
    groups = connected(2624, near_duplicates(solar_cells, np.arange(2624)))
    again = [(1745, 2287), (1747, 2289), (1748, 2290), (1756, 2298), (1754, 2296), (1741, 2283)]
    assert all(groups[a - 1] == groups[b - 1] for a, b in again)
    assert np.bincount(groups).max() <= 12
    intact = np.arange(2150, 2215)
    assert np.median(np.corrcoef(solar_cells[intact])) > 0.96
    assert len(np.unique(groups[intact])) > 0.5 * len(intact)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs", "largest"),
    [
        ("hymenoptera", (0, 0), 1),
        ("sign-digits", (0, 2), 2),
        ("clothing", (0, 4), 2),
        ("cifar10-mini", (1, 1), 2),  # a ship that is there twice
        ("flowers-128", (30, 45), 2),  # photographs in two sizes or two colours
        ("dtd-10", (20, 40), 4),  # patterns in several colours
        ("magnetic-tile", (2000, 3500), 12),  # exposures
    ],
)
def test_what_is_found_in_real_datasets(name: str, pairs: tuple[int, int], largest: int) -> None:
    """Looked at: hymenoptera has none. Those of clothing and sign-digits show different things in one pose. Of 18 of
    dtd-10's, seven are one photograph, four one pattern in other colours, and the others similar patterns; the 18 of
    flowers-128 are one photograph each, also in other colours."""
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg", ".png")]
    digests = np.array([digest_file(path) for path in paths])
    with ThreadPoolExecutor(2) as pool:
        pixels = np.stack(list(pool.map(lambda path: np.frombuffer(verify(path), np.uint8), paths)))
    found = near_duplicates(pixels, digests)
    assert pairs[0] <= len(found) <= pairs[1]
    assert np.bincount(connected(len(paths), found)).max() <= largest


@pytest.mark.parametrize("share", [0.1, 0.45, 1.0])
def test_copies_are_found_whatever_their_share(share: float, photographs: list[Path], tmp_path: Path) -> None:
    pixels = thumbnails(photographs)
    copied = range(round(60 * share))
    for i in copied:
        with Image.open(photographs[i]) as image:
            image.resize((image.width * 3 // 4, image.height * 3 // 4)).save(tmp_path / f"{i:02}.jpg", quality=60)
    everything = np.vstack([pixels, thumbnails(sorted(tmp_path.glob("*.jpg")))])
    found = {tuple(pair) for pair in near_duplicates(everything, np.arange(len(everything))).tolist()}
    assert {(i, 60 + i) for i in copied} <= found


def test_exact_duplicates_of_near_duplicates_make_pairs_too(photographs: list[Path]) -> None:
    pixels = thumbnails(photographs)
    pixels[[1, 2]] = pixels[0]
    digests = np.arange(60)
    digests[2] = 1
    assert sorted(near_duplicates(pixels, digests).tolist())[:2] == [[0, 1], [0, 2]]


def test_frames_of_a_long_film_are_one_group_of_few_pairs(photographs: list[Path]) -> None:
    """Each frame is nearest to the ones before and after it."""
    from skimage import data

    coffee = Image.fromarray(data.coffee())
    frames = [coffee.crop((2 * i, i, 2 * i + 200, i + 200)).convert("L").resize((16, 16), 2) for i in range(100)]
    film = np.stack([np.asarray(frame).ravel() for frame in frames])
    pairs = near_duplicates(np.vstack([thumbnails(photographs), film]), np.arange(160))
    groups = connected(160, pairs)
    assert len(np.unique(groups[60:])) == 1
    assert len(pairs) <= 17 * 100


def test_many_images_that_look_the_same_stay_few_pairs() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(-1, 2, (3000, 256))
    pixels = (np.repeat(rng.integers(9, 240, (30, 256)), 100, axis=0) + noise).astype(np.uint8)
    pairs = near_duplicates(pixels, np.arange(3000))
    assert len(pairs) <= 17 * 3000
    assert len(np.unique(connected(3000, pairs))) == 30


def test_many_copies_of_one_picture_are_no_near_duplicates_of_others() -> None:
    """Copies whose thumbnails are equal and whose bytes differ: their similarity may round to more than 1."""
    pixels = np.random.default_rng(0).integers(0, 255, (300, 256), dtype=np.uint8)
    pixels[:120] = pixels[:6].repeat(20, axis=0)
    groups = connected(300, near_duplicates(pixels, np.arange(300)))
    assert len(np.unique(groups)) == 186


def test_threads_and_tiles_change_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pixels = (rng.integers(9, 240, (100, 256)).repeat(3, axis=0) + rng.integers(-9, 10, (300, 256))).astype(np.uint8)
    pixels[60:90] = pixels[60]
    expected = near_duplicates(pixels, np.arange(300), threads=1)
    monkeypatch.setattr(near_duplicates_module, "TILE", 32)
    monkeypatch.setattr(near_duplicates_module, "BLOCK_ELEMENTS", 3000)
    found = near_duplicates(pixels, np.arange(300), threads=3)
    assert set(map(tuple, found.tolist())) == set(map(tuple, expected.tolist()))


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
    pairs = near_duplicates(pixels, np.arange(60))
    assert pairs[0].tolist() == [40, 41]
    assert pairs.min() >= 20


@pytest.mark.parametrize("n", [0, 1, 2, MAX_COMPARED + 1])
def test_too_few_and_too_many_are_not_compared(n: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (n, 4)).astype(np.uint8)
    assert near_duplicates(pixels, np.arange(n)).shape == (0, 2)


@pytest.mark.slow
def test_twenty_thousand_are_compared_within_seconds() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (20_000, 256), dtype=np.uint8)
    pixels[19_999] = pixels[3]
    start = time.monotonic()
    assert near_duplicates(pixels, np.arange(20_000)).tolist() == [[3, 19_999]]
    assert time.monotonic() - start < 30


def test_spectra_are_cosine_transforms():
    from scipy.fft import dctn

    thumbnails = np.random.default_rng(0).integers(0, 256, (5, 256), dtype=np.uint8)
    expected = dctn(thumbnails.reshape(5, 16, 16).astype(float), axes=(1, 2), norm="ortho").reshape(5, -1)[:, 1:]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(_spectra(thumbnails), expected, atol=1e-6)
