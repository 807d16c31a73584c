"""Each check of a dataset source detects its violation."""

import pytest

from autotl.data.dataset import DatasetSource, LabelledImage


class Listed(DatasetSource):
    name = "listed"

    def __init__(self, images, greedy=False):
        self.listed, self.greedy = images, greedy

    def matches(self, location):
        return self.greedy or location == self.name

    def images(self, location):
        return list(self.listed)


@pytest.fixture
def images(cells):
    return [LabelledImage(path, path.parent.name) for path in sorted(cells.glob("*/*.png"))]


def test_a_valid_source_has_no_violations(images, violations):
    assert violations("dataset", Listed(images)) == {}


def test_a_source_that_matches_every_location(images, violation):
    got = violation("dataset", "matches_only_its_own_locations", Listed(images, greedy=True))
    assert "'no/such/location.at.all') is True" in got


@pytest.mark.parametrize(
    ("change", "check", "got"),
    [
        (
            lambda images, folder: [*images, LabelledImage(folder / "gone.png", "x")],
            "lists_labelled_images",
            "1 of 121 files",
        ),
        (lambda images, folder: [*images, images[0]], "lists_labelled_images", "1 files are listed more than once"),
        (lambda images, folder: images[:5], "lists_labelled_images", "all images have the label 'defective'"),
        (
            lambda images, folder: [*images[1:], LabelledImage(images[0].path, images[0].label, "holdout")],
            "lists_labelled_images",
            "is in subset 'holdout'",
        ),
        (
            lambda images, folder: [
                LabelledImage(images[0].path, "a", "train", "patient 1"),
                LabelledImage(images[1].path, "b", "test", "patient 1"),
            ],
            "groups_stay_in_one_subset",
            "1 groups are in several subsets: ['patient 1']",
        ),
        (
            lambda images, folder: [LabelledImage(folder / "text.png", "x"), *images],
            "images_can_be_loaded",
            "text.png",
        ),
    ],
    ids=["missing file", "duplicate", "one label", "unknown subset", "group in two subsets", "not an image"],
)
def test_a_source_that_violates_its_contract(change, check, got, images, tmp_path, violation):
    (tmp_path / "text.png").write_text("not an image")
    assert got in violation("dataset", check, Listed(change(images, tmp_path)))


def test_a_source_whose_order_changes(images, violation):
    class Shuffled(Listed):
        def images(self, location):
            self.listed = self.listed[1:] + self.listed[:1]
            return list(self.listed)

    assert violation("dataset", "lists_the_same_images_each_time", Shuffled(images))
