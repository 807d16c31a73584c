"""`make_split`: which subsets are drawn, stratification, groups and duplicates, and errors."""

import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotl.data.dataset import ImageDataset
from autotl.data.splits import Split, make_split
from autotl.errors import DataError


def dataset(
    labels: list[int] | np.ndarray,
    subsets: list[str] | None = None,
    groups: list[str] | None = None,
    digests: list[str] | None = None,
) -> ImageDataset:
    labels = np.asarray(labels, dtype=np.int64)
    n = len(labels)
    return ImageDataset(
        name="d",
        classes=tuple(f"class {c}" for c in range(labels.max() + 1)),
        paths=tuple(Path(f"{i}.jpg") for i in range(n)),
        labels=labels,
        digests=tuple(digests or (f"{i:032x}" for i in range(n))),
        subsets=tuple(subsets or [""] * n),  # type: ignore[arg-type]
        groups=tuple(groups or [""] * n),
    )


def sizes(split: Split) -> tuple[int, int, int]:
    return len(split.train), len(split.validation), len(split.test)


# --- which subsets are drawn


def test_without_subsets_a_test_subset_is_held_out_first() -> None:
    assert sizes(make_split(dataset([0, 1] * 500), seed=0)) == (640, 160, 200)


def test_without_a_test_subset_there_is_more_to_train_on() -> None:
    assert sizes(make_split(dataset([0, 1] * 500), seed=0, test="none")) == (800, 200, 0)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"train": 100, "validation": 30, "test": 40}, (100, 30, 40)),
        ({"train": 100, "test": 40}, (80, 20, 40)),
        ({"": 100, "test": 40}, (80, 20, 40)),
        ({"train": 100, "validation": 30}, (100, 30, 0)),
        ({"train": 100}, (64, 16, 20)),
    ],
    ids=str,
)
def test_given_subsets_are_kept_and_missing_ones_drawn(counts: dict[str, int], expected: tuple[int, int, int]) -> None:
    subsets = [subset for subset, count in counts.items() for _ in range(count)]
    split = make_split(dataset([0, 1] * (len(subsets) // 2), subsets), seed=0)
    assert sizes(split) == expected
    if "test" in counts:
        assert {subsets[i] for i in split.test} == {"test"}


def test_a_given_test_subset_is_unused_with_test_none() -> None:
    split = make_split(dataset([0, 1] * 50, ["train"] * 80 + ["test"] * 20), seed=0, test="none")
    assert sizes(split) == (64, 16, 0)
    assert split.warnings == ("20 test images are unused (--test none).",)


def test_fractions_can_be_chosen() -> None:
    split = make_split(dataset([0, 1] * 500), seed=0, validation_fraction=0.1, test_fraction=0.3)
    assert sizes(split) == (630, 70, 300)


# --- how they are drawn


def test_subsets_have_the_classes_in_proportion() -> None:
    labels = np.array([0] * 600 + [1] * 300 + [2] * 100)
    split = make_split(dataset(labels), seed=3)
    for subset in (split.train, split.validation, split.test):
        assert np.abs(np.bincount(labels[subset]) / len(subset) - [0.6, 0.3, 0.1]).max() < 0.01


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    data = dataset([0, 1, 2] * 50)
    one, again, other = (make_split(data, seed) for seed in (1, 1, 2))
    assert one.to_dict() == again.to_dict()
    assert one.test.tolist() != other.test.tolist()


def test_a_split_goes_through_json() -> None:
    split = make_split(dataset([0] * 30 + [1] * 30 + [2]), seed=5)
    back = Split.from_dict(json.loads(json.dumps(split.to_dict())))
    assert back.to_dict() == split.to_dict()
    assert back.train.dtype == np.int64
    assert back.warnings


def test_groups_stay_whole_and_classes_in_proportion() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), rng.integers(2, 12, 100))
    labels = (groups % 3 == 0).astype(int)
    split = make_split(dataset(labels, groups=[f"p{g}" for g in groups]), seed=0)
    subsets = [set(groups[subset]) for subset in (split.train, split.validation, split.test)]
    assert sum(map(len, subsets)) == 100  # each group is in one subset
    assert 0.15 < len(split.test) / len(groups) < 0.25
    assert abs(labels[split.test].mean() - labels.mean()) < 0.08


def test_the_only_image_of_a_class_is_a_training_image() -> None:
    split = make_split(dataset([0] * 20 + [1] * 20 + [2]), seed=0)
    assert 40 in split.train
    assert split.warnings == ("Classes with a single training image, and none for validation or testing: class 2.",)


def test_the_only_group_of_a_class_is_a_training_group() -> None:
    groups = [f"p{i // 4}" for i in range(40)] + ["lonely"] * 4
    split = make_split(dataset([i // 4 % 2 for i in range(40)] + [2] * 4, groups=groups), seed=0)
    assert {40, 41, 42, 43} <= set(split.train.tolist())
    assert "Classes with a single training group, and none for validation or testing: class 2." in split.warnings


def test_a_class_with_too_few_images_for_every_subset_is_a_warning() -> None:
    split = make_split(dataset([0] * 200 + [1, 1]), seed=0)
    assert split.warnings == (
        "No test image of class 1: too few images. The test score doesn't cover every class.",
        "No validation image of class 1: too few images. The validation score doesn't cover every class.",
    )


def test_every_class_of_a_small_dataset_is_in_every_part() -> None:
    labels = np.repeat(np.arange(10), 3)
    split = make_split(dataset(labels), seed=0)
    assert all(set(labels[subset]) == set(range(10)) for subset in (split.train, split.validation, split.test))


# --- errors


def test_the_error_for_two_images_names_a_remedy() -> None:
    with pytest.raises(DataError, match=r"too few images to hold out a test subset.*--test none"):
        make_split(dataset([0, 1]), seed=0)


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="too few groups to hold out a validation subset"):
        make_split(dataset([0, 1] * 10, groups=["p"] * 20), seed=0, test="none")


def test_a_dataset_without_training_images_is_an_error() -> None:
    with pytest.raises(DataError, match="no training images"):
        make_split(dataset([0, 1], ["test", "validation"]), seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_outside_0_and_1_is_an_error(fraction: float) -> None:
    with pytest.raises(DataError, match="validation fraction must be between 0 and 1"):
        make_split(dataset([0, 1] * 10), seed=0, validation_fraction=fraction)


# --- properties that hold for any dataset


@st.composite
def any_dataset(draw: st.DrawFn) -> ImageDataset:
    n = draw(st.integers(2, 60))
    labels = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    copies = draw(st.lists(st.integers(0, n), min_size=n, max_size=n))
    groups = draw(st.one_of(st.just([""] * n), st.lists(st.sampled_from(["", *"pqrstuvw"]), min_size=n, max_size=n)))
    subsets = draw(st.sampled_from([["", ""], ["train", "test"], ["train", "validation"]]))
    return dataset(
        draw(labels),
        [subsets[i % 5 == 4] for i in range(n)],
        groups,
        [f"{copy if draw(st.booleans()) else i + 1000:032x}" for i, copy in enumerate(copies)],
    )


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=any_dataset(), seed=st.integers(0, 2**33), test=st.sampled_from(["auto", "none"]))
def test_a_split_is_complete_and_without_leakage(data: ImageDataset, seed: int, test: str) -> None:
    try:
        split = make_split(data, seed, test)  # type: ignore[arg-type]
    except DataError:
        trained = [i for i, subset in enumerate(data.subsets) if subset in ("", "train")]
        copies = Counter(data.digests[i] for i in trained)
        free = Counter(int(data.labels[i]) for i in trained if copies[data.digests[i]] == 1)
        assert any(data.groups) or not free or max(free.values()) < 3  # three images are enough for three subsets
        return
    indices = np.concatenate([split.train, split.validation, split.test])
    assert len(indices) == len(set(indices.tolist()))
    if test == "auto":
        assert sorted(indices.tolist()) == list(range(len(data)))
    assert len(split.train)
    assert len(split.validation)
    trained = [i for i, subset in enumerate(data.subsets) if subset in ("", "train")]
    assert set(data.labels[trained]) == set(data.labels[split.train])  # no class loses all of its images
    subset_of = {int(i): n for n, subset in enumerate((split.train, split.validation, split.test)) for i in subset}
    for values in (data.digests, data.groups):  # duplicates and groups stay together in the subsets that are drawn
        subsets_of: dict[str, set[int]] = {}
        for i in trained:
            if values[i] and i in subset_of:
                subsets_of.setdefault(values[i], set()).add(subset_of[i])
        assert all(len(subsets) == 1 for subsets in subsets_of.values())


def test_a_large_dataset_splits_quickly() -> None:
    labels = np.arange(100_000) % 7
    start = time.process_time()
    make_split(dataset(labels, digests=[f"{i // 2 * 2 if i < 50 else i:032x}" for i in range(100_000)]), seed=0)
    assert time.process_time() - start < 10
