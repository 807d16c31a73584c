"""`diagnose` and `autotl doctor`: each type of problem is reported, with a count and examples."""

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
from autotl.data.diagnosis import diagnose
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource, ManifestSource

SOURCES: dict[str, DatasetSource] = {"folder": FolderSource(), "manifest": ManifestSource()}


@pytest.fixture(scope="module")
def valid_patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/, val/ and test/ with 12, 6 and 6 patches of each of two photographs, without any problem."""
    from skimage import data

    folder, rng = tmp_path_factory.mktemp("valid") / "patches", np.random.default_rng(1)
    for name in ("astronaut", "coffee"):
        photograph = getattr(data, name)()
        for i in range(24):
            subset = "train" if i < 12 else "val" if i < 18 else "test"
            top, left = (int(rng.integers(0, side - 120)) for side in photograph.shape[:2])
            path = folder / subset / name / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph[top : top + 120, left : left + 120]).save(path)
    return folder


@pytest.fixture
def patches(valid_patches: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid_patches, tmp_path / "patches"))


def findings(data: Path) -> dict[str, Finding]:
    return {finding.code: finding for finding in diagnose(str(data), SOURCES).findings}


def copy_image(source: Path, target: Path, quality: int = 0) -> None:
    """Copy byte for byte, or compressed again if a quality is given."""
    if not quality:
        shutil.copyfile(source, target)
        return
    with Image.open(source) as image:
        image.save(target, "JPEG", quality=quality)


def duplicates_across_subsets(root: Path) -> None:
    for i in (1, 2):
        copy_image(root / "train" / "coffee" / f"0{i}.png", root / "test" / "coffee" / f"x{i}.png")


def duplicates_with_different_labels(root: Path) -> None:
    copy_image(root / "train" / "coffee" / "01.png", root / "train" / "astronaut" / "x.png")


def near_duplicates_across_subsets(root: Path) -> None:
    copy_image(root / "train" / "coffee" / "01.png", root / "test" / "coffee" / "x.jpg", quality=60)


def near_duplicates_with_different_labels(root: Path) -> None:
    copy_image(root / "train" / "coffee" / "01.png", root / "train" / "astronaut" / "x.jpg", quality=60)


def near_duplicates(root: Path) -> None:
    copy_image(root / "train" / "coffee" / "01.png", root / "train" / "coffee" / "x.jpg", quality=60)


def few_images(root: Path) -> None:
    for i in range(3, 12):
        (root / "train" / "coffee" / f"{i:02}.png").unlink()


def one_image(root: Path) -> None:
    for i in range(1, 12):
        (root / "train" / "coffee" / f"{i:02}.png").unlink()


def one_class(root: Path) -> None:
    for subset in ("train", "val", "test"):
        shutil.rmtree(root / subset / "coffee")


def class_missing_from_validation(root: Path) -> None:
    shutil.rmtree(root / "val" / "coffee")


def unknown_class(root: Path) -> None:
    (root / "test" / "coffee").rename(root / "test" / "Coffee")


def similar_class_names(root: Path) -> None:
    (root / "train" / "Coffee").mkdir()
    for i in range(6):
        (root / "train" / "coffee" / f"0{i}.png").rename(root / "train" / "Coffee" / f"{i}.png")


def unicode_forms(root: Path) -> None:
    for subset in ("train", "val", "test"):
        (root / subset / "coffee").rename(root / subset / "caf\u00e9")
    (root / "train" / "cafe\u0301").mkdir()
    for i in range(6):
        (root / "train" / "caf\u00e9" / f"0{i}.png").rename(root / "train" / "cafe\u0301" / f"{i}.png")


def class_imbalance(root: Path) -> None:
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


def uniform_images(root: Path) -> None:
    Image.new("RGB", (60, 60), (9, 9, 9)).save(root / "train" / "coffee" / "x.png")


def source_warning(root: Path) -> None:
    (root / "train" / "coffee" / "notes.txt").touch()


@pytest.mark.parametrize(
    ("damage", "code", "serious", "count", "text"),
    [
        (
            duplicates_across_subsets,
            "duplicates_across_subsets",
            True,
            2,
            "2 images are in several subsets (test, train), byte for byte",
        ),
        (
            duplicates_with_different_labels,
            "duplicates_with_different_labels",
            True,
            1,
            "1 image is under different labels",
        ),
        (
            near_duplicates_across_subsets,
            "near_duplicates_across_subsets",
            True,
            1,
            "1 pair of near-duplicates across subsets (test, train)",
        ),
        (
            near_duplicates_with_different_labels,
            "near_duplicates_with_different_labels",
            True,
            1,
            "1 pair of near-duplicates under different labels",
        ),
        (near_duplicates, "near_duplicates", False, 1, "1 pair of near-duplicates in one subset and class"),
        (few_images, "few_images", False, 1, "Classes with fewer than 5 training images: coffee (3)"),
        (one_image, "one_image", True, 1, "Classes with a single training image: coffee"),
        (one_class, "one_class", True, 1, "belong to one class, 'astronaut'"),
        (class_missing_from_validation, "class_missing_from_validation", True, 1, "No validation image of coffee"),
        (
            unknown_class,
            "unknown_class",
            True,
            6,
            "test images of 'Coffee', which is not a class of the training images",
        ),
        (similar_class_names, "similar_class_names", True, 1, "'Coffee' and 'coffee'"),
        (unicode_forms, "similar_class_names", True, 1, "differ only in case, spaces, hyphens or Unicode form"),
        (class_imbalance, "class_imbalance", True, 2, "'astronaut' has 132 training images, 'coffee' 12"),
        (undecodable, "undecodable", False, 7, "7 files were left out: it isn't an image"),
        (class_without_images, "class_without_images", True, 1, "No training image of 'coffee' can be decoded"),
        (uniform_images, "uniform_images", False, 1, "1 image is of a single colour"),
        (source_warning, "source_warning", False, 1, "because they are not images: .txt (1)"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_each_type_of_problem_is_reported(
    damage: Callable[[Path], None], code: str, serious: bool, count: int, text: str, patches: Path
) -> None:
    assert not findings(patches)
    damage(patches)
    finding = findings(patches)[code]
    assert (finding.serious, finding.count) == (serious, count)
    assert text in finding.text
    assert finding.examples or code == "source_warning"


def test_serious_findings_become_warnings_of_a_search(patches: Path) -> None:
    for damage in (near_duplicates_across_subsets, duplicates_with_different_labels, uniform_images, near_duplicates):
        damage(patches)
    dataset = load_dataset(str(patches), SOURCES)
    serious = [finding.line() for finding in dataset.findings if finding.serious]
    assert list(dataset.warnings) == serious
    assert {f.code for f in dataset.findings} >= {
        "near_duplicates_across_subsets",
        "duplicates_with_different_labels",
        "uniform_images",
        "near_duplicates",
    }
    (leakage,) = (f for f in dataset.findings if f.code == "near_duplicates_across_subsets")
    assert leakage.line().endswith(f" For example {leakage.examples[0]}.")
    assert not any("single colour" in line for line in dataset.warnings)


def test_a_few_near_duplicates_among_many_images_are_not_serious(patches: Path) -> None:
    near_duplicates_across_subsets(patches)
    rng = np.random.default_rng(0)
    for i in range(200):
        noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((40, 40)).save(patches / "test" / "astronaut" / f"n{i}.png")
    finding = findings(patches)["near_duplicates_across_subsets"]
    assert (finding.serious, finding.count) == (False, 1)


def test_a_manifest_without_an_existing_image_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("path,label\n../x.png,a\n../y.png,b\n")
    finding = findings(tmp_path / "images.csv")["unusable"]
    assert "../x.png (there is no such file)" in finding.text


# --- the command


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, arguments)], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout


def test_the_command_prints_findings_with_examples(patches: Path, tmp_path: Path) -> None:
    duplicates_across_subsets(patches)
    code, output = run(patches, "--cache", tmp_path / "cache")
    assert code == 0
    assert "50 images (14 test · 24 train · 12 validation), 2 classes" in output
    assert "! 2 images are in several subsets" in output
    assert output.count(f"    {patches}/t") == 2
    assert "For example" not in output  # the examples are listed


def test_a_class_name_cannot_cut_off_the_text_of_a_finding(patches: Path, tmp_path: Path) -> None:
    (patches / "train" / "coffee").rename(patches / "train" / "cup For example coffee")
    shutil.rmtree(patches / "val" / "coffee")
    shutil.rmtree(patches / "test" / "coffee")
    _, output = run(patches, "--cache", tmp_path / "cache")
    assert "! No test image of cup For example coffee: the test score doesn't cover every class." in output


def test_a_dataset_without_problems(patches: Path, tmp_path: Path) -> None:
    assert run(patches, "--cache", tmp_path / "cache")[1].splitlines()[-1] == "No problems found."


def test_json_has_the_classes_and_all_findings(patches: Path, tmp_path: Path) -> None:
    duplicates_across_subsets(patches)
    report = json.loads(run(patches, "--cache", tmp_path / "cache", "--json")[1])
    assert report["dataset"]["classes"] == {"astronaut": 24, "coffee": 26}
    assert report["findings"][0]["code"] == "duplicates_across_subsets"
    assert report["findings"][0]["count"] == 2


@pytest.mark.parametrize("damage", [one_class, unknown_class, class_without_images])
def test_the_exit_code_is_1_if_a_search_cannot_start(
    damage: Callable[[Path], None], patches: Path, tmp_path: Path
) -> None:
    damage(patches)
    exit_code, output = run(patches, "--cache", tmp_path / "cache")
    assert (exit_code, "! " in output) == (1, True)


def test_control_characters_in_names_are_escaped(patches: Path, tmp_path: Path) -> None:
    with_escapes = patches / "train" / "coffee" / "\x1b[2J\n.png"
    not_utf8 = patches / "train" / "coffee" / os.fsdecode(b"caf\xe9.png")
    for path in (with_escapes, not_utf8):
        path.write_text("no image")
    output = run(patches, "--cache", tmp_path / "cache")[1]
    assert r"\x1b[2J\n.png" in output
    assert r"caf\udce9.png" in output
