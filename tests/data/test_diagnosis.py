"""`autotl doctor`: each thing that misleads is found, with a count and examples, also where a search would stop."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from autotl.cli import app
from autotl.data.dataset import DatasetSource, Finding
from autotl.data.diagnosis import examine
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource, ManifestSource

SOURCES: dict[str, DatasetSource] = {"folder": FolderSource(), "manifest": ManifestSource()}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/ with 12, 6 and 6 patches of each of two photographs; nothing is odd about them."""
    from skimage import data

    folder, rng = tmp_path_factory.mktemp("sound") / "patches", np.random.default_rng(1)
    for name in ("astronaut", "coffee"):
        photograph = getattr(data, name)()
        for i in range(24):
            part = "train" if i < 12 else "val" if i < 18 else "test"
            top, left = (int(rng.integers(0, side - 120)) for side in photograph.shape[:2])
            path = folder / part / name / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph[top : top + 120, left : left + 120]).save(path)
    return folder


@pytest.fixture
def patches(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "patches"))


def found(data: Path) -> dict[str, Finding]:
    return {finding.code: finding for finding in examine(str(data), SOURCES).findings}


def copied(start: Path, end: Path, quality: int = 0) -> None:
    """Byte for byte, or compressed again."""
    if not quality:
        shutil.copyfile(start, end)
        return
    with Image.open(start) as image:
        image.save(end, "JPEG", quality=quality)


def same_in_parts(root: Path) -> None:
    for i in (1, 2):
        copied(root / "train" / "coffee" / f"0{i}.png", root / "test" / "coffee" / f"x{i}.png")


def same_with_labels(root: Path) -> None:
    copied(root / "train" / "coffee" / "01.png", root / "train" / "astronaut" / "x.png")


def alike_in_parts(root: Path) -> None:
    copied(root / "train" / "coffee" / "01.png", root / "test" / "coffee" / "x.jpg", quality=60)


def alike_with_labels(root: Path) -> None:
    copied(root / "train" / "coffee" / "01.png", root / "train" / "astronaut" / "x.jpg", quality=60)


def alike(root: Path) -> None:
    copied(root / "train" / "coffee" / "01.png", root / "train" / "coffee" / "x.jpg", quality=60)


def few_images(root: Path) -> None:
    for i in range(3, 12):
        (root / "train" / "coffee" / f"{i:02}.png").unlink()


def one_image(root: Path) -> None:
    for i in range(1, 12):
        (root / "train" / "coffee" / f"{i:02}.png").unlink()


def one_class(root: Path) -> None:
    for part in ("train", "val", "test"):
        shutil.rmtree(root / part / "coffee")


def class_missing_from_validation(root: Path) -> None:
    shutil.rmtree(root / "val" / "coffee")


def unknown_class(root: Path) -> None:
    (root / "test" / "coffee").rename(root / "test" / "Coffee")


def names_alike(root: Path) -> None:
    (root / "train" / "Coffee").mkdir()
    for i in range(6):
        (root / "train" / "coffee" / f"0{i}.png").rename(root / "train" / "Coffee" / f"{i}.png")


def unicode_forms(root: Path) -> None:
    for part in ("train", "val", "test"):
        (root / part / "coffee").rename(root / part / "caf\u00e9")
    (root / "train" / "cafe\u0301").mkdir()
    for i in range(6):
        (root / "train" / "caf\u00e9" / f"0{i}.png").rename(root / "train" / "cafe\u0301" / f"{i}.png")


def uneven_classes(root: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(120):
        noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 40)).save(root / "train" / "astronaut" / f"n{i}.png")


def undecodable(root: Path) -> None:
    for i in range(7):
        (root / "train" / "coffee" / f"{i:02}.png").write_text("image not found")


def class_without_images(root: Path) -> None:
    for path in (root / "train" / "coffee").iterdir():
        path.write_text("image not found")


def plain(root: Path) -> None:
    Image.new("RGB", (60, 60), (9, 9, 9)).save(root / "train" / "coffee" / "x.png")


def left_out(root: Path) -> None:
    (root / "train" / "coffee" / "notes.txt").touch()


