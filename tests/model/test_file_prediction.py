"""Files to predict, the most probable classes, and the CSV file."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotl.data.file_listing import FileListing
from autotl.errors import AutotlError
from autotl.model.file_prediction import CsvFile, best_classes, find_images, more_than, require_target, unused_name


def test_a_folder_yields_its_images_sorted_and_a_file_is_taken_whatever_its_extension(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.JPG", "b/1.png", "a.webp", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    images = list(find_images([tmp_path, tmp_path / "notes.txt"]))
    assert images == [tmp_path / name for name in ("a.webp", "b/1.png", "b/2.JPG", "notes.txt")]


def test_a_link_to_a_parent_folder_is_not_followed_twice(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    (tmp_path / "again").symlink_to(tmp_path)
    assert list(find_images([tmp_path])) == [tmp_path / "1.png"]


def test_a_missing_place_is_an_error_before_the_first_image(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="There is no file or folder"):
        find_images([tmp_path, tmp_path / "nowhere"])


def test_the_most_probable_classes_come_first() -> None:
    assert best_classes(np.array([0.1, 0.7, 0.2]), ["a", "b", "c"], 2) == [("b", 0.7), ("c", 0.2)]


def test_a_csv_file_has_two_columns_for_each_class(tmp_path: Path) -> None:
    with CsvFile(tmp_path / "out.csv", 2) as out:
        out.write(Path("a, b.png"), [("cat", 0.75), ("dog", 0.25)])
    lines = list(csv.reader((tmp_path / "out.csv").open()))
    assert lines == [
        ["path", "label", "probability", "label2", "probability2"],
        ["a, b.png", "cat", "0.750000", "dog", "0.250000"],
    ]


def test_an_incomplete_csv_file_does_not_get_the_final_name(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), CsvFile(tmp_path / "out.csv", 1):
        raise RuntimeError
    assert not (tmp_path / "out.csv").exists()


def test_a_csv_file_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="can't be written"):
        CsvFile(tmp_path / "nowhere" / "out.csv", 1)


def test_more_than_takes_one_image_more_than_the_count() -> None:
    taken: list[int] = []

    def images() -> Iterator[Path]:
        for number in range(100):
            taken.append(number)
            yield Path(str(number))

    many, same = more_than(3, images())
    assert (many, len(taken)) == (True, 4)
    assert [path.name for path in same] == [str(number) for number in range(100)]


def test_the_count_itself_is_not_more_than_the_count() -> None:
    many, same = more_than(3, iter([Path("a"), Path("b"), Path("c")]))
    assert (many, len(list(same))) == (False, 3)


def test_a_folder_of_images_is_read_by_the_rule_of_a_search(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "IMG_1.HEIC").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.xml").touch()
    for name in ("__MACOSX/._a.png", "@eaDir/a.png", "lost+found/a.png"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    listing = FileListing()
    assert [path.name for path in find_images([tmp_path], listing)] == ["IMG_1.HEIC", "a.png"]
    assert listing.notes("here") == [
        "Read as images in here for their content, whatever their extension: .heic (1).",
        "Left out in here, because they are not images: .xml (1).",
    ]


def test_a_folder_is_no_csv_file(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"is a folder.*--csv .*predictions\.csv"):
        CsvFile(tmp_path, 1)
    with pytest.raises(KeyboardInterrupt), CsvFile(tmp_path / "out.csv", 1):
        raise KeyboardInterrupt
    assert not list(tmp_path.parent.glob("*.part"))
    assert not list(tmp_path.iterdir())


def test_a_device_or_a_pipe_is_not_replaced_by_a_csv_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(AutotlError, match=r"is no file but a device or a pipe\. .* --csv predictions\.csv"):
            CsvFile(file, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_link_stays_one_where_predictions_are_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.csv").symlink_to("elsewhere/predictions.csv")
    with CsvFile(tmp_path / "out.csv", 1) as out:
        out.write(Path("a.png"), [("ants", 1.0)])
    assert (tmp_path / "out.csv").is_symlink()
    assert "a.png,ants" in (tmp_path / "elsewhere" / "predictions.csv").read_text()


def test_a_picture_replaces_no_file(tmp_path):
    (tmp_path / "photo.png").write_text("the user's")
    (tmp_path / "photo-2.png").symlink_to("gone")
    used = set()
    names = [unused_name(tmp_path / "photo.png", used).name for _ in range(2)]
    assert names == ["photo-3.png", "photo-4.png"]


def test_a_csv_file_replaces_none_that_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").touch()
    (tmp_path / "link.csv").symlink_to("labels.csv")
    require_target(Path("new.csv"), "labels.csv", None, "elpv", "a\0b")
    require_target(Path("labels.csv"), "new.csv")
    for file, inputs in (("labels.csv", ["photos", tmp_path / "labels.csv"]), ("link.csv", ["./labels.csv"])):
        with pytest.raises(AutotlError, match=r"is read, and would be replaced\. Give another name: --csv"):
            require_target(Path(file), *inputs)
