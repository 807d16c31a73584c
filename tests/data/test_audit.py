"""`audit_dataset`: class sizes, duplicates, near-duplicates and groups, on arrays; the warnings that users see."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotl.data import audit
from autotl.data.audit import audit_dataset, folded
from autotl.data.dataset import Finding, ImageDataset
from autotl.data.loading import load_dataset
from autotl.data.near_duplicates import near_duplicates
from autotl.data.sources import FolderSource, ManifestSource

SOURCES = {"folder": FolderSource(), "manifest": ManifestSource()}


def make_dataset(labels: list[int], **fields: object) -> ImageDataset:
    """A dataset without files; all digests differ."""
    n = len(labels)
    dataset = ImageDataset(
        name="d",
        classes=tuple("abc"[: max(labels) + 1]),
        paths=tuple(Path(f"{i}.jpg") for i in range(n)),
        labels=np.array(labels),
        digests=tuple(f"{i:032x}" for i in range(n)),
        subsets=("",) * n,
        groups=("",) * n,
    )
    return replace(dataset, **fields)  # type: ignore[arg-type]


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def random_thumbnails(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (n, 64), dtype=np.uint8)


def one_pair(n: int, a: int, b: int) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails, and the pairs that are found where the images `a` and `b` have the same one."""
    thumbnails = random_thumbnails(n)
    thumbnails[b] = thumbnails[a]
    return thumbnails, near_duplicates(thumbnails, np.arange(n))


def test_a_valid_dataset_has_no_findings() -> None:
    thumbnails = random_thumbnails(10)
    pairs = near_duplicates(thumbnails, np.arange(10))
    assert audit_dataset(make_dataset([0, 1] * 5), thumbnails, pairs) == ()


@pytest.mark.parametrize(("largest", "expected"), [(49, []), (50, ["class_imbalance"])])
def test_class_imbalance_is_reported_from_a_ratio_of_10(largest: int, expected: list[str]) -> None:
    assert codes(audit_dataset(make_dataset([0] * largest + [1] * 5))) == expected


def test_only_training_images_count_for_class_sizes() -> None:
    dataset = make_dataset([0] * 5 + [1] * 5 + [0] * 95 + [1] * 5, subsets=("train",) * 10 + ("test",) * 100)
    assert audit_dataset(dataset) == ()


def test_class_sizes_are_not_audited_for_evaluation() -> None:
    dataset = make_dataset([0] * 50 + [1] * 2 + [2])
    assert codes(audit_dataset(dataset)) == ["one_image", "class_imbalance", "few_images"]
    assert audit_dataset(dataset, for_training=False) == ()


def test_serious_findings_come_first() -> None:
    digests = ("0" * 32, "0" * 32, *(f"{i:032x}" for i in range(1, 9)))
    findings = audit_dataset(make_dataset([0] * 7 + [1] * 3, digests=digests))
    assert [(f.code, f.serious) for f in findings] == [("duplicates", True), ("few_images", False)]


def test_the_example_of_a_finding_is_kept_apart_from_its_text() -> None:
    digests = ("f" * 32, *(f"{i:032x}" for i in range(8)), "f" * 32)
    (finding, *_) = audit_dataset(make_dataset([0, 1] * 5, digests=digests))
    assert finding.code == "duplicates_with_different_labels"
    assert "For example" not in finding.text
    assert finding.line() == f"{finding.text} For example 0.jpg is 'a' and 9.jpg 'b'."


def test_near_duplicates_need_thumbnails() -> None:
    dataset = make_dataset([0, 1] * 15)
    assert audit_dataset(dataset) == ()
    (finding,) = audit_dataset(dataset, *one_pair(30, 0, 2))
    assert (finding.code, finding.examples, finding.serious) == ("near_duplicates", ("0.jpg and 2.jpg",), False)


def test_many_near_duplicates_are_serious_and_say_what_a_random_fold_would_tear() -> None:
    pairs = np.array([(i, i + 2) for i in range(0, 40, 4)])  # ten pairs, and twenty others
    (finding,) = audit_dataset(make_dataset([0, 1] * 20), random_thumbnails(40), pairs)
    assert (finding.code, finding.count, finding.serious) == ("near_duplicates", 10, True)
    assert "20 of 40 training images look like another one, in 10 groups" in finding.text
    assert "a random fifth of the images for validation would tear about 3 groups" in finding.text


