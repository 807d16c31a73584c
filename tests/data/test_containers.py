"""Images in Parquet files, in tar archives and at addresses are the images of the folder that they were made from."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autotl.config import default_cache
from autotl.data.containers import ParquetSource, TarSource
from autotl.data.loading import load_dataset
from autotl.data.members import read_image
from autotl.data.remote import fetch
from autotl.data.sources import autotl_register_datasets
from autotl.data.splits import make_split
from autotl.errors import DataError
from autotl.folders import claim_cache
from autotl.testing import dataset_checks


@pytest.fixture(scope="module")
def images(cells):
    """(path, class) of 40 cells."""
    return [(p, c.name) for c in sorted(cells.iterdir()) for p in sorted(c.iterdir())[:20]]


@pytest.fixture(scope="module")
def sources():
    registered = {}
    autotl_register_datasets(lambda source: registered.setdefault(source.name, source))
    return registered


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTL_CACHE", str(tmp_path / "cache"))


def write_parquet(file, images, *, names=("defective", "functional"), rows=7):
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "id": pa.array(range(len(images))),
            "image": pa.array([{"bytes": p.read_bytes(), "path": p.name} for p, _ in images]),
            "label": pa.array([names.index(c) for _, c in images]),
        }
    )
    features = {"label": {"names": list(names), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), file, row_group_size=rows)


def write_tar(file, images, *, label=".cls"):
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for number, (path, name) in enumerate(images):
            archive.add(path, f"{name}/{path.name}" if label is None else f"{number:06}{path.suffix}")
            if label:
                content = json.dumps({"label": name}).encode() if label == ".json" else name.encode()
                info = tarfile.TarInfo(f"{number:06}{label}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def same_as_folder(location, images, sources, tmp_path):
    folder = tmp_path / "folder"
    for path, name in images:
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    expected, found = load_dataset(str(folder), sources), load_dataset(str(location), sources)
    assert found.classes == expected.classes
    of_folder, of_container = (dict(zip(d.digests, d.labels.tolist(), strict=True)) for d in (expected, found))
    assert of_container == of_folder
    return expected, found


@pytest.mark.parametrize("shards", [1, 3])
def test_parquet_with_image_bytes(shards, images, sources, tmp_path):
    for i in range(shards):
        write_parquet(tmp_path / "set" / "data" / f"images-{i:05}-of-{shards:05}.parquet", images[i::shards])
    same_as_folder(tmp_path / "set", images, sources, tmp_path)


def test_the_split_does_not_depend_on_the_container(images, sources, tmp_path):
    write_parquet(tmp_path / "cells.parquet", images)
    write_tar(tmp_path / "cells.tar", images)
    expected, parquet = same_as_folder(tmp_path / "cells.parquet", images, sources, tmp_path)
    archive = load_dataset(str(tmp_path / "cells.tar"), sources)
    subsets = [
        {name: {d.digests[i] for i in getattr(make_split(d, 0), name)} for name in ("train", "validation", "test")}
        for d in (expected, parquet, archive)
    ]
    assert subsets[0] == subsets[1] == subsets[2]


@pytest.mark.parametrize("label", [".cls", ".json", None])
def test_tar_shards(label, images, sources, tmp_path):
    for i in range(2):
        write_tar(tmp_path / "shards" / f"cells-{i:06}.tar", images[i::2], label=label)
    same_as_folder(tmp_path / "shards", images, sources, tmp_path)


def archive_of(file, members, links=()):
    """Write a tar archive of empty files of these names; links are (name, target)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name in members:
            archive.addfile(tarfile.TarInfo(name))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    return str(file)


def listed(location):
    return sorted((i.subset, i.label, i.path.name) for i in TarSource().images(location))


def test_folders_of_subsets_in_an_archive_are_subsets(tmp_path):
    names = [f"pets/{subset}/{kind}/1.jpg" for subset in ("train", "test") for kind in ("cat", "dog")]
    assert listed(archive_of(tmp_path / "pets.tar", names)) == [
        (subset, kind, f"pets_{subset}_{kind}_1.jpg") for subset in ("test", "train") for kind in ("cat", "dog")
    ]


def test_images_below_a_class_folder_of_an_archive_are_of_the_class(tmp_path):
    names = [f"./pets/{kind}/{year}/1.jpg" for kind in ("cat", "dog") for year in ("2020", "2021")]
    assert [(s, c) for s, c, _ in listed(archive_of(tmp_path / "pets.tar", names))] == [("", "cat")] * 2 + [
        ("", "dog")
    ] * 2


def test_every_image_of_shards_is_kept_whatever_its_name(tmp_path):
    """Dots in names, and the same name in several shards."""
    for shard in ("pets-0.tar", "pets-1.tar"):
        archive_of(tmp_path / shard, [f"{kind}/img.00{i}.jpg" for kind in ("cat", "dog") for i in (1, 2)])
    paths = {image.path for image in TarSource().images(str(tmp_path))}
    assert len(paths) == 8


