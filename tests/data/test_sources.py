"""The built-in dataset sources: folder layouts and manifests, valid and invalid."""

import warnings
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from autotl.data.dataset import LabelledImage
from autotl.data.sources import FolderSource, ManifestSource
from autotl.errors import DataError

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
    for text in (".txt (1)", ".heic (1)", "loose.jpg", "wasps is empty"):
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


def test_columns_in_any_order_other_columns_and_a_byte_order_mark_are_accepted(tmp_path: Path) -> None:
    path = manifest(tmp_path, "Label,width,Path\nants,4,a.jpg\n\n", encoding="utf-8-sig")
    assert ManifestSource().images(str(path)) == [LabelledImage(tmp_path / "a.jpg", "ants")]


def test_a_misspelt_column_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="'spilt' .* Did you mean 'split'"):
        ManifestSource().images(str(manifest(tmp_path, "path,label,spilt\na.jpg,ants,train\n")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'path'; its header is empty"),
        ("path,label\n", "lists no images"),
        ("file,label\na.jpg,x\n", "no column 'path'; its header is file,label"),
        ("path,lable\na.jpg,x\n", "no column 'label'.* Is it 'lable'"),
        ("path;label\na.jpg;x\n", "Separate the columns with commas"),
        ("path,label,label\na.jpg,x,y\n", "'label' twice"),
        ("path,label\na.jpg,x\nb.jpg,\nc.jpg,x\nd.jpg\n", "no label in lines 3, 5"),
        ("path,label\n,x\n", "no path in line 2"),
        ("path,label\na.jpg,x,y\n", "line 2: 3 values for 2 columns"),
        ('path,label\n"a.jpg,x\n', "invalid CSV"),
        ("path,label,split\na.jpg,x,trian\n", "line 2: the split 'trian' is unknown. Did you mean 'train'"),
        ("path,label,split\na.jpg,x,train\nb.jpg,x,\n", "but not line 3"),
        ("path,label\n/etc/passwd.jpg,x\n", "line 2: /etc/passwd.jpg is absolute"),
        ("path,label\nC:\\a.jpg,x\n", "is absolute"),
        ("path,label\na.jpg,x\n../b.jpg,x\n", r"line 3: \.\./b\.jpg leaves the manifest's folder"),
        ("path,label\nsub/../../b.jpg,x\n", "leaves the manifest's folder"),
        ("path,label\nlink.jpg,x\n", "link.jpg leaves the manifest's folder"),
        ("path,label\nlinked/a.jpg,x\n", "linked/a.jpg leaves the manifest's folder"),
        ("path,label\n.,x\n", "leaves the manifest's folder"),
        ("path,label\na\0.jpg,x\n", "is not a path: it contains a NUL character"),
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
    with pytest.raises(DataError, match="isn't UTF-8"):
        ManifestSource().images(str(manifest(tmp_path, "path,label\na.jpg,é\n", encoding="latin-1")))


def test_a_relative_manifest_gives_relative_paths_that_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path, "data/a.jpg")
    manifest(tmp_path / "data", "path,label\na.jpg,x\n")
    monkeypatch.chdir(tmp_path)
    (image,) = ManifestSource().images(str(Path("data/labels.csv")))
    assert image.path.is_file()
