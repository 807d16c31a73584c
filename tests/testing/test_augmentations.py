"""Each check of an augmentation, a loss and feature levels finds its violation; the built-in ones have none."""

import random

import pytest
import torch
from torch.nn.functional import cross_entropy

from autotl.backbones.levels import BUILT_IN as LEVELS
from autotl.backbones.levels import Levels
from autotl.data.augmentation import BUILT_IN as AUGMENTATIONS
from autotl.data.augmentation import Augmentation
from autotl.strategies.losses import BUILT_IN as LOSSES
from autotl.strategies.losses import Loss


class Valid(Augmentation):
    name = "valid"

    def draw(self, image, digest, number):
        return image.rotate(1 + self.seed(digest, number) % 300)


class NamedNone(Valid):
    name = "none"


class WithoutViews(Valid):
    max_views = 0


class InRgb(Valid):
    def draw(self, image, digest, number):
        return super().draw(image, digest, number).convert("RGB")


class Changing(Valid):
    def draw(self, image, digest, number):
        image.putpixel((0, 0), 0)
        image.paste(0, (0, 0, 2, 2))
        return image.copy()


class Seedless(Valid):
    def draw(self, image, digest, number):
        return image.rotate(random.uniform(1, 300))


class Idle(Valid):
    def draw(self, image, digest, number):
        return image.copy()


@pytest.mark.parametrize(
    ("augmentation", "check", "got"),
    [
        (NamedNone, "is_described", "name is 'none'"),
        (WithoutViews, "is_described", "max_views is 0"),
        (InRgb, "draws_images_of_the_same_mode", "of mode L has mode RGB"),
        (Changing, "draws_images_of_the_same_mode", "draw changed the original"),
        (Seedless, "is_the_same_in_every_thread", "take all that is random from self.seed"),
        (Idle, "changes_the_image", "all views are the original"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_augmentation_that_violates_its_contract(augmentation, check, got, violation):
    assert got in violation("augmentation", check, augmentation())


def mean(logits, labels, class_weight, label_smoothing):
    return cross_entropy(logits, labels)


def relative(logits, labels, class_weight, label_smoothing):
    losses = cross_entropy(logits, labels, reduction="none")
    return losses / losses.sum()


def logarithm(logits, labels, class_weight, label_smoothing):
    return -torch.log(logits.softmax(1).gather(1, labels[:, None])[:, 0])


def upwards(logits, labels, class_weight, label_smoothing):
    return -cross_entropy(logits, labels, reduction="none")


@pytest.mark.parametrize(
    ("compute", "check", "got"),
    [
        (mean, "is_a_finite_number_for_each_sample", "for 8 samples the shape is []"),
        (logarithm, "is_a_finite_number_for_each_sample", "values that aren't finite"),
        (relative, "does_not_depend_on_the_other_samples", "in batches of two the values differ"),
        (upwards, "its_gradient_leads_to_the_right_class", "the probability of the right class went from"),
    ],
)
def test_a_loss_that_violates_its_contract(compute, check, got, violation):
    assert got in violation("loss", check, Loss("wrong", compute))


def test_levels_of_the_same_parts_as_built_in_ones_violate_their_contract(violation):
    twin = Levels("twin", ("means", "output"))
    assert "['stages'] have the same parts" in violation("levels", "choose_what_no_built_in_levels_do", twin)


def test_valid_and_built_in_ones_have_no_violations(violations):
    assert violations("augmentation", Valid()) == {}
    for component, built_in in (("augmentation", AUGMENTATIONS), ("loss", LOSSES), ("levels", LEVELS)):
        for added in built_in.values():
            assert violations(component, added) == {}
