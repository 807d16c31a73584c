import multiprocessing
import os
import pickle
import sqlite3
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotl.data import verification as checks
from autotl.data.dataset import DatasetSource, ImageDataset, LabelledImage
from autotl.data.loading import load_dataset
from autotl.data.sandbox import Readers
from autotl.data.sources import FolderSource, ManifestSource
from autotl.data.verification import check_files, digest_file
from autotl.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SOURCES: dict[str, DatasetSource] = {"folder": FolderSource(), "manifest": ManifestSource()}


def picture(path: Path, value: int) -> None:
    """Every value makes other bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path)


def pictures(root: Path, **counts: int) -> Path:
    """Class folders with that many different images; `train__ants=3` makes train/ants."""
    value = 0
    for name, count in counts.items():
        for i in range(count):
            value += 1
            picture(root / name.replace("__", "/") / f"{i}.png", value)
    return root


def load(root: Path, **options: object) -> ImageDataset:
    return load_dataset(str(root), SOURCES, **options)  # type: ignore[arg-type]


# --- what comes out


def test_a_folder_becomes_a_dataset(tmp_path: Path) -> None:
    dataset = load(pictures(tmp_path / "bugs", ants=3, bees=2))
    assert (dataset.name, dataset.classes, dataset.labels.tolist()) == ("bugs", ("ants", "bees"), [0, 0, 0, 1, 1])
    assert dataset.labels.dtype == np.int64
    assert dataset.digests[0] == digest_file(tmp_path / "bugs" / "ants" / "0.png")
    assert len(set(dataset.digests)) == 5
    assert all(len(digest) == 32 for digest in dataset.digests)
    assert not dataset.skipped
    assert not dataset.warnings


def test_paths_open_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "bugs", ants=1, bees=1)
    monkeypatch.chdir(tmp_path)
    dataset = load(Path("bugs"))
    monkeypatch.chdir("/")
    assert all(path.is_file() for path in dataset.paths)


@pytest.mark.parametrize(
    "order",
    [
        ("0", "1", "2", "10"),
        ("0.0", "0.3333", "0.6667", "1.0"),
        ("-1", "0", "1"),
        ("page 2", "page 10", "page 10b"),
        ("01", "1", "x"),
        ("Zebra", "ant"),
    ],
)
def test_classes_are_in_natural_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    for i, name in enumerate(order):
        picture(tmp_path / name / "a.png", i)
    assert load(tmp_path).classes == order


def test_a_split_folder_is_named_after_what_holds_it(tmp_path: Path) -> None:
    pictures(tmp_path / "bugs", train__ants=2, train__bees=2)
    assert load(tmp_path / "bugs" / "train").name == "bugs"


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    load(pictures(tmp_path, ants=2, bees=2), progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


# --- files that can't be decoded


def test_broken_files_are_left_out_and_named(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2)
    (tmp_path / "ants" / "gone.png").symlink_to(tmp_path / "nowhere")
    whole = (tmp_path / "ants" / "0.png").read_bytes()
    (tmp_path / "bees" / "cut.png").write_bytes(whole[:45])
    dataset = load(tmp_path)
    assert len(dataset) == 4
    assert [(s.path.name, s.reason.split(":")[0]) for s in dataset.skipped] == [
        ("gone.png", "it is a link to nothing"),
        ("cut.png", "it is broken"),
    ]


def test_strict_stops_at_broken_files_and_counts_them(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2)
    for i in range(5):
        (tmp_path / "bees" / f"x{i}.png").write_text("no image")
    with pytest.raises(DataError, match=r"^5 images can't be decoded: .*x0.png \(it isn't.*and 2 more"):
        load(tmp_path, strict=True)


def test_a_class_without_any_sound_image_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2, wasps=1)
    (tmp_path / "wasps" / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"No image to train on of 'wasps' can be decoded"):
        load(tmp_path)


def test_no_sound_image_at_all_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, ants=1, bees=1)
    for name in ("ants", "bees"):
        (tmp_path / name / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"No image of .* can be decoded"):
        load(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images aren't here")
def test_a_real_dataset_with_test_images_from_elsewhere_is_read_whole() -> None:
    dataset = load(SHARED / "hymenoptera" / "train", test=str(SHARED / "hymenoptera" / "val"))
    assert dataset.name == "hymenoptera"
    assert dataset.classes == ("ants", "bees")
    assert (dataset.subsets.count(""), dataset.subsets.count("test"), len(dataset.skipped)) == (245, 153, 0)


# --- classes and parts


def test_a_single_class_is_an_error_that_points_one_folder_down(tmp_path: Path) -> None:
    pictures(tmp_path / "download" / "photos", ants=2, bees=2)
    with pytest.raises(DataError, match=r"one class, 'photos'.*If .*download/photos holds class folders"):
        load(tmp_path / "download")


def test_test_images_may_come_from_elsewhere(tmp_path: Path) -> None:
    pictures(tmp_path / "a", ants=2, bees=2)
    pictures(tmp_path / "b", ants=1)
    dataset = load(tmp_path / "a", test=str(tmp_path / "b"))
    assert dataset.subsets == ("", "", "", "", "test")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0]


def test_a_class_that_only_test_images_have_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path / "a", ants=2, bees=2)
    pictures(tmp_path / "b", ants=1, bee=1)
    with pytest.raises(DataError, match=r"b has test images of 'bee', a class .* Did you mean 'bees'"):
        load(tmp_path / "a", test=str(tmp_path / "b"))


def test_two_sets_of_test_images_are_an_error(tmp_path: Path) -> None:
    pictures(tmp_path / "a", train__ants=2, train__bees=2, test__ants=1)
    pictures(tmp_path / "b", ants=1)
    with pytest.raises(DataError, match="has test images of its own"):
        load(tmp_path / "a", test=str(tmp_path / "b"))


def test_classes_can_be_given_for_a_model_that_has_them(tmp_path: Path) -> None:
    dataset = load(pictures(tmp_path, bees=2), classes=("wasps", "bees"))
    assert (dataset.classes, dataset.labels.tolist()) == (("wasps", "bees"), [1, 1])


# --- which source


class Named(DatasetSource):
    name = "elpv"

    def matches(self, location: str) -> bool:
        return location == "elpv"

    def images(self, location: str) -> list[LabelledImage]:
        return FolderSource().images("cells")


def test_a_location_that_nobody_knows_names_what_there_is() -> None:
    with pytest.raises(DataError, match=r"'elvp' holds no dataset. Did you mean 'elpv'\? .*by name: elpv"):
        load_dataset("elvp", {**SOURCES, "elpv": Named()})


def test_a_dataset_by_name_goes_before_a_folder_of_that_name_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures(tmp_path / "cells", good=2, broken=2)
    pictures(tmp_path / "elpv", ants=2, bees=2)
    monkeypatch.chdir(tmp_path)
    sources = {**SOURCES, "elpv": Named()}
    dataset = load_dataset("elpv", sources)
    assert dataset.classes == ("broken", "good")
    assert "For the folder type ./elpv" in dataset.warnings[0]
    assert load_dataset("./elpv", sources).classes == ("ants", "bees")


def test_what_a_source_leaves_out_reaches_the_user(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2)
    (tmp_path / "ants" / "a.heic").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ".heic (1)" in load(tmp_path).warnings[0]


# --- concerns


def copied(root: Path, source: str, target: str) -> None:
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    (root / target).write_bytes((root / source).read_bytes())


def uneven(root: Path) -> None:
    pictures(root, ants=20, bees=2)


def lonely(root: Path) -> None:
    pictures(root, ants=3, bees=1)


def twice(root: Path) -> None:
    pictures(root, ants=3, bees=3)
    copied(root, "ants/0.png", "ants/copy.png")


def at_odds(root: Path) -> None:
    pictures(root, ants=3, bees=3)
    copied(root, "ants/0.png", "bees/copy.png")


def leaking(root: Path) -> None:
    pictures(root, train__ants=3, train__bees=3, test__bees=1)
    copied(root, "train/ants/0.png", "test/ants/copy.png")


def unchecked(root: Path) -> None:
    pictures(root, train__ants=3, train__bees=3, val__bees=2)


@pytest.mark.parametrize(
    ("make", "warning"),
    [
        (uneven, "Classes are uneven: 'ants' has 20 images to train on, 'bees' 2"),
        (lonely, "Only one image to train on: bees"),
        (twice, "1 image is there more than once, byte for byte"),
        (at_odds, "1 image is there under different labels"),
        (leaking, "1 image is there in several parts (test, train)"),
        (unchecked, "No validation image of ants"),
    ],
)
def test_what_endangers_a_score_is_said(tmp_path: Path, make: Callable[[Path], None], warning: str) -> None:
    make(tmp_path)
    assert any(line.startswith(warning) for line in load(tmp_path).warnings), load(tmp_path).warnings


def test_a_group_in_two_parts_is_said(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"{i}.png", i)
    rows = "0.png,a,train,p1\n1.png,b,train,p2\n2.png,a,test,p1\n3.png,b,test,p3\n"
    (tmp_path / "labels.csv").write_text("path,label,split,group\n" + rows)
    assert load(tmp_path / "labels.csv").warnings[-1] == (
        "1 of the groups lie in several parts, 'p1' in test, train: scores there will flatter."
    )


# --- what is remembered


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were really read."""
    names: list[str] = []

    def counting(self: Readers, path: Path, real: Callable[[Readers, Path], bytes] = Readers.verify) -> bytes:
        names.append(path.name)
        return real(self, path)

    monkeypatch.setattr(Readers, "verify", counting)
    return names


