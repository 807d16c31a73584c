"""Folds of the images that aren't test images."""

import numpy as np

from autotl.data.folds import ALWAYS_TRAINED, draw_folds
from autotl.data.splits import Split


def test_every_fold_has_all_classes_in_proportion():
    labels = np.repeat([0, 1, 2], [300, 200, 100])
    held_out = np.arange(600) % 5 == 0
    folds = draw_folds(labels, np.arange(600), held_out, seed=3)
    counts = [np.bincount(labels[~held_out][folds == fold]).tolist() for fold in range(1, 5)]
    assert counts == [[60, 40, 20]] * 4
    assert (folds == draw_folds(labels, np.arange(600), held_out, seed=3)).all()


def test_few_images_get_more_folds():
    labels = np.arange(200) % 2
    assert draw_folds(labels, np.arange(200), np.arange(200) < 40, seed=0).max() == 7


def test_units_stay_in_one_fold_and_apart_from_the_validation_images():
    units, labels = np.arange(600) // 3, np.arange(600) // 3 % 2
    held_out = np.arange(600) < 101  # the unit of images 99 to 101 is on both sides
    folds = draw_folds(labels, units, held_out, seed=0)
    of_unit = {unit: set(folds[units[~held_out] == unit].tolist()) for unit in range(33, 200)}
    assert of_unit.pop(33) == {ALWAYS_TRAINED}
    assert {len(values) for values in of_unit.values()} == {1}
    assert set().union(*of_unit.values()) == {1, 2, 3, 4}


def test_a_class_that_only_one_fold_has_is_always_trained():
    labels = np.array([0] * 20 + [1] * 20 + [2])
    folds = draw_folds(labels, np.arange(41), np.arange(41) % 5 == 1, seed=0)
    assert folds[-1] == ALWAYS_TRAINED
    assert (folds[:-1] > 0).all()


def test_the_unit_of_a_class_that_only_one_fold_has_is_always_trained():
    labels = np.array([0] * 20 + [1] * 20 + [2, 0, 1])
    units = np.array([*range(40), 40, 40, 40])
    folds = draw_folds(labels, units, units % 5 == 1, seed=0)
    assert folds[-3:].tolist() == [ALWAYS_TRAINED] * 3


def test_no_fold_is_empty_where_all_images_of_one_are_always_trained():
    # of two groups for two classes, each is a class's only one, and the third fold's images are of both
    labels, units = np.array([0] * 4 + [0, 1] * 4 + [2] * 6), np.array([0] * 4 + [1, 1, 2, 2, 3, 3, 4, 4] + [5] * 6)
    for seed in range(20):
        folds = draw_folds(labels, units, np.arange(18) < 4, seed)
        assert set(folds[folds > 0]) == set(range(1, folds.max() + 1)), seed


def test_images_of_one_unit_leave_the_validation_images_as_the_only_fold():
    folds = draw_folds(np.arange(20) % 2, np.repeat([0, 1], 10), np.arange(20) < 10, seed=0)
    assert (folds == ALWAYS_TRAINED).all()


def test_many_validation_images_need_no_folds():
    folds = draw_folds(np.arange(30_000) % 2, np.arange(30_000), np.arange(30_000) < 10_000, seed=0)
    assert (folds == ALWAYS_TRAINED).all()


def test_a_split_holds_out_each_of_its_folds():
    split = Split(np.array([1, 3, 4, 6]), np.array([0, 5]), np.array([2]), 0, folds=np.array([1, 2, -1, 1]))
    assert split.development.tolist() == [0, 1, 3, 4, 5, 6]
    assert split.development_folds.tolist() == [0, 1, 2, -1, 0, 1]
    assert split.num_folds == 3
    assert [split.of_fold(fold).validation.tolist() for fold in range(3)] == [[0, 5], [1, 6], [3]]
    assert split.of_fold(1).train.tolist() == [0, 3, 4, 5]
    assert split.of_fold(0).train.tolist() == split.train.tolist()
    assert Split(split.train, split.validation, split.test, 0).num_folds == 1