def test_a_hard_link_in_an_archive_is_the_image_that_it_links_to(tmp_path):
    names = ["cat/1.jpg", "dog/1.jpg"]
    assert len(listed(archive_of(tmp_path / "pets.tar", names, [("cat/2.jpg", "cat/1.jpg"), ("cat/3.jpg", "no")]))) == 3


def test_what_an_archive_has_beside_images_is_told_and_what_systems_add_is_not(tmp_path):
    names = ["cat/1.jpg", "cat/._1.jpg", "cat/.DS_Store", "__MACOSX/1.jpg", "dog/1.jpg", "dog/notes.pdf", "README"]
    with pytest.warns(UserWarning, match=r"not images: \.pdf \(1\), no extension \(1\)\.$"):
        assert [label for _, label, _ in listed(archive_of(tmp_path / "pets.tar", names))] == ["cat", "dog"]


def test_a_folder_of_an_archive_whose_name_is_not_utf8_is_a_class(tmp_path):
    with pytest.warns(UserWarning, match="isn't UTF-8"):
        found = listed(archive_of(tmp_path / "pets.tar", ["caf\udce9/1.jpg", "tea/1.jpg"]))
    assert [label for _, label, _ in found] == ["caf\\xe9", "tea"]


def test_an_archive_without_folders_is_refused(tmp_path):
    with pytest.raises(DataError, match="no class folders"):
        listed(archive_of(tmp_path / "pets.tar", ["./1.jpg", "2.jpg"]))


def test_an_archive_is_indexed_once(images, tmp_path, monkeypatch):
    write_tar(tmp_path / "cells.tar", images)
    first = TarSource().images(str(tmp_path / "cells.tar"))
    monkeypatch.setattr("autotl.data.containers._read_index", lambda file: pytest.fail("indexed again"))
    assert TarSource().images(str(tmp_path / "cells.tar")) == first
    claim_cache(default_cache())  # what is the first in the cache doesn't make it a folder of somebody else


def test_files_named_like_subsets_are_subsets(images, tmp_path):
    write_parquet(tmp_path / "train-00000-of-00001.parquet", images[::2])
    write_parquet(tmp_path / "test-00000-of-00001.parquet", images[1::2])
    listed = ParquetSource().images(str(tmp_path))
    assert {image.subset for image in listed} == {"train", "test"}


def test_an_image_that_is_gone_is_an_os_error(images, tmp_path):
    write_tar(tmp_path / "cells.tar", images)
    last = TarSource().images(str(tmp_path / "cells.tar"))[-1].path
    (tmp_path / "cells.tar").write_bytes((tmp_path / "cells.tar").read_bytes()[:2000])
    with pytest.raises(OSError, match="shorter"):
        read_image(last)
    with pytest.raises(OSError, match="No such file"):
        read_image(Path("/nowhere/cells.zip/@0+5/a.png"))


def test_folders_may_be_called_like_a_place_in_a_file(images, tmp_path):
    folder = tmp_path / "@1" / "shots.tar" / "@2+3"
    folder.mkdir(parents=True)
    write_tar(folder / "cells.tar", images)
    (folder / "a.png").write_bytes(b"content")
    assert read_image(folder / "a.png") == b"content"
    assert read_image(TarSource().images(str(folder / "cells.tar"))[0].path)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [("a.parquet", b"PAR1 not really", "not a Parquet file"), ("a.tar", b"\x1f\x8b\x08 not really", "tar archive")],
)
def test_a_damaged_container_is_named(name, content, expected, sources, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=expected):
        load_dataset(str(tmp_path / name), sources)


