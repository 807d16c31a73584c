"""`load_dataset`: what it returns, its errors and warnings."""

import pickle
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from autotl.data.dataset import DatasetSource, ImageDataset, LabelledImage
from autotl.data.digests import digest_file
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource, ManifestSource
from autotl.data.splits import make_split
from autotl.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SOURCES: dict[str, DatasetSource] = {"folder": FolderSource(), "manifest": ManifestSource()}


def picture(path: Path, value: int) -> None:
    """Write an image whose bytes are unique to `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(path)


def pictures(root: Path, **counts: int) -> Path:
    """Write class folders with the given numbers of different images; `train__ants=3` writes train/ants."""
    value = 0
    for name, count in counts.items():
        for i in range(count):
            value += 1
            picture(root / name.replace("__", "/") / f"{i}.png", value)
    return root


def load(root: Path, **options: object) -> ImageDataset:
    return load_dataset(str(root), SOURCES, **options)  # type: ignore[arg-type]


# --- the dataset


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


def test_a_dataset_of_a_train_folder_has_the_name_of_its_parent(tmp_path: Path) -> None:
    pictures(tmp_path / "bugs", train__ants=2, train__bees=2)
    assert load(tmp_path / "bugs" / "train").name == "bugs"


def test_progress_counts_all_files(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    load(pictures(tmp_path, ants=2, bees=2), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


# --- files that can't be decoded


def test_undecodable_files_are_skipped_with_a_reason(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2)
    (tmp_path / "ants" / "gone.png").symlink_to(tmp_path / "nowhere")
    whole = (tmp_path / "ants" / "0.png").read_bytes()
    (tmp_path / "bees" / "cut.png").write_bytes(whole[:45])
    dataset = load(tmp_path)
    assert len(dataset) == 4
    assert [(s.path.name, s.reason.split(":")[0]) for s in dataset.skipped] == [
        ("gone.png", "it is a broken symbolic link"),
        ("cut.png", "it is broken"),
    ]


def test_strict_raises_for_undecodable_files(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2)
    for i in range(5):
        (tmp_path / "bees" / f"x{i}.png").write_text("no image")
    with pytest.raises(DataError, match=r"^5 images can't be decoded: .*x0.png \(it isn't.*and 2 more"):
        load(tmp_path, strict=True)


def test_a_class_without_decodable_images_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2, wasps=1)
    (tmp_path / "wasps" / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"No training image of 'wasps' can be decoded"):
        load(tmp_path)


def test_no_decodable_image_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, ants=1, bees=1)
    for name in ("ants", "bees"):
        (tmp_path / name / "0.png").write_text("no image")
    with pytest.raises(DataError, match=r"No image of .* can be decoded"):
        load(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images aren't here")
def test_a_real_dataset_with_test_images_of_another_location() -> None:
    dataset = load(SHARED / "hymenoptera" / "train", test=str(SHARED / "hymenoptera" / "val"))
    assert dataset.name == "hymenoptera"
    assert dataset.classes == ("ants", "bees")
    assert (dataset.subsets.count(""), dataset.subsets.count("test"), len(dataset.skipped)) == (245, 153, 0)


# --- classes and subsets


def test_the_error_for_a_single_class_suggests_its_subfolder(tmp_path: Path) -> None:
    pictures(tmp_path / "download" / "photos", ants=2, bees=2)
    with pytest.raises(DataError, match=r"one class, 'photos'.*If .*download/photos holds class folders"):
        load(tmp_path / "download")


def test_test_images_of_another_location(tmp_path: Path) -> None:
    pictures(tmp_path / "a", ants=2, bees=2)
    pictures(tmp_path / "b", ants=1)
    dataset = load(tmp_path / "a", test=str(tmp_path / "b"))
    assert dataset.subsets == ("", "", "", "", "test")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0]


def test_a_class_without_training_images_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path / "a", ants=2, bees=2)
    pictures(tmp_path / "b", ants=1, bee=1)
    with pytest.raises(DataError, match=r"b has test images of 'bee', which is not a class .* Did you mean 'bees'"):
        load(tmp_path / "a", test=str(tmp_path / "b"))


def test_test_images_of_two_locations_are_an_error(tmp_path: Path) -> None:
    pictures(tmp_path / "a", train__ants=2, train__bees=2, test__ants=1)
    pictures(tmp_path / "b", ants=1)
    with pytest.raises(DataError, match="already has test images"):
        load(tmp_path / "a", test=str(tmp_path / "b"))


def test_the_classes_of_a_model_can_be_given(tmp_path: Path) -> None:
    dataset = load(pictures(tmp_path, bees=2), classes=("wasps", "bees"))
    assert (dataset.classes, dataset.labels.tolist()) == (("wasps", "bees"), [1, 1])


# --- the choice of the source


class Named(DatasetSource):
    name = "elpv"

    def matches(self, location: str) -> bool:
        return location == "elpv"

    def images(self, location: str) -> list[LabelledImage]:
        return FolderSource().images("cells")


def test_the_error_for_an_unknown_location_lists_the_datasets() -> None:
    with pytest.raises(
        DataError, match=r"'elvp' is not a dataset: .* Did you mean 'elpv'\? .*the name of a dataset: elpv"
    ):
        load_dataset("elvp", {**SOURCES, "elpv": Named()})


def test_a_dataset_name_takes_precedence_over_a_folder_with_a_warning(
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


def test_warnings_of_a_source_reach_the_user(tmp_path: Path) -> None:
    pictures(tmp_path, ants=2, bees=2)
    (tmp_path / "ants" / "a.heic").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ".heic (1)" in load(tmp_path).warnings[0]


# --- pickling


@pytest.mark.slow
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


# --- what a split needs


def test_a_manifests_times_and_what_looks_alike_reach_the_split(tmp_path: Path) -> None:
    from skimage import data

    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    rows = ["path,label,time"]
    for i in range(40):
        photograph = Image.fromarray(photographs[i % 4]).crop((5 * i, 4 * i, 5 * i + 150, 4 * i + 150))
        photograph.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},2024-01-{1 + i // 2:02}")
    Image.open(tmp_path / "3.png").save(tmp_path / "again.jpg", quality=60)
    rows.append("again.jpg,b,2024-01-01")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    dataset = load(tmp_path / "labels.csv")
    assert dataset.lookalikes[3] == dataset.lookalikes[40]
    split = make_split(dataset, seed=0)
    times = np.array(dataset.times)
    assert (len(split.test), len(split.validation)) == (8, 6)
    assert times[split.train].max() < times[split.validation].min() < times[split.test].min()


# --- names in other Unicode forms, and locations that don't exist


def test_labels_in_another_unicode_form_are_the_same_class(tmp_path: Path) -> None:
    pictures(tmp_path, **{"train__caf\u00e9": 2, "train__tea": 2, "test__cafe\u0301": 1, "test__tea": 1})
    dataset = load(tmp_path)
    assert dataset.classes == ("caf\u00e9", "tea")
    assert len(dataset) == 6
    assert "Unicode form" in " ".join(dataset.warnings)


def test_a_label_that_differs_only_in_case_is_refused_with_the_difference(tmp_path: Path) -> None:
    pictures(tmp_path, train__Tea=2, train__milk=2, test__tea=1)
    with pytest.raises(DataError, match="differs from 'Tea' only in case"):
        load(tmp_path)


def test_an_unknown_class_of_a_model_is_called_one_of_the_model(tmp_path: Path) -> None:
    pictures(tmp_path, train__ants=1, train__cows=1)
    with pytest.raises(DataError, match="has images of 'cows', which is not a class of the model"):
        load(tmp_path, classes=("ants", "bees"))


def test_a_location_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=r"there is no folder, no file .* Did you mean 'photos'"):
        load(tmp_path / "photo")
    (tmp_path / "x.pdf").touch()
    with pytest.raises(DataError, match="neither a folder nor a manifest"):
        load(tmp_path / "x.pdf")


@pytest.mark.parametrize("location", ["", " "])
def test_an_empty_location_is_not_the_current_folder(location: str) -> None:
    with pytest.raises(DataError, match="The location of the images is empty"):
        load_dataset(location, SOURCES)


@pytest.mark.parametrize(("name", "remedy"), [("a.zip", "Unpack it first"), ("a.xlsx", "Save the table as CSV")])
def test_what_is_no_dataset_yet_has_a_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(DataError, match=rf"is neither a folder nor a manifest\. {remedy}\. Give"):
        load_dataset(str(tmp_path / name), SOURCES)