def test_unchanged_files_are_read_once(tmp_path: Path, verified: list[str]) -> None:
    pictures(tmp_path / "data", ants=2, bees=2)
    (tmp_path / "data" / "ants" / "x.png").write_text("no image")
    first = load(tmp_path / "data", cache=tmp_path / "cache")
    assert len(verified) == 5
    again = load(tmp_path / "data", cache=tmp_path / "cache")
    assert len(verified) == 5
    assert (again.digests, again.skipped) == (first.digests, first.skipped)


def test_a_changed_file_is_read_again(tmp_path: Path, verified: list[str]) -> None:
    pictures(tmp_path / "data", ants=2, bees=2)
    before = load(tmp_path / "data", cache=tmp_path / "cache")
    verified.clear()
    changed = tmp_path / "data" / "bees" / "1.png"
    picture(changed, 999)
    os.utime(changed, ns=(1, 1))
    after = load(tmp_path / "data", cache=tmp_path / "cache")
    assert verified == ["1.png"]
    assert after.digests[:3] == before.digests[:3]
    assert after.digests[3] == digest_file(changed) != before.digests[3]


def test_other_bytes_of_the_same_size_and_time_are_read_again(tmp_path: Path, verified: list[str]) -> None:
    picture(tmp_path / "a.bmp", 1)
    time_before = (tmp_path / "a.bmp").stat().st_mtime_ns
    before = check_files([tmp_path / "a.bmp"], cache=tmp_path / "cache")
    picture(tmp_path / "b.bmp", 2)
    os.utime(tmp_path / "b.bmp", ns=(time_before, time_before))
    (tmp_path / "b.bmp").replace(tmp_path / "a.bmp")
    assert (tmp_path / "a.bmp").stat().st_mtime_ns == time_before
    after = check_files([tmp_path / "a.bmp"], cache=tmp_path / "cache")
    assert after[0].digest != before[0].digest
    assert len(verified) == 2