def test_columns_that_are_missing_are_named(tmp_path):
    pq.write_table(pa.table({"label": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column of image bytes\. Its columns: label"):
        ParquetSource().images(str(tmp_path / "a.parquet"))
    pq.write_table(pa.table({"image": [b"x"], "a": [1], "b": [2]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="no column called label"):
        ParquetSource().images(str(tmp_path / "b.parquet"))


@pytest.mark.parametrize("kind", [pa.binary, pa.large_binary, pa.binary_view])
def test_parquet_as_other_programs_write_it(kind, tmp_path):
    """Bytes of any type; rows without an image, without a label and with spaces around it; a column of subsets."""
    struct = pa.struct([("bytes", kind()), ("path", pa.string())])
    rows = [{"bytes": b"one", "path": "a.png"}, None, {"bytes": b"three", "path": "."}, {"bytes": b"four", "path": ""}]
    for name, column in (
        ("struct", pa.array(rows, struct)),
        ("flat", pa.array([r and r["bytes"] for r in rows], kind())),
    ):
        file = tmp_path / f"{name}.parquet"
        labels, splits = ["cat", "dog", " cat ", " "], ["train", "train", "test", "val"]
        pq.write_table(pa.table({"image": column, "label": labels, "split": splits}), file)
        with pytest.warns(UserWarning, match="split|label") as told:
            listed = ParquetSource().images(str(file))
        assert [(i.label, i.subset) for i in listed] == [("cat", "train"), ("dog", "train"), ("cat", "test")]
        assert [str(w.message).replace(str(file), "FILE") for w in told] == [
            "Subsets are read from the column 'split' of FILE.",
            "FILE: 1 row without a label is left out.",
        ]
        assert read_image(listed[2].path) == b"three"
        with pytest.raises(OSError, match="no image in this row"):
            read_image(listed[1].path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([b"cat", b"dog"], ["cat", "dog"]),  # text that the program has not marked as such
        ([-1, 1], ["-1", "1"]),  # as of a support vector machine; a missing one only beside names of classes
        ([1.0, None], ["1.0"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*without a label")
def test_labels_in_parquet_of_every_type(labels, expected, tmp_path):
    columns = {"image": [b"one", b"two"], "label": labels, "origin": ["here", "there"]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert [image.label for image in ParquetSource().images(str(tmp_path / "a.parquet"))] == expected


def test_numbers_of_classes_that_pandas_made_floats_have_names(images, tmp_path):
    write_parquet(tmp_path / "ints.parquet", images[:4])
    table = pq.read_table(tmp_path / "ints.parquet")
    floats = pa.array([0.0, 1.0, -1.0, None])
    pq.write_table(
        table.set_column(2, "label", floats).replace_schema_metadata(table.schema.metadata), tmp_path / "a.parquet"
    )
    with pytest.warns(UserWarning, match="2 rows without a label"):
        found = ParquetSource().images(str(tmp_path / "a.parquet"))
    assert [image.label for image in found] == ["defective", "functional"]


@pytest.mark.parametrize("label", [[0, 1], {"name": "cat"}])
def test_several_labels_of_an_image_in_parquet_are_refused(label, tmp_path):
    pq.write_table(pa.table({"image": [b"x"], "label": [label]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="one class to each image"):
        ParquetSource().images(str(tmp_path / "a.parquet"))


def test_what_a_stranger_writes_into_a_parquet_file_is_refused_in_words(tmp_path):
    columns = [pa.array([b"one"]), pa.array(["cat"])]
    deep = {"huggingface": "[" * 100_000}
    pq.write_table(
        pa.Table.from_arrays(columns, ["image", "label"]).replace_schema_metadata(deep), tmp_path / "deep.parquet"
    )
    assert [image.label for image in ParquetSource().images(str(tmp_path / "deep.parquet"))] == ["cat"]
    pq.write_table(
        pa.Table.from_arrays([*columns, columns[1]], ["image", "label", "label"]), tmp_path / "twice.parquet"
    )
    with pytest.raises(DataError, match="several columns called label"):
        ParquetSource().images(str(tmp_path / "twice.parquet"))
    pq.write_table(pa.table({"image": [b"one"], "label": ["cat\0"]}), tmp_path / "nul.parquet")
    with pytest.raises(DataError, match="NUL character"):
        ParquetSource().images(str(tmp_path / "nul.parquet"))


@pytest.mark.parametrize(("label", "content"), [(".json", b"[" * 30_000), (".cls", b"cat\0")])
def test_labels_of_an_archive_that_are_no_texts(label, content, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("1.jpg", f"1{label}"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"NUL character|no class folders"):
        TarSource().images(str(tmp_path / "a.tar"))


@dataset_checks
@pytest.mark.parametrize("suffix", [".parquet", ".tar"])
def test_contract(check, suffix, images, tmp_path):
    file = tmp_path / f"cells{suffix}"
    (write_parquet if suffix == ".parquet" else write_tar)(file, images)
    check(ParquetSource() if suffix == ".parquet" else TarSource(), location=str(file))


def test_an_address_is_copied_once_and_read_like_a_local_file(images, sources, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    write_parquet(tmp_path / "cells.parquet", images)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/set/cells.parquet", (tmp_path / "cells.parquet").read_bytes())
    same_as_folder("memory://bucket/set", images, sources, tmp_path)
    with pytest.raises(DataError, match="can't be read: FileNotFoundError"):
        load_dataset("memory://bucket/nothing.parquet", sources)


def test_a_copy_of_a_folder_follows_the_folder():
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe_file("/pets/cats/1.jpg", b"one")
    memory.pipe_file("/pets/dogs/2.jpg", b"two")
    fetch("memory://pets")
    memory.mv("/pets/cats/1.jpg", "/pets/dogs/1.jpg")
    memory.pipe_file("/pets/dogs/2.jpg", b"new")
    copy = fetch("memory://pets")
    images = {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*.jpg")}
    assert images == {"dogs/1.jpg": b"one", "dogs/2.jpg": b"new"}


@pytest.mark.slow
def test_s3(images, sources, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    import s3fs

    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        system = s3fs.S3FileSystem()
        system.mkdir("photos")
        for path, name in images:
            system.put_file(str(path), f"photos/cells/{name}/{path.name}")
        same_as_folder("s3://photos/cells", images, sources, tmp_path)
    finally:
        server.stop()
