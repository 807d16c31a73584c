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
    parts: list[str] | None = None,
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
        subsets=tuple(parts or [""] * n),  # type: ignore[arg-type]
        groups=tuple(groups or [""] * n),
    )


def sizes(split: Split) -> tuple[int, int, int]:
    return len(split.train), len(split.validation), len(split.test)


# --- which parts are made


def test_without_parts_a_test_part_is_held_out_first() -> None:
    assert sizes(make_split(dataset([0, 1] * 500), seed=0)) == (640, 160, 200)


def test_without_a_test_part_there_is_more_to_train_on() -> None:
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
def test_given_parts_are_kept_and_others_made(counts: dict[str, int], expected: tuple[int, int, int]) -> None:
    parts = [part for part, count in counts.items() for _ in range(count)]
    split = make_split(dataset([0, 1] * (len(parts) // 2), parts), seed=0)
    assert sizes(split) == expected
    if "test" in counts:
        assert {parts[i] for i in split.test} == {"test"}


def test_a_test_part_stays_unused_where_none_is_wanted() -> None:
    split = make_split(dataset([0, 1] * 50, ["train"] * 80 + ["test"] * 20), seed=0, test="none")
    assert sizes(split) == (64, 16, 0)
    assert split.warnings == ("20 test images are left unused (--test none).",)


def test_fractions_can_be_chosen() -> None:
    split = make_split(dataset([0, 1] * 500), seed=0, validation_fraction=0.1, test_fraction=0.3)
    assert sizes(split) == (630, 70, 300)


# --- how they are made


def test_parts_have_the_classes_in_proportion() -> None:
    labels = np.array([0] * 600 + [1] * 300 + [2] * 100)
    split = make_split(dataset(labels), seed=3)
    for part in (split.train, split.validation, split.test):
        assert np.abs(np.bincount(labels[part]) / len(part) - [0.6, 0.3, 0.1]).max() < 0.01


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
    parts = [set(groups[part]) for part in (split.train, split.validation, split.test)]
    assert sum(map(len, parts)) == 100  # each group is in one part
    assert 0.15 < len(split.test) / len(groups) < 0.25
    assert abs(labels[split.test].mean() - labels.mean()) < 0.08


def test_a_class_with_one_image_is_trained_on_and_said() -> None:
    split = make_split(dataset([0] * 20 + [1] * 20 + [2]), seed=0)
    assert 40 in split.train
    assert split.warnings == ("Only one image to train on, so none to check with: class 2.",)


def test_a_class_with_one_group_is_trained_on_and_said() -> None:
    groups = [f"p{i // 4}" for i in range(40)] + ["lonely"] * 4
    split = make_split(dataset([i // 4 % 2 for i in range(40)] + [2] * 4, groups=groups), seed=0)
    assert {40, 41, 42, 43} <= set(split.train.tolist())
    assert "Only one group to train on, so none to check with: class 2." in split.warnings


def test_a_class_with_too_few_images_for_every_part_is_said() -> None:
    split = make_split(dataset([0] * 200 + [1, 1]), seed=0)
    assert split.warnings == (
        "No test image of class 1: too few images. The test score says nothing about it.",
        "No validation image of class 1: too few images. The validation score says nothing about it.",
    )


def test_every_class_of_a_small_dataset_is_in_every_part() -> None:
    labels = np.repeat(np.arange(10), 3)
    split = make_split(dataset(labels), seed=0)
    assert all(set(labels[part]) == set(range(10)) for part in (split.train, split.validation, split.test))


# --- what can't be split


def test_two_images_cannot_be_split_and_the_remedy_is_said() -> None:
    with pytest.raises(DataError, match=r"no image of any class can be spared for the test part.*--test none"):
        make_split(dataset([0, 1]), seed=0)


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="no group of any class can be spared for the validation part"):
        make_split(dataset([0, 1] * 10, groups=["p"] * 20), seed=0, test="none")


def test_no_image_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="no images to train on"):
        make_split(dataset([0, 1], ["test", "validation"]), seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1])
def test_a_fraction_that_is_none_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="validation fraction is between 0 and 1"):
        make_split(dataset([0, 1] * 10), seed=0, validation_fraction=fraction)


# --- whatever the data


@st.composite
def any_dataset(draw: st.DrawFn) -> ImageDataset:
    n = draw(st.integers(2, 60))
    rows = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    copies = draw(st.lists(st.integers(0, n), min_size=n, max_size=n))
    groups = draw(st.one_of(st.just([""] * n), st.lists(st.sampled_from(["", *"pqrstuvw"]), min_size=n, max_size=n)))
    parts = draw(st.sampled_from([["", ""], ["train", "test"], ["train", "validation"]]))
    return dataset(
        draw(rows),
        [parts[i % 5 == 4] for i in range(n)],
        groups,
        [f"{copy if draw(st.booleans()) else i + 1000:032x}" for i, copy in enumerate(copies)],
    )


@settings(max_examples=150, deadline=None)
@given(data=any_dataset(), seed=st.integers(0, 2**33), test=st.sampled_from(["auto", "none"]))
def test_a_split_is_complete_and_leaks_nothing(data: ImageDataset, seed: int, test: str) -> None:
    try:
        split = make_split(data, seed, test)  # type: ignore[arg-type]
    except DataError:
        trained = [i for i, part in enumerate(data.subsets) if part in ("", "train")]
        copies = Counter(data.digests[i] for i in trained)
        free = Counter(int(data.labels[i]) for i in trained if copies[data.digests[i]] == 1)
        assert any(data.groups) or not free or max(free.values()) < 3  # three images make three parts
        return
    rows = np.concatenate([split.train, split.validation, split.test])
    assert len(rows) == len(set(rows.tolist()))
    if test == "auto":
        assert sorted(rows.tolist()) == list(range(len(data)))
    assert len(split.train)
    assert len(split.validation)
    trained = [i for i, part in enumerate(data.subsets) if part in ("", "train")]
    assert set(data.labels[trained]) == set(data.labels[split.train])  # no class loses all of its images
    where = {int(i): part for part, indices in enumerate((split.train, split.validation, split.test)) for i in indices}
    for values in (data.digests, data.groups):  # what we split, we split without tearing copies and groups
        homes: dict[str, set[int]] = {}
        for i in trained:
            if values[i] and i in where:
                homes.setdefault(values[i], set()).add(where[i])
        assert all(len(parts) == 1 for parts in homes.values())


def test_a_large_dataset_splits_quickly() -> None:
    labels = np.arange(100_000) % 7
    start = time.process_time()
    make_split(dataset(labels, digests=[f"{i // 2 * 2 if i < 50 else i:032x}" for i in range(100_000)]), seed=0)
    assert time.process_time() - start < 10
