"""The elpv data set: every image once, labels from the experts' probabilities, and the fixed split."""

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
    found: list[Elpv] = []
    autotl_register_datasets(register=found.append)
    return {source.name: source for source in found}


@plugin_checks
def test_the_plugin_keeps_the_contract(check: Check) -> None:
    check("elpv")


@dataset_checks
@pytest.mark.parametrize("name", ["elpv", "elpv4"])
def test_its_data_sets_keep_the_contract(check: Check, name: str) -> None:
    check(sources()[name])


@pytest.fixture(scope="module")
def elpv() -> list[LabelledImage]:
    return sources()["elpv"].images("elpv")


@pytest.fixture(scope="module")
def elpv4() -> list[LabelledImage]:
    return sources()["elpv4"].images("elpv4")


def test_every_image_is_there_once(elpv: list[LabelledImage]) -> None:
    assert len({image.path for image in elpv}) == len(elpv) == 2624
    assert all(image.path.is_file() for image in elpv)


def test_an_image_is_a_grey_cell_of_300_pixels(elpv: list[LabelledImage]) -> None:
    with Image.open(elpv[0].path) as image:
        assert (image.size, image.mode) == ((300, 300), "L")


def test_two_classes_are_cut_at_a_half(elpv: list[LabelledImage]) -> None:
    assert Counter(image.label for image in elpv) == {"functional": 1803, "defective": 821}


def test_four_classes_are_the_experts_judgements(elpv4: list[LabelledImage]) -> None:
    assert Counter(image.label for image in elpv4) == {
        "functional": 1508,
        "probably functional": 295,
        "probably defective": 106,
        "defective": 715,
    }


def test_three_quarters_train_and_one_tests(elpv: list[LabelledImage]) -> None:
    assert Counter(image.subset for image in elpv) == {"train": 1968, "test": 656}


def test_the_split_is_the_same_for_both_and_every_time(elpv: list[LabelledImage], elpv4: list[LabelledImage]) -> None:
    again = sources()["elpv"].images("elpv")
    assert again == elpv
    assert [image.subset for image in elpv4] == [image.subset for image in elpv]


def test_the_split_is_the_one_that_published_scores_were_made_with(elpv: list[LabelledImage]) -> None:
    cells = [int(image.path.stem.removeprefix("cell")) for image in elpv if image.subset == "test"]
    assert cells[:12] == [1, 7, 8, 10, 15, 21, 25, 32, 34, 37, 41, 42]
    assert sum(cells) == 849_212


def test_each_judgement_has_its_share_of_the_test_part(elpv4: list[LabelledImage]) -> None:
    whole = Counter(image.label for image in elpv4)
    tests = Counter(image.label for image in elpv4 if image.subset == "test")
    assert all(tests[label] == pytest.approx(whole[label] / 4, abs=1.5) for label in whole)


def test_only_its_own_name_is_its_own() -> None:
    assert [name for name, source in sources().items() if source.matches("elpv")] == ["elpv"]
    assert not any(source.matches("photos/elpv") for source in sources().values())


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotl_elpv, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install elpv-dataset"):
        sources()["elpv"].images("elpv")


def test_registering_imports_neither_sklearn_nor_the_package() -> None:
    script = (
        "import sys, autotl_elpv\n"
        "autotl_elpv.autotl_register_datasets(lambda source: None)\n"
        "print({'sklearn', 'elpv_dataset', 'torch'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"
