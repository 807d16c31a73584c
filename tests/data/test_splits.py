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
    lookalikes: list[int] | np.ndarray | None = None,
    times: list[float | None] | np.ndarray | None = None,
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
        lookalikes=() if lookalikes is None else tuple(map(int, lookalikes)),
        times=() if times is None else tuple(times),
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


# --- near-duplicates


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.1, 0.45, 1.0])
def test_near_duplicates_stay_together_and_sizes_and_classes_in_proportion(share: float) -> None:
    copied = np.arange(round(200 * share))
    lookalikes = np.concatenate([np.arange(200), copied])
    labels = lookalikes % 2
    split = make_split(dataset(labels, lookalikes=lookalikes), seed=0)
    subsets = [set(lookalikes[subset]) for subset in (split.train, split.validation, split.test)]
    assert sum(map(len, subsets)) == 200
    assert 0.15 < len(split.test) / len(labels) < 0.25
    assert abs(labels[split.test].mean() - 0.5) < 0.1
    assert not split.warnings


def test_near_duplicates_of_different_sizes_stay_together() -> None:
    """As six exposures of each tile, or films of 1 to 30 frames."""
    rng = np.random.default_rng(0)
    lookalikes = np.repeat(np.arange(120), rng.integers(1, 31, 120))
    split = make_split(dataset(lookalikes % 3, lookalikes=lookalikes), seed=1)
    subsets = [set(lookalikes[subset]) for subset in (split.train, split.validation, split.test)]
    assert sum(map(len, subsets)) == 120
    assert 0.17 < len(split.test) / len(lookalikes) < 0.23


@pytest.mark.slow
def test_chains_of_groups_digests_and_looks_stay_together() -> None:
    labels = [0, 1] * 30
    lookalikes = list(range(60))
    lookalikes[1] = 0
    groups = [""] * 60
    groups[1] = groups[2] = "p"
    digests = [f"{i:032x}" for i in range(60)]
    digests[3] = digests[2]
    for seed in range(10):
        split = make_split(dataset(labels, groups=groups, digests=digests, lookalikes=lookalikes), seed)
        assert any({0, 1, 2, 3} <= set(subset.tolist()) for subset in (split.train, split.validation, split.test))


def test_a_class_of_lookalikes_alone_is_split_at_random_with_a_warning() -> None:
    lookalikes = [*range(50), *[50] * 20]
    split = make_split(dataset([0] * 50 + [1] * 20, lookalikes=lookalikes), seed=0)
    assert all(1 in split_labels for split_labels in (split.train >= 50, split.validation >= 50, split.test >= 50))
    (warning,) = split.warnings
    assert warning.startswith("Nearly all images of one class look the same: class 1.")


# --- forward in time


def test_the_latest_images_are_for_testing_and_those_before_for_validation() -> None:
    times = np.random.default_rng(0).permutation(1000).astype(float)
    split = make_split(dataset([0, 1] * 500, times=times), seed=0)
    assert sizes(split) == (640, 160, 200)
    assert times[split.train].max() < times[split.validation].min()
    assert times[split.validation].max() < times[split.test].min()


def test_validation_is_forward_in_time_before_a_given_test_subset() -> None:
    times = [float(i) for i in range(100)] + [None] * 20
    split = make_split(dataset([0, 1] * 60, ["train"] * 100 + ["test"] * 20, times=times), seed=0)
    assert split.validation.tolist() == list(range(80, 100))
    assert split.test.tolist() == list(range(100, 120))


def test_images_of_one_time_and_of_one_group_stay_together_in_time() -> None:
    times = [float(i // 30) for i in range(300)]
    groups = [""] * 300
    groups[5] = groups[299] = "a patient who comes again"
    split = make_split(dataset([0, 1] * 150, groups=groups, times=times), seed=0)
    assert split.test.tolist() == [5, *range(240, 300)]
    assert split.validation.tolist() == list(range(180, 240))


def test_a_class_that_begins_late_keeps_its_earliest_image_for_training() -> None:
    split = make_split(dataset([0] * 90 + [1] * 10, times=[float(i) for i in range(100)]), seed=0)
    assert 90 in split.train
    assert split.test.tolist() == [*range(80, 90), *range(91, 100)]
    assert split.warnings == (
        "Classes that begin with the test images, whose earliest image is for training: class 1.",
        "No validation image of class 1: none is as late. The validation score doesn't cover every class.",
    )


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0] * 20, "All images to split, or groups of them, have one time: no test subset is later"),
        ([None] + [1.0] * 19, r"1 of 20 images to split have no time, for example 0\.jpg"),
    ],
)
def test_times_that_cannot_be_split_are_an_error(times: list[float | None], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_split(dataset([0, 1] * 10, times=times), seed=0)


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_large_dataset_splits_quickly() -> None:
    labels = np.arange(100_000) % 7
    start = time.process_time()
    make_split(dataset(labels, digests=[f"{i // 2 * 2 if i < 50 else i:032x}" for i in range(100_000)]), seed=0)
    assert time.process_time() - start < 10