def test_near_duplicates_across_subsets_say_how_many_test_images_they_concern() -> None:
    subsets = ("train",) * 20 + ("validation",) * 10 + ("test",) * 10
    pairs = np.array([(0, 30), (2, 30), (4, 32), (6, 20), (34, 36), (22, 38)])
    (finding, *_) = audit_dataset(make_dataset([0, 1] * 20, subsets=subsets), random_thumbnails(40), pairs)
    assert (finding.code, finding.count) == ("near_duplicates_across_subsets", 5)
    assert "1 of 10 validation images look like a training image" in finding.text
    assert "2 of 10 test images look like a training image" in finding.text


@pytest.mark.parametrize(("num_test", "serious"), [(100, True), (101, False)])
def test_near_duplicates_across_subsets_are_serious_from_1_percent(num_test: int, serious: bool) -> None:
    n = 10 + num_test
    dataset = make_dataset([i % 2 for i in range(n)], subsets=("train",) * 10 + ("test",) * num_test)
    (finding,) = audit_dataset(dataset, *one_pair(n, 0, 10))
    assert (finding.code, finding.serious) == ("near_duplicates_across_subsets", serious)


def test_too_many_images_are_not_searched_for_near_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_COMPARED", 9)
    (finding,) = audit_dataset(make_dataset([0, 1] * 5), *one_pair(10, 0, 2))
    assert (finding.code, finding.serious, finding.count) == ("near_duplicates_not_searched", False, 10)


# --- the warnings of a loaded dataset


def picture(path: Path, value: int) -> None:
    """Write an image whose bytes are unique to `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 7)).save(path)


def pictures(root: Path, **counts: int) -> None:
    """Write class folders with the given numbers of different images; `train__ants=3` writes train/ants."""
    value = 0
    for name, count in counts.items():
        for i in range(count):
            value += 1
            picture(root / name.replace("__", "/") / f"{i}.png", value)


def copy_image(root: Path, source: str, target: str) -> None:
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    (root / target).write_bytes((root / source).read_bytes())


def imbalanced(root: Path) -> None:
    pictures(root, ants=20, bees=2)


def single_image(root: Path) -> None:
    pictures(root, ants=3, bees=1)


def duplicates(root: Path) -> None:
    pictures(root, ants=3, bees=3)
    copy_image(root, "ants/0.png", "ants/copy.png")


def different_labels(root: Path) -> None:
    pictures(root, ants=3, bees=3)
    copy_image(root, "ants/0.png", "bees/copy.png")


def leakage(root: Path) -> None:
    pictures(root, train__ants=3, train__bees=3, test__bees=1)
    copy_image(root, "train/ants/0.png", "test/ants/copy.png")


def missing_from_validation(root: Path) -> None:
    pictures(root, train__ants=3, train__bees=3, val__bees=2)


@pytest.mark.parametrize(
    ("write", "warning"),
    [
        (imbalanced, "Class imbalance: 'ants' has 20 training images, 'bees' 2"),
        (single_image, "Classes with a single training image: bees"),
        (duplicates, "1 image is duplicated within a subset, byte for byte"),
        (different_labels, "1 image is under different labels, byte for byte"),
        (leakage, "1 image is in several subsets (test, train), byte for byte"),
        (missing_from_validation, "No validation image of ants"),
    ],
)
def test_serious_findings_are_warnings(tmp_path: Path, write: Callable[[Path], None], warning: str) -> None:
    write(tmp_path)
    warnings = load_dataset(str(tmp_path), SOURCES).warnings
    assert [line for line in warnings if line.startswith(warning)], warnings


def test_a_group_in_two_subsets_is_a_warning(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"{i}.png", i)
    rows = "0.png,a,train,p1\n1.png,b,train,p2\n2.png,a,test,p1\n3.png,b,test,p3\n"
    (tmp_path / "labels.csv").write_text("path,label,split,group\n" + rows)
    assert load_dataset(str(tmp_path / "labels.csv"), SOURCES).warnings[-1] == (
        "1 group is in several subsets, 'p1' in test, train: "
        "the score is optimistic because of leakage between subsets."
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1", "01", True), ("1", "1.0", True), ("cat", "cat\u200b", True), ("-1", "1", False), ("v1.0", "v1", False)],
)
def test_names_that_people_take_for_one(one: str, other: str, same: bool) -> None:
    assert (folded(one) == folded(other)) is same
