"""The elpv dataset: its images, the labels made from the experts' probabilities, and the fixed split."""

import subprocess
import sys
from collections import Counter

import autotl_elpv
import pytest
from autotl_elpv import Elpv, autotl_register_datasets
from PIL import Image

from autotl.data.dataset import LabelledImage
from autotl.errors import DataError
from autotl.testing import Check, dataset_checks, plugin_checks


def sources() -> dict[str, Elpv]:
    registered: list[Elpv] = []
    autotl_register_datasets(register=registered.append)
    return {source.name: source for source in registered}


@plugin_checks
def test_the_plugin_meets_its_contract(check: Check) -> None:
    check("elpv")


@dataset_checks
@pytest.mark.parametrize("name", ["elpv", "elpv4"])
def test_the_dataset_sources_meet_their_contract(check: Check, name: str) -> None:
    check(sources()[name])


@pytest.fixture(scope="module")
def elpv() -> list[LabelledImage]:
    return sources()["elpv"].images("elpv")


@pytest.fixture(scope="module")
def elpv4() -> list[LabelledImage]:
    return sources()["elpv4"].images("elpv4")


def test_every_image_is_listed_once(elpv: list[LabelledImage]) -> None:
    assert len({image.path for image in elpv}) == len(elpv) == 2624
    assert all(image.path.is_file() for image in elpv)


def test_images_are_grey_and_300_pixels_wide(elpv: list[LabelledImage]) -> None:
    with Image.open(elpv[0].path) as image:
        assert (image.size, image.mode) == ((300, 300), "L")


def test_the_two_classes_are_divided_at_probability_one_half(elpv: list[LabelledImage]) -> None:
    assert Counter(image.label for image in elpv) == {"functional": 1803, "defective": 821}


def test_the_four_classes_are_the_four_probabilities(elpv4: list[LabelledImage]) -> None:
    assert Counter(image.label for image in elpv4) == {
        "functional": 1508,
        "probably functional": 295,
        "probably defective": 106,
        "defective": 715,
    }


def test_three_quarters_are_training_and_one_quarter_test_images(elpv: list[LabelledImage]) -> None:
    assert Counter(image.subset for image in elpv) == {"train": 1968, "test": 656}


def test_the_split_is_the_same_for_both_datasets_and_every_time(
    elpv: list[LabelledImage], elpv4: list[LabelledImage]
) -> None:
    again = sources()["elpv"].images("elpv")
    assert again == elpv
    assert [image.subset for image in elpv4] == [image.subset for image in elpv]


def test_the_split_is_the_one_of_the_published_scores(elpv: list[LabelledImage]) -> None:
    cells = [int(image.path.stem.removeprefix("cell")) for image in elpv if image.subset == "test"]
    assert cells[:12] == [1, 7, 8, 10, 15, 21, 25, 32, 34, 37, 41, 42]
    assert sum(cells) == 849_212


def test_the_test_subset_is_stratified(elpv4: list[LabelledImage]) -> None:
    whole = Counter(image.label for image in elpv4)
    in_test = Counter(image.label for image in elpv4 if image.subset == "test")
    assert all(in_test[label] == pytest.approx(whole[label] / 4, abs=1.5) for label in whole)


def test_a_source_matches_only_its_name() -> None:
    assert [name for name, source in sources().items() if source.matches("elpv")] == ["elpv"]
    assert not any(source.matches("photos/elpv") for source in sources().values())


def test_the_error_for_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotl_elpv, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        sources()["elpv"].images("elpv")


def test_registering_imports_neither_sklearn_nor_the_package() -> None:
    script = (
        "import sys, autotl_elpv\n"
        "autotl_elpv.autotl_register_datasets(lambda source: None)\n"
        "print({'sklearn', 'elpv_dataset', 'torch'} & set(sys.modules))"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "set()"