@pytest.mark.parametrize(
    ("spoil", "kind", "serious", "count", "words"),
    [
        (same_in_parts, "same_in_parts", True, 2, "2 images are there in several parts (test, train), byte for byte"),
        (same_with_labels, "same_with_labels", True, 1, "1 image is there under different labels"),
        (alike_in_parts, "alike_in_parts", True, 1, "1 pair of images looks nearly the same, in several parts"),
        (alike_with_labels, "alike_with_labels", True, 1, "nearly the same, under different labels"),
        (alike, "alike", False, 1, "nearly the same, in one part and class"),
        (few_images, "few_images", False, 1, "Fewer than 5 images to train on: coffee (3)"),
        (one_image, "one_image", True, 1, "Only one image to train on: coffee"),
        (one_class, "one_class", True, 1, "are of one class, 'astronaut'"),
        (class_missing_from_validation, "class_missing_from_validation", True, 1, "No validation image of coffee"),
        (unknown_class, "unknown_class", True, 6, "test images of 'Coffee', a class that isn't among"),
        (names_alike, "names_alike", True, 1, "'Coffee' and 'coffee'"),
        (unicode_forms, "names_alike", True, 1, "differ by case, spaces or Unicode form alone"),
        (uneven_classes, "uneven_classes", True, 2, "'astronaut' has 132 images to train on, 'coffee' 12"),
        (undecodable, "undecodable", False, 7, "7 files are left out: it isn't an image"),
        (class_without_images, "class_without_images", True, 1, "No image to train on of 'coffee' can be decoded"),
        (plain, "plain", False, 1, "1 image shows one colour"),
        (left_out, "left_out", False, 1, "Left out by their extension"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_misleads_is_found(
    spoil: Callable[[Path], None], kind: str, serious: bool, count: int, words: str, patches: Path
) -> None:
    assert not found(patches)
    spoil(patches)
    finding = found(patches)[kind]
    assert (finding.serious, finding.count) == (serious, count)
    assert words in finding.text
    assert finding.examples or kind == "left_out"


def test_a_search_says_the_serious_ones_in_a_line_each(patches: Path) -> None:
    for spoil in (alike_in_parts, same_with_labels, plain, alike):
        spoil(patches)
    dataset = load_dataset(str(patches), SOURCES)
    serious = [finding.text for finding in dataset.findings if finding.serious]
    assert list(dataset.warnings) == serious
    assert {f.code for f in dataset.findings} >= {"alike_in_parts", "same_with_labels", "plain", "alike"}
    assert not any("one colour" in line for line in dataset.warnings)


def test_a_few_alike_among_many_are_not_worth_a_line_of_a_search(patches: Path) -> None:
    alike_in_parts(patches)
    rng = np.random.default_rng(0)
    for i in range(200):
        noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 40)).save(patches / "test" / "astronaut" / f"n{i}.png")
    finding = found(patches)["alike_in_parts"]
    assert (finding.serious, finding.count) == (False, 1)


def test_a_manifest_that_leaves_its_folder_is_a_finding_too(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("path,label\n../x.png,a\n")
    finding = found(tmp_path / "images.csv")["unusable"]
    assert "leaves the manifest's folder" in finding.text


# --- the command


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, words)], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout


def test_the_command_prints_findings_with_examples(patches: Path, tmp_path: Path) -> None:
    same_in_parts(patches)
    code, said = run(patches, "--cache", tmp_path / "cache")
    assert code == 0
    assert "50 images (14 test · 24 train · 12 validation), 2 classes" in said
    assert "! 2 images are there in several parts" in said
    assert said.count(f"    {patches}/t") == 2


def test_where_nothing_is_odd_it_says_so(patches: Path, tmp_path: Path) -> None:
    assert run(patches, "--cache", tmp_path)[1].splitlines()[-1] == "Nothing odd was found."


def test_json_has_everything(patches: Path, tmp_path: Path) -> None:
    same_in_parts(patches)
    page = json.loads(run(patches, "--cache", tmp_path, "--json")[1])
    assert page["dataset"]["classes"] == {"astronaut": 24, "coffee": 26}
    assert page["findings"][0]["kind"] == "same_in_parts"
    assert page["findings"][0]["count"] == 2


@pytest.mark.parametrize("spoil", [one_class, unknown_class, class_without_images])
def test_what_stops_a_search_makes_it_exit_with_1(spoil: Callable[[Path], None], patches: Path, tmp_path: Path) -> None:
    spoil(patches)
    code, said = run(patches, "--cache", tmp_path)
    assert (code, "! " in said) == (1, True)


def test_names_that_could_steer_a_terminal_are_escaped(patches: Path, tmp_path: Path) -> None:
    steering = patches / "train" / "coffee" / "\x1b[2J\n.png"
    no_text = patches / "train" / "coffee" / os.fsdecode(b"caf\xe9.png")
    for path in (steering, no_text):
        path.write_text("no image")
    said = run(patches, "--cache", tmp_path)[1]
    assert r"\x1b[2J\n.png" in said
    assert r"caf\udce9.png" in said
