"""Which files are predicted, which classes are told, and what the CSV holds."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from autotl.errors import AutotlError
from autotl.model.file_prediction import CsvFile, best_classes, find_images, more_than, take_device


def test_a_folder_gives_its_images_by_name_and_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    found = list(find_images([tmp_path, tmp_path / "notes.txt"]))
    assert found == [tmp_path / name for name in ("a.webp", "b/1.png", "b/2.JPG", "notes.txt")]


def test_a_link_that_leads_back_up_ends(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "again").symlink_to(tmp_path)
    assert list(find_images([tmp_path])) == [tmp_path / "1.png"]


def test_a_missing_place_is_told_before_anything_is_predicted(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="There is no file or folder"):
        find_images([tmp_path, tmp_path / "nowhere"])


def test_the_most_probable_classes_come_first() -> None:
    assert best_classes(np.array([0.1, 0.7, 0.2]), ["a", "b", "c"], 2) == [("b", 0.7), ("c", 0.2)]


def test_a_csv_has_a_pair_of_columns_for_each_class_told(tmp_path: Path) -> None:
    with CsvFile(tmp_path / "out.csv", 2) as out:
        out.write(Path("a, b.png"), [("cat", 0.75), ("dog", 0.25)])
    rows = list(csv.reader((tmp_path / "out.csv").open()))
    assert rows == [
        ["path", "label", "probability", "label2", "probability2"],
        ["a, b.png", "cat", "0.750000", "dog", "0.250000"],
    ]


def test_a_csv_that_was_broken_off_does_not_take_the_name(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), CsvFile(tmp_path / "out.csv", 1):
        raise RuntimeError
    assert not (tmp_path / "out.csv").exists()


def test_a_csv_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="can't be written"):
        CsvFile(tmp_path / "nowhere" / "out.csv", 1)


def test_a_stream_is_looked_at_no_further_than_needed() -> None:
    asked: list[int] = []

    def images() -> Iterator[Path]:
        for number in range(100):
            asked.append(number)
            yield Path(str(number))

    many, same = more_than(3, images())
    assert (many, len(asked)) == (True, 4)
    assert [path.name for path in same] == [str(number) for number in range(100)]


def test_few_images_are_few() -> None:
    many, same = more_than(3, iter([Path("a"), Path("b"), Path("c")]))
    assert (many, len(list(same))) == (False, 3)


def test_the_cpu_is_taken_by_its_name() -> None:
    assert take_device("cpu*2") == "cpu"
