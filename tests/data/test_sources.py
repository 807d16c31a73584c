"""The built-in dataset sources: folder layouts and manifests, valid and invalid."""

import os
import re
import shlex
import subprocess
import warnings
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from autotl.atomic_io import refuse_links_out
from autotl.data.dataset import LabelledImage
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource, ManifestSource
from autotl.errors import AutotlError, DataError
from autotl.folders import claim_study

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(path)


def pictures(root: Path, *names: str) -> None:
    for name in names:
        picture(root / name)


def listed(root: Path) -> set[tuple[str, str, str]]:
    return {(str(r.path.relative_to(root)), r.label, r.subset) for r in FolderSource().images(str(root))}


# --- folders


def test_flat_class_folders_have_no_subsets(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/a.jpg", "bees/b.PNG")
    assert listed(tmp_path) == {("ants/a.jpg", "ants", ""), ("bees/b.PNG", "bees", "")}


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_subset_folders_are_read_as_subsets(tmp_path: Path, name: str) -> None:
    pictures(tmp_path, "train/ants/a.jpg", "train/bees/b.jpg", f"{name}/ants/c.jpg", "test/bees/d.jpg")
    assert {(label, subset) for _, label, subset in listed(tmp_path)} == {
        ("ants", "train"),
        ("bees", "train"),
        ("ants", "validation"),
        ("bees", "test"),
    }


def test_folders_inside_a_class_folder_belong_to_it(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/2020/may/a.jpg", "bees/b.jpg")
    assert ("ants/2020/may/a.jpg", "ants", "") in listed(tmp_path)


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/a.jpg", "ants/._a.jpg", "ants/.thumbs/a.jpg", ".git/x.jpg", "bees/b.jpg")
    assert len(listed(tmp_path)) == 2


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    pictures(tmp_path, "bus/a.jpg", "car/b.jpg", "train/c.jpg")
    assert {label for _, label, _ in listed(tmp_path)} == {"bus", "car", "train"}


def test_classes_may_be_called_valid_and_invalid(tmp_path: Path) -> None:
    pictures(tmp_path, "valid/2020/a.jpg", "invalid/2020/b.jpg")
    assert {(label, subset) for _, label, subset in listed(tmp_path)} == {("valid", ""), ("invalid", "")}


def test_a_broken_link_is_listed(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/a.jpg", "bees/b.jpg")
    (tmp_path / "bees" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert ("bees/gone.jpg", "bees", "") in listed(tmp_path)


def test_a_folder_with_an_images_name_is_a_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/x.jpg/a.jpg", "bees/b.jpg")
    assert ("ants/x.jpg/a.jpg", "ants", "") in listed(tmp_path)


def test_a_linked_class_folder_is_followed_and_a_loop_ends(tmp_path: Path) -> None:
    pictures(tmp_path, "elsewhere/a.jpg", "data/bees/b.jpg")
    (tmp_path / "data" / "ants").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert listed(tmp_path / "data") == {("ants/a.jpg", "ants", ""), ("bees/b.jpg", "bees", "")}


def test_ignored_files_are_warned_of(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/a.jpg", "bees/b.jpg", "loose.jpg")
    (tmp_path / "ants" / "notes.txt").touch()
    (tmp_path / "bees" / "c.heic").touch()
    (tmp_path / "wasps").mkdir()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FolderSource().images(str(tmp_path))
    messages = " ".join(str(warning.message) for warning in caught)
    for text in (".txt (1)", ".heic (1)", "loose.jpg", "wasps has no images"):
        assert text in messages


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no images. Put them into one folder for each class"),
        (["a.jpg", "b.jpg"], "no class folders. Put them into one folder for each class.*path,label"),
        (["train/a.jpg", "test/b.jpg"], "train has no class folders"),
        (["test/ants/a.jpg", "test/bees/b.jpg"], "has test but no train/"),
        (["train/ants/a.jpg", "train/bees/b.jpg", "test/1.jpg"], "give the training folder alone: .*train$"),
        (["train/ants/a.jpg", "extra/b.jpg"], r"other folders with images \(extra\)"),
        (["train/ants/a.jpg", "val/ants/b.jpg", "valid/ants/b.jpg"], "two folders of validation images"),
    ],
)
def test_the_error_for_an_invalid_layout_names_the_remedy(tmp_path: Path, files: list[str], message: str) -> None:
    pictures(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        FolderSource().images(str(tmp_path))


def test_the_error_for_a_folder_without_images_lists_the_extensions(tmp_path: Path) -> None:
    (tmp_path / "ants").mkdir()
    (tmp_path / "ants" / "a.heic").touch()
    with pytest.raises(DataError, match=r"there are \.heic \(1\)"):
        FolderSource().images(str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images aren't here")
def test_real_subset_folders_have_the_images_that_their_source_states() -> None:
    images = FolderSource().images(str(SHARED / "clothing"))
    assert Counter(image.subset for image in images) == {"train": 800, "validation": 341, "test": 372}
    assert len({image.label for image in images}) == 10


def test_a_folder_matches_and_a_file_does_not(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    assert FolderSource().matches(str(tmp_path))
    assert not FolderSource().matches(str(tmp_path / "a.jpg"))
    assert not FolderSource().matches(str(tmp_path / "missing"))


# --- manifests


def manifest(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_a_manifest_lists_paths_labels_splits_and_groups(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,split,group\na.jpg,ants,train,p1\nb/c.jpg, bees ,valid,\n")
    assert ManifestSource().images(str(path)) == [
        LabelledImage(tmp_path / "a.jpg", "ants", "train", "p1"),
        LabelledImage(tmp_path / "b" / "c.jpg", "bees", "validation", ""),
    ]


@pytest.mark.parametrize(
    ("header", "typed", "expected"),
    [
        ("time", ["3", "1.5", ""], [3.0, 1.5, None]),
        ("time", ["1970-01-02", "1970-01-01T00:01:00", "1970-01-01 01:00:00+01:00"], [86400.0, 60.0, 0.0]),
        ("Timestamp", ["20240531", "20240601", "20240602"], [20240531.0, 20240601.0, 20240602.0]),
    ],
)
def test_a_time_column_holds_numbers_or_dates(
    header: str, typed: list[str], expected: list[float | None], tmp_path: Path
) -> None:
    rows = "".join(f"{i}.jpg,x,{time}\n" for i, time in enumerate(typed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the other name
        images = ManifestSource().images(str(manifest(tmp_path, f"path,label,{header}\n{rows}")))
    assert [image.time for image in images] == expected


def test_a_time_that_is_no_date_is_an_error_with_its_line(tmp_path: Path) -> None:
    path = manifest(tmp_path, "path,label,time\na.jpg,x,2024-05-31\nb.jpg,y,31.5.2024\n")
    with pytest.raises(
        DataError, match=r"line 3: the time '31\.5\.2024' is not a date\. Write dates such as 2024-05-31"
    ):
        ManifestSource().images(str(path))


def test_columns_in_any_order_other_columns_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    path = manifest(tmp_path, "Label,width,Path\nants,4,a.jpg\n\n", encoding="utf-8-sig")
    assert ManifestSource().images(str(path)) == [LabelledImage(tmp_path / "a.jpg", "ants")]


def test_a_misspelt_column_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'gruop' .* Did you mean 'group'"):
        ManifestSource().images(str(manifest(tmp_path, "path,label,gruop\na.jpg,ants,p1\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'; its header is empty"),
        ("path,label\n", "lists no images"),
        ("where,label\na.jpg,x\n", "no column 'path'; its header is where,label"),
        ("path,lable\na.jpg,x\n", "no column 'label'.* Is it 'lable'"),
        ("path,label,label\na.jpg,x,y\n", "'label' twice"),
        ("path,label\na.jpg,x\nb.jpg,\nc.jpg,x\nd.jpg\n", "no label in lines 3, 5"),
        ("path,label\n,x\n", "no path in line 2"),
        ("path,label\na.jpg,x,y\n", "line 2: 3 values for 2 columns"),
        ('path,label\n"a.jpg,x\n', "invalid CSV"),
        ("path,label,split\na.jpg,x,trian\n", "line 2: the split 'trian' is unknown. Did you mean 'train'"),
        ("path,label,split\na.jpg,x,train\nb.jpg,x,\n", "but not line 3"),
        ("path,label\nC:\\a.jpg,x\n", "is absolute on Windows"),
        ("path,label\na\0.jpg,x\n", "line 2: a NUL character, which no text has"),
        ("path,label\nhttps://a.org/a.jpg,x\n", "line 2: https://a.org/a.jpg is an address. Download"),
        ("# mine\npath,label\na.jpg,x\n", r"line 2: 2 values for 1 columns \(# mine\)"),
    ],
)
def test_the_error_for_an_invalid_manifest_names_line_and_value(tmp_path: Path, text: str, message: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pictures(tmp_path, "outside/a.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    (folder / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match=message):
        ManifestSource().images(str(manifest(folder, text)))


def test_links_within_the_manifests_folder_are_accepted(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    images = ManifestSource().images(str(manifest(tmp_path, "path,label\nlink.jpg,x\nsub/../a.jpg,y\n")))
    assert [image.label for image in images] == ["x", "y"]


def test_a_manifest_that_is_missing_or_not_utf8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no file"):
        ManifestSource().images(str(tmp_path / "missing.csv"))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="is a pipe"):
        ManifestSource().images(str(tmp_path / "pipe.csv"))
    with pytest.raises(DataError, match="isn't UTF-8"):
        ManifestSource().images(str(manifest(tmp_path, "path,label\na.jpg,é\n", encoding="latin-1")))


def test_a_relative_manifest_gives_relative_paths_that_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "data/a.jpg")
    manifest(tmp_path / "data", "path,label\na.jpg,x\n")
    monkeypatch.chdir(tmp_path)
    (image,) = ManifestSource().images(str(Path("data/labels.csv")))
    assert image.path.is_file()


def rows_of(folder: Path, text: str | bytes, **options: bool) -> list[tuple[str, str, str, str]]:
    """Name, label, subset and group of each row of a manifest."""
    path = folder / "labels.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = ManifestSource().images(str(path), **options)
    return [(image.path.name, image.label, image.subset, image.group) for image in images]


TWO_ROWS = [("a.jpg", "x", "train", ""), ("b.jpg", "y", "test", "")]


@pytest.mark.parametrize(
    "text",
    [
        "path;label;split\na.jpg;x;train\nb.jpg;y;test\n",
        "path\tlabel\tsplit\na.jpg\tx\ttrain\nb.jpg\ty\ttest\n",
        "path|label|split\na.jpg|x|train\nb.jpg|y|test\n",
        "sep=;\npath;label;split\na.jpg;x;train\nb.jpg;y;test\n",
        "\ufeffpath,label,split\r\na.jpg,x,train\r\n\r\n,,\r\nb.jpg,y,test\r\n",
        'path,label,split\r"a.jpg","x","train"\r"b.jpg","y","test"\r',
        "path,label,split,\na.jpg,x,train,\nb.jpg,y,test,\n",
        "path,label,split\na.jpg,x,train\nb.jpg,y,test\n".encode("utf-16"),
        "path,label,split\na.jpg,x,train\nb.jpg,y,test\n".encode("utf-16-le"),
        "filename,class,subset\na.jpg,x,Training\nb.jpg,y,Testing\n",
        "Image_Path,Target,fold\na.jpg,x,TRAIN\nb.jpg,y,TEST\n",
        "label,size,where_to,image\nx,4,train,a.jpg\ny,4,test,b.jpg\n",
        "file,category,Usage\na.jpg,x,Training\nb.jpg,y,PrivateTest\n",
        "path,label,is_test\na.jpg,x,False\nb.jpg,y,True\n",
        "path,label,is_train\na.jpg,x,1\nb.jpg,y,0\n",
    ],
)
def test_manifests_are_read_as_spreadsheets_and_other_tools_write_them(tmp_path: Path, text: str | bytes) -> None:
    assert rows_of(tmp_path, text) == TWO_ROWS


def test_a_patients_column_is_the_group(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "path,label,patient\na.jpg,x,p1\n") == [("a.jpg", "x", "", "p1")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,fold\na.jpg,x,0\nb.jpg,y,1\n", "'fold' .* is ignored. It holds '0', '1', and no names of subsets"),
        ("path,label,origin\na.jpg,x,test\nb.jpg,y,lab\n", "'origin' .* is ignored. It holds 'test'"),
        ("path,label,split,old\na.jpg,x,train,test\nb.jpg,y,test,train\n", "'old' .* Subsets are read from 'split'"),
        ("path,label,dataset\na.jpg,x,train\nb.jpg,y,test\n", r"read by other names: dataset \(split\)"),
    ],
)
def test_a_column_that_may_name_subsets_is_never_ignored_silently(tmp_path: Path, text: str, message: str) -> None:
    with pytest.warns(UserWarning, match=message):
        ManifestSource().images(str(manifest(tmp_path, text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,fold,phase\na.jpg,x,train,test\n", "'fold' and 'phase' each name subsets"),
        ("path,class,target\na.jpg,x,y\n", "'class' and 'target' can each be the label"),
        ("path,label,subset\na.jpg,x,train\nb.jpg,y,trian\n", "line 3: the split 'trian' is unknown"),
        ("path,label\na.jpg,nan\n", "no label in line 2"),
        ("path,label,is_valid,is_test\na.jpg,x,1,1\n", "in two subsets, validation and test"),
    ],
)
def test_an_ambiguous_or_incomplete_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path, text)


def test_a_manifest_that_the_user_typed_may_lead_anywhere(tmp_path: Path) -> None:
    pictures(tmp_path, "outside/a.jpg", "data/sub/c.jpg")
    (tmp_path / "data" / "link.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    text = f"path,label\n{tmp_path}/outside/a.jpg,x\n../outside/a.jpg,x\nlink.jpg,y\nsub\\c.jpg,y\n"
    images = ManifestSource().images(str(manifest(tmp_path / "data", text)))
    assert all(image.path.is_file() for image in images)
    with pytest.raises(DataError, match=r"is absolute.*--data .*labels\.csv"):
        ManifestSource().images(str(tmp_path / "data" / "labels.csv"), confined=True)


def test_a_manifest_names_files_whose_names_are_not_utf8(tmp_path: Path) -> None:
    picture(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")))
    assert rows_of(tmp_path, b"path,label\ncaf\xe9.png,caf\xe9\n") == [("caf\udce9.png", r"caf\xe9", "", "")]


# --- folders as they are


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("Training", "Test"),
        ("TRAIN", "TEST"),
        ("seg_train", "seg_test"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("training_set", "test_set"),
        ("Train Images", "Test Images"),
        ("trainset", "TestSet"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_subset_folders_have_many_names(tmp_path: Path, train: str, test: str) -> None:
    pictures(tmp_path, *(f"{subset}/{name}/a.jpg" for subset in (train, test) for name in ("red", "green")))
    assert {(label, subset) for _, label, subset in listed(tmp_path)} == {
        (label, subset) for label in ("red", "green") for subset in ("train", "test")
    }


def test_unusual_names_of_subsets_are_told(tmp_path: Path) -> None:
    pictures(tmp_path, "Training/a/1.jpg", "Training/b/1.jpg", "dev/a/2.jpg", "dev/b/2.jpg", "unlabeled/3.jpg")
    with pytest.warns(UserWarning, match="read as subsets") as caught:
        FolderSource().images(str(tmp_path))
    messages = [str(warning.message) for warning in caught]
    assert any("read as subsets: Training (train), dev (validation)" in message for message in messages)
    assert any("unlabelled images" in message and "unlabeled" in message for message in messages)


@pytest.mark.filterwarnings("ignore")
def test_subsets_inside_of_the_class_folders(tmp_path: Path) -> None:
    pictures(tmp_path, "cat/train/a.jpg", "cat/Test/b.jpg", "dog/train/c.jpg", "dog/Test/d.jpg")
    assert {(label, subset) for _, label, subset in listed(tmp_path)} == {
        ("cat", "train"),
        ("cat", "test"),
        ("dog", "train"),
        ("dog", "test"),
    }


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["cat/train/a.jpg", "cat/test/b.jpg", "dog/c.jpg"], "read as a part of their classes"),
        (["set_a/cat/1.jpg", "set_a/dog/2.jpg", "set_b/cat/1.jpg", "set_b/dog/2.jpg"], "holds the folders cat, dog"),
        (["train_a/1.jpg", "test_a/2.jpg"], "All classes are named like subsets"),
    ],
)
def test_classes_that_look_like_subsets_are_warned_of(tmp_path: Path, files: list[str], message: str) -> None:
    pictures(tmp_path, *files)
    with pytest.warns(UserWarning, match=message):
        FolderSource().images(str(tmp_path))


def test_a_class_may_be_called_train_station(tmp_path: Path) -> None:
    pictures(tmp_path, "train_station/2020/a.jpg", "airport/2020/b.jpg")
    assert {label for _, label, _ in listed(tmp_path)} == {"train_station", "airport"}


def test_folders_and_files_of_systems_are_ignored(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/a.jpg", "bees/b.jpg")
    system = ("__MACOSX/ants/._a.jpg", "@eaDir/x.jpg", "lost+found/x.jpg", "ants/@eaDir/t.jpg", "$RECYCLE.BIN/x.jpg")
    pictures(tmp_path, *system, "ants/.ipynb_checkpoints/a.jpg")
    (tmp_path / "ants" / "Thumbs.db").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert {path for path, _, _ in listed(tmp_path)} == {"ants/a.jpg", "bees/b.jpg"}


def test_images_without_a_known_extension_are_recognised_by_their_content(tmp_path: Path) -> None:
    pictures(tmp_path, "ants/a.jpg", "bees/b.jpg")
    for name in ("scan", "IMG_1.HEIC", "notes.txt"):
        (tmp_path / "ants" / name).write_bytes((tmp_path / "ants" / "a.jpg").read_bytes())
    (tmp_path / "ants" / "readme").write_text("no image, but a text of more than sixteen bytes")
    with pytest.warns(UserWarning, match="for their content") as caught:
        images = listed(tmp_path)
    assert {path for path, _, _ in images} == {"ants/a.jpg", "ants/scan", "ants/IMG_1.HEIC", "bees/b.jpg"}
    said = " ".join(str(warning.message) for warning in caught)
    assert ".heic (1)" in said
    assert "not images: no extension (1), .txt (1)" in said or "not images: .txt (1), no extension (1)" in said


def test_a_class_folder_whose_name_is_not_utf8_has_a_name_that_is(tmp_path: Path) -> None:
    pictures(tmp_path, "tea/a.jpg", os.fsdecode(b"caf\xe9/b.jpg"))
    with pytest.warns(UserWarning, match=r"isn't UTF-8: its class is called 'caf\\\\xe9'"):
        assert {label for _, label, _ in listed(tmp_path)} == {"tea", r"caf\xe9"}


# --- manifests of contests


def labels_of(root: Path, text: str, **options: bool) -> dict[str, str]:
    images = ManifestSource().images(str(manifest(root, text)), **options)
    return {image.path.name: image.label for image in images}


@pytest.mark.parametrize("one", ["1", "1.0", "True", "yes"])
def test_a_column_for_each_class_is_a_label(tmp_path: Path, one: str) -> None:
    zero = {"1": "0", "1.0": "0.0", "True": "False", "yes": "no"}[one]
    text = f"image,MEL,NV,age\na.jpg,{one},{zero},50\nb.jpg,{zero},{one},\n"
    with pytest.warns(UserWarning, match="read as the classes that they are 1 for: MEL, NV"):
        assert labels_of(tmp_path, text) == {"a.jpg": "MEL", "b.jpg": "NV"}


def test_a_column_for_each_class_beside_a_split_by_flags(tmp_path: Path) -> None:
    text = "path,cat,dog,is_valid\na.jpg,1,0,0\nb.jpg,0,1,1\n"
    with pytest.warns(UserWarning, match="cat, dog"):
        images = ManifestSource().images(str(manifest(tmp_path, text)))
    assert [(image.label, image.subset) for image in images] == [("cat", "train"), ("dog", "validation")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,cat,dog\na.jpg,1,0\nb.jpg,1,1\n", r"line 3: the image is of 2 classes, cat, dog\..*a column 'label'"),
        ("path,cat,dog\na.jpg,1,0\nb.jpg,0,0\n", "no label in line 3"),
        ("path,cat\na.jpg,1\nb.jpg,0\n", "no column 'label'"),
        ("path,cat,dog\na.jpg,0.7,0.3\n", "no column 'label'"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_columns_that_give_no_class_to_an_image_are_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ManifestSource().images(str(manifest(tmp_path, text)))


def test_test_images_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    text = "path,label,split\na.jpg,x,train\nb.jpg,,test\nc.jpg,NaN,test\nd.jpg,y,test\n"
    with pytest.warns(UserWarning, match=r"2 test images have no label and are left out \(lines 3, 4\)"):
        assert labels_of(tmp_path, text) == {"a.jpg": "x", "d.jpg": "y"}


def test_training_images_without_a_label_are_refused_by_line(tmp_path: Path) -> None:
    for text in ("path,label,split\na.jpg,x,train\nb.jpg,,train\nc.jpg,,test\n", "path,label\na.jpg,x\nb.jpg,\n"):
        with pytest.raises(DataError, match=r"no label in line 3\."):
            labels_of(tmp_path, text)


def test_an_id_is_the_one_image_of_that_name(tmp_path: Path) -> None:
    pictures(tmp_path, "ISIC_1.jpg", "in/ISIC_2.PNG", "v1.2.png")
    (tmp_path / "ISIC_1.txt").touch()
    text = "image,label\nISIC_1,x\nin/ISIC_2,y\nv1.2,x\nmissing,y\n"
    images = ManifestSource().images(str(manifest(tmp_path, text)))
    names = ["ISIC_1.jpg", "in/ISIC_2.PNG", "v1.2.png", "missing"]
    assert [str(image.path.relative_to(tmp_path)) for image in images] == names


def test_an_id_of_several_images_is_an_error(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "a.png")
    with pytest.raises(DataError, match=r"line 2: a can be a\.jpg, a\.png\. Write the extension"):
        labels_of(tmp_path, "path,label\na,x\n")


def test_an_id_leads_no_stranger_out_of_the_folder(tmp_path: Path) -> None:
    pictures(tmp_path, "private/a.jpg")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "b.jpg").symlink_to(tmp_path / "private" / "a.jpg")
    for typed in ("b", "../private/a"):
        with pytest.raises(DataError, match="leaves the manifest's folder"):
            labels_of(folder, f"path,label\n{typed},x\n", confined=True)


@pytest.mark.parametrize("names", [("fold1", "fold2", "fold3"), ("Fold_0", "Fold_1"), ("split 1", "split 2")])
def test_folds_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    pictures(tmp_path, *(f"{name}/{label}/{name}.jpg" for name in names for label in ("cat", "dog")))
    with pytest.raises(DataError, match=r"are folds .*cat, dog.*path,label,group.*--test"):
        FolderSource().images(str(tmp_path))


def test_a_class_may_be_called_fold(tmp_path: Path) -> None:
    pictures(tmp_path, "fold1/a.jpg", "fold2/b.jpg")
    assert {label for _, label, _ in listed(tmp_path)} == {"fold1", "fold2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Width,Height,ClassId,Path\n8,8,20,a.jpg\n8,8,7,b.jpg\n", [("a.jpg", "20", ""), ("b.jpg", "7", "")]),
        ("image,class,class_id\na.jpg,x,0\nb.jpg,y,1\n", [("a.jpg", "x", ""), ("b.jpg", "y", "")]),
        ("id,breed\na,x\nb,y\n", [("a.jpg", "x", ""), ("b.jpg", "y", "")]),
        ("lesion_id,image_id,dx\n1,a,x\n2,b,y\n", [("a.jpg", "x", "1"), ("b.jpg", "y", "2")]),
        ("Image Index,Finding Labels,Patient ID\na.jpg,x,5\nb.jpg,y,6\n", [("a.jpg", "x", "5"), ("b.jpg", "y", "6")]),
        ("path,label\na.jpg,x\nb.jpg,y\n".encode("utf-16-be"), [("a.jpg", "x", ""), ("b.jpg", "y", "")]),
    ],
)
def test_columns_have_the_names_that_published_tables_use(tmp_path: Path, text: str | bytes, expected: list) -> None:
    pictures(tmp_path, "a.jpg", "b.jpg")
    assert [(name, label, group) for name, label, _, group in rows_of(tmp_path, text)] == expected


def test_a_table_beside_the_folders_of_its_images(tmp_path: Path) -> None:
    pictures(tmp_path, "part_1/a.jpg", "part_2/b.jpg", "part_2/b2.jpg")
    with pytest.warns(UserWarning, match=r"No image is where .*below it are used: part_1, part_2\."):
        images = ManifestSource().images(str(manifest(tmp_path, "image_id,label\na,x\nb,y\nmissing,y\n")))
    names = ["part_1/a.jpg", "part_2/b.jpg", "missing"]
    assert [str(image.path.relative_to(tmp_path)) for image in images] == names


def test_the_folders_that_a_table_of_another_machine_names_decide(tmp_path: Path) -> None:
    pictures(tmp_path, "train/x/a.jpg", "test/x/a.jpg")
    text = "path,label\n/kaggle/input/train/x/a.jpg,x\n"
    with pytest.warns(UserWarning, match="used: train/x"):
        (image,) = ManifestSource().images(str(manifest(tmp_path, text)))
    assert image.path == tmp_path / "train/x/a.jpg"
    with pytest.raises(DataError, match=r"line 2: there is no .*a\.jpg can be test/x/a\.jpg, train/x/a\.jpg\. Write"):
        ManifestSource().images(str(manifest(tmp_path, "path,label\na.jpg,x\n")))


def test_one_image_in_its_place_is_enough_for_none_to_be_looked_for(tmp_path: Path) -> None:
    pictures(tmp_path, "a.jpg", "thumbs/b.jpg")
    images = ManifestSource().images(str(manifest(tmp_path, "path,label\na.jpg,x\nb.jpg,y\n")))
    assert [image.path.is_file() for image in images] == [True, False]


def test_links_below_lead_no_stranger_out(tmp_path: Path) -> None:
    pictures(tmp_path, "private/a.jpg", "data/in/b.jpg")
    folder = tmp_path / "data"
    (folder / "linked").symlink_to(tmp_path / "private")
    (folder / "in" / "c.jpg").symlink_to(tmp_path / "private" / "a.jpg")
    path = manifest(folder, "path,label\na.jpg,x\nb.jpg,y\nc.jpg,y\n")
    for confined, found in ((True, ["a.jpg", "in/b.jpg", "c.jpg"]), (False, ["linked/a.jpg", "in/b.jpg", "in/c.jpg"])):
        with pytest.warns(UserWarning, match="in folders below it"):
            images = ManifestSource().images(str(path), confined=confined)
        assert [str(image.path.relative_to(folder)) for image in images] == found


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["images/a.jpg", "images/b.jpg"],
            r"one class, 'images'.*labels\.csv there lists .*autotl search '/.*labels\.csv'",
        ),
        (["a.jpg", "b.jpg"], r"no class folders.*labels\.csv there lists images with labels: autotl search '/"),
        (["train/a.jpg", "train/b.jpg"], r"no class folders.*labels\.csv there lists images with labels"),
    ],
)
def test_where_a_table_has_the_labels_the_error_names_it(tmp_path: Path, files: list[str], message: str) -> None:
    root = tmp_path / "my data"
    pictures(root, *files)
    (root / "submission.csv").write_text("id,label\na,0\nb,0\n")
    manifest(root, "filename,label\na.jpg,x\nb.jpg,y\n")
    sources = {source.name: source for source in (FolderSource(), ManifestSource())}
    with pytest.raises(DataError, match=message) as error:
        load_dataset(str(root), sources)
    _, _, location = shlex.split(str(error.value)[str(error.value).index("autotl search") :])
    assert load_dataset(location, sources).classes == ("x", "y")


def test_the_hint_at_class_folders_skips_folders_that_wrap_others(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"archive/data/v2/{label}/a.jpg" for label in ("cat", "dog")))
    with pytest.raises(DataError, match=r"If .*/archive/data/v2 holds class folders, give that folder") as error:
        load_dataset(str(tmp_path), {"folder": FolderSource()})
    folder = re.search(r"If (\S+) holds", str(error.value))[1]
    assert load_dataset(folder, {"folder": FolderSource()}).classes == ("cat", "dog")


@pytest.mark.parametrize("inner", ["data", "data/wrapped"])
def test_a_copy_of_the_class_folders_is_no_class(tmp_path: Path, inner: str) -> None:
    pictures(tmp_path, *(f"{folder}/{label}/a.jpg" for folder in (".", inner) for label in ("cat", "dog")))
    if inner == "data":
        with pytest.raises(DataError, match=r"has the folders cat, dog, and data has folders of the same names.*Move"):
            FolderSource().images(str(tmp_path))
    else:
        assert {label for _, label, _ in listed(tmp_path)} == {"cat", "dog", "data"}


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        (["benign/a (1).png", "benign/a (1)_mask.png", "malign/b.png"], 1),
        (["flu/images/1.png", "flu/masks/1.png", "well/images/2.png", "well/masks/2.png"], 2),
        (["JPEGImages/1.jpg", "SegmentationClass/1.png"], 1),
        (["images/a_1.jpg", "annotations/trimaps/a_1.png"], 1),
        (["cat/a.jpg", "cat/thumbs/a.jpg", "dog/b.jpg"], 1),
        (["cat/a.jpg", "cat/b_mask.jpg", "masks/c.jpg", "dog/d.gt.jpg"], 0),
    ],
)
def test_masks_and_thumbnails_of_other_images_are_warned_of(tmp_path: Path, files: list[str], masks: int) -> None:
    pictures(tmp_path, *files)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FolderSource().images(str(tmp_path))
    found = [str(one.message) for one in caught if "look like masks" in str(one.message)]
    assert [text.partition(" ")[0] for text in found] == ([str(masks)] if masks else [])


def test_pieces_of_a_data_set_are_warned_of(tmp_path: Path) -> None:
    pictures(tmp_path, "HAM_images_part_1/a.jpg", "HAM_images_part_2/b.jpg")
    with pytest.warns(UserWarning, match="named like pieces of one data set: HAM_images_part_1, HAM_images_part_2"):
        FolderSource().images(str(tmp_path))


def test_studies_among_the_images_are_no_class(tmp_path: Path) -> None:
    """`cd photos; autotl search .` leaves one there."""
    pictures(tmp_path, "ants/a.jpg", "bees/b.jpg", "studies/photos/artifacts/0.png")
    claim_study(tmp_path / "studies" / "other")
    (tmp_path / "studies" / "photos" / ".autotl").write_text("study\n")
    with pytest.warns(UserWarning, match=r"Left out: .*studies/photos is a study or a cache of autotl\."):
        assert {image.label for image in FolderSource().images(str(tmp_path))} == {"ants", "bees"}


@pytest.mark.slow
def test_folders_without_end_are_left_out_with_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "ants/a.jpg", "bees/b.jpg")
    monkeypatch.chdir(tmp_path / "ants")
    for _ in range(1100):  # longer than Python's stack, and nearly as long as a path may be
        os.mkdir("d")  # noqa: PTH102
        os.chdir("d")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"is more than 100 folders deep"):
        assert len(FolderSource().images(str(tmp_path))) == 2
    with pytest.raises(AutotlError, match="nested too deep"):
        refuse_links_out(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "ants" / "d"], check=True)  # pytest's own removal is recursive


def test_a_label_that_may_mean_a_missing_one_is_told(tmp_path):
    """R writes NA for a missing label, and databases NULL."""
    with pytest.warns(
        UserWarning, match="'NA' is read as the class of 2 images. If it means that the label is missing"
    ):
        images = ManifestSource().images(str(manifest(tmp_path, "path,label\na.png,cat\nb.png,NA\nc.png,NA\n")))
    assert [image.label for image in images] == ["cat", "NA", "NA"]