def test_a_missing_file_is_looked_for_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert check_files([tmp_path / "a.png"], cache=cache)[0].reason == "there is no such file"
    picture(tmp_path / "a.png", 1)
    assert check_files([tmp_path / "a.png"], cache=cache)[0].reason == ""


def test_a_name_that_is_not_utf8_is_remembered(tmp_path: Path, verified: list[str]) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    picture(tmp_path / name, 1)
    for _ in range(2):
        assert check_files([tmp_path / name], cache=tmp_path / "cache")[0].reason == ""
    assert len(verified) == 1


def test_a_cache_that_is_no_database_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "checks-2.sqlite").write_text("something else, and long enough to be read as a header")
    assert len(load(pictures(tmp_path / "data", ants=1, bees=1), cache=tmp_path / "cache")) == 2


def test_a_cache_folder_that_cannot_be_made_costs_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(load(pictures(tmp_path / "data", ants=1, bees=1), cache=tmp_path / "file" / "cache")) == 2


def test_a_read_only_cache_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verified: list[str]) -> None:
    data, cache = pictures(tmp_path / "data", ants=1, bees=1), tmp_path / "cache"
    load(data, cache=cache)
    monkeypatch.setattr(
        checks, "_connect", lambda folder: sqlite3.connect(f"file:{folder / 'checks-2.sqlite'}?mode=ro", uri=True)
    )
    picture(data / "bees" / "new.png", 77)
    verified.clear()
    assert len(load(data, cache=cache)) == 3
    assert verified == ["new.png"]


def test_processes_share_a_cache(tmp_path: Path) -> None:
    data, cache = pictures(tmp_path / "data", ants=30, bees=30), tmp_path / "cache"
    paths = sorted(data.rglob("*.png"))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        found = pool.starmap(check_files, [(paths, 2, cache)] * 3)
    assert found[0] == found[1] == found[2]
    with sqlite3.connect(cache / "checks-2.sqlite") as database:
        assert database.execute("SELECT count(*) FROM checks").fetchone() == (60,)


# --- to worker processes


def test_a_large_dataset_pickles_cheaply() -> None:
    n = 100_000
    dataset = ImageDataset(
        name="large",
        classes=("a", "b"),
        paths=tuple(Path(f"/home/user/photos/large/{i % 2}/image-{i:06}.jpg") for i in range(n)),
        labels=np.arange(n) % 2,
        digests=tuple(f"{i:032x}" for i in range(n)),
        subsets=("train",) * n,
        groups=("",) * n,
    )
    start = time.process_time()
    data = pickle.dumps(dataset, protocol=pickle.HIGHEST_PROTOCOL)
    back = pickle.loads(data)  # noqa: S301 - our own
    seconds = time.process_time() - start
    assert (back.paths, back.digests, back.subsets) == (dataset.paths, dataset.digests, dataset.subsets)
    assert np.array_equal(back.labels, dataset.labels)
    assert len(data) < 20e6
    assert seconds < 5
