"""Images and labels as people hand them over: one item for each of them, or an error that names what was given."""

import decimal
import io
import warnings
import zipfile
from enum import Enum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.exceptions import DataConversionWarning

from autotl.data.dataset import LabelledImage
from autotl.data.inputs import as_images, as_labelled_images, as_labels
from autotl.errors import DataError, InputError

RGB, GREY = np.zeros((7, 48, 40, 3), np.uint8), np.zeros((7, 48, 40), np.uint8)
PIL = [Image.fromarray(image) for image in RGB]

SINGLE = {
    "a path": "a.png",
    "a Path": Path("a.png"),
    "an array of one text": np.array("a.png"),
    "a PIL image": PIL[0],
    "an RGB array": RGB[0],
    "a grey array": GREY[0],
    "an array with one channel": GREY[0][..., None],
    "an array with one channel first": GREY[:1],
    "a tensor": torch.zeros(48, 40),
}
SEVERAL = {
    "an array of text": np.array(list("abcdefg")),
    "an array of Paths": np.array([Path(name) for name in "abcdefg"], dtype=object),
    "a column of text": np.array(list("abcdefg"))[:, None],
    "NumPy's text": np.array(list("abcdefg"), dtype=np.dtypes.StringDType()),
    "a Series": pd.Series(list("abcdefg"), index=range(7, 0, -1)),
    "a Series of Arrow text": pd.Series(list("abcdefg"), dtype="string[pyarrow]"),
    "categories": pd.Series(list("abcdefg"), dtype="category"),
    "an Index": pd.Index(list("abcdefg")),
    "a frame": pd.DataFrame({"path": list("abcdefg")}),
    "a Series of arrays": pd.Series(list(RGB)),
    "a tuple": tuple("abcdefg"),
    "a generator": (name for name in "abcdefg"),
    "keys of a dict": dict.fromkeys("abcdefg").keys(),
    "an iterator over PIL images": iter(PIL),
    "an object array that NumPy made of PIL images": np.array([np.asarray(image) for image in PIL], dtype=object),
    "RGB": RGB,
    "RGBA": np.zeros((7, 48, 40, 4), np.uint8),
    "one channel": GREY[..., None],
    "channels first": RGB.transpose(0, 3, 1, 2),
    "a grey stack": GREY,
    "a tensor": torch.zeros(7, 3, 48, 40),
    "a list of tensors": list(torch.zeros(7, 3, 48, 40)),
    "a list of lists of its own kinds": ["a", Path("b"), PIL[0], RGB[0], GREY[0], torch.zeros(3, 48, 40), np.str_("g")],
}


def closed():
    file = io.BytesIO(b"content")
    file.close()
    return file


NOT_IMAGES = {
    "None": (None, "images is a NoneType, not a sequence of images"),
    "a number": (5, "images is a int, not a sequence"),
    "no content": (b"", r"images is empty: bytes of no bytes"),
    "an empty file": (io.BytesIO(b""), r"images is empty: BytesIO of no bytes"),
    "a file of text": (io.StringIO("text"), r"an open file \(StringIO\) that gives str, not bytes.*'rb'"),
    "a closed file": (closed(), r"an open file \(BytesIO\) that can't be read: .*closed file"),
    "a dict": ({"a.png": 1}, "a dict, which has no order"),
    "a set": ({"a.png"}, "a set, which has no order"),
    "a list with None": (["a.png", None], r"images\[1\] is None, not a path"),
    "a list with NaN": (["a.png", float("nan")], r"images\[1\] is nan"),
    "a Series with NaN": (pd.Series(["a.png", None]), r"images\[1\] is nan"),
    "a list with pandas.NA": (["a.png", pd.NA], r"images\[1\] is <NA>"),
    "a list with an empty file": (["a.png", io.BytesIO()], r"images\[1\] is empty"),
    "an array of bytes": (np.array([b"a.png"]), r"an array \[1\] of \|S5"),
    "nested lists of paths": ([["a.png"], ["b.png"]], r"images\[0\] is a list, not a path"),
    "nested lists of pixels": ([[0, 255], [255, 0]], r"images\[0\] is a list.*numpy\.asarray"),
    "pairs of a data set": ([(RGB[0], 1)], r"images\[0\] is a tuple"),
    "a list of batches": ([RGB, RGB], r"images\[0\] is an array \[7, 48, 40, 3\], not one image"),
    "a list of numbers": ([np.float32(1)], r"images\[0\] is a float32"),
    "a row of numbers": (np.arange(5), r"an array \[5\] of int64, not of images"),
    "two columns": (pd.DataFrame({"a": ["x"], "b": ["y"]}), r"an array \[1, 2\] of"),
    "videos": (np.zeros((2, 7, 48, 40, 3)), r"an array \[2, 7, 48, 40, 3\]"),
    "five channels": (np.zeros((2, 48, 40, 5)), r"an array \[2, 48, 40, 5\]"),
    "a tensor with a gradient": (torch.zeros(7, 3, 48, 40, requires_grad=True), "a Tensor that NumPy can't read"),
    "a tensor of bfloat16": (torch.zeros(7, 3, 8, 8, dtype=torch.bfloat16), "a Tensor that NumPy can't read"),
}


@pytest.mark.parametrize("given", SINGLE.values(), ids=SINGLE.keys())
def test_one_image_is_a_list_of_one(given):
    assert len(as_images(given)) == 1


@pytest.mark.parametrize("given", SEVERAL.values(), ids=SEVERAL.keys())
def test_several_images_are_a_list_in_their_order(given):
    images = as_images(given)
    assert len(images) == 7
    if isinstance(images[0], str) and not isinstance(given, list):
        assert "".join(images) == "abcdefg"


@pytest.mark.parametrize("given", [[], (), np.array([]), np.array([], dtype=str), pd.Series([], dtype=str), RGB[:0]])
def test_no_images_are_an_empty_list(given):
    assert as_images(given) == []


@pytest.mark.parametrize(("given", "message"), NOT_IMAGES.values(), ids=NOT_IMAGES.keys())
def test_what_is_not_an_image_is_an_error_that_names_it(given, message):
    with pytest.raises(InputError, match=message) as error:
        as_images(given)
    assert isinstance(error.value, DataError)
    assert isinstance(error.value, ValueError)


@pytest.mark.parametrize("n", [3, 4])
def test_an_array_that_may_be_one_image_or_several_is_an_error_with_both_remedies(n):
    with pytest.raises(InputError, match=rf"\[{n}, 48, 40\].*Give \[image\] for one, and list\(images\) for several"):
        as_images(GREY[:n])
    assert len(as_images([GREY[:n]])) == 1
    assert len(as_images(list(GREY[:n]))) == len(as_images(GREY[:n], stacked=True)) == n


@pytest.mark.parametrize("given", [SINGLE["a path"], PIL[0], RGB[0], GREY[0]])
def test_one_image_is_an_error_where_a_sequence_is_needed(given):
    with pytest.raises(InputError, match=r"X is a single image|X is an array"):
        as_images(given, "X", single=False)


NAN = float("nan")
LABELS = {
    "text": ["b", "a", "b", "a"],
    "a tuple": ("b", "a", "b", "a"),
    "a generator": iter(["b", "a", "b", "a"]),
    "values of a dict": dict(enumerate(["b", "a", "b", "a"])).values(),
    "a Series": pd.Series(["b", "a", "b", "a"], index=[9, 8, 7, 6]),
    "pandas' text": pd.Series(["b", "a", "b", "a"], dtype="string"),
    "Arrow text": pd.Series(["b", "a", "b", "a"], dtype="string[pyarrow]"),
    "NumPy's text": np.array(["b", "a", "b", "a"], dtype=np.dtypes.StringDType()),
    "categories": pd.Series(["b", "a", "b", "a"], dtype="category"),
    "a Categorical": pd.Categorical(["b", "a", "b", "a"], categories=["b", "a", "unused"]),
    "numbers as text": ["10", "9", "10", "9"],
    "text with outer spaces": [" a", "a", " a", "a"],
    "integers": [3, 1, 3, 1],
    "pandas' integers": pd.Series([3, 1, 3, 1], dtype="Int64"),
    "booleans": [True, False, True, False],
    "pandas' booleans": pd.Series([True, False, True, False], dtype="boolean"),
    "whole floats": [3.0, 1.0, 3.0, 1.0],
    "a tensor": torch.tensor([3, 1, 3, 1]),
    "dates": np.array(["2021-01-01", "2020-01-01"] * 2, dtype="datetime64[D]"),
    "a column": np.array([["b"], ["a"], ["b"], ["a"]]),
    "a frame": pd.DataFrame({"label": ["b", "a", "b", "a"]}),
}
MISSING = {
    "None in text": ["a", None, "b", None],
    "NaN in text, which NumPy makes the text 'nan'": ["a", NAN, "b", NAN],
    "pandas.NA in text": ["a", pd.NA, "b", pd.NA],
    "None in integers": [0, None, 1, None],
    "a Series of text": pd.Series(["a", NAN, "b", NAN], index=[5, 5, 5, 5]),
    "an object array": np.array(["a", NAN, "b", None], dtype=object),
    "floats": np.array([0.0, NAN, 1.0, NAN]),
    "pandas' integers": pd.Series([0, None, 1, None], dtype="Int64"),
    "pandas' booleans": pd.Series([True, None, False, None], dtype="boolean"),
    "pandas' text": pd.Series(["a", None, "b", None], dtype="string"),
    "Arrow text": pd.Series(["a", None, "b", None], dtype="string[pyarrow]"),
    "categories": pd.Series(["a", None, "b", None], dtype="category"),
    "dates": pd.Series(pd.to_datetime(["2020-01-01", None, "2021-01-01", None])),
    "a frame": pd.DataFrame({"label": ["a", None, "b", None]}),
    "a column": [["a"], [NAN], ["b"], [None]],
    "a masked array": np.ma.array([0, 1, 1, 0], mask=[0, 1, 0, 1]),
}
NOT_LABELS = {
    "None": (None, "the target y is None"),
    "text": ("abab", "y is a str, not a sequence of labels"),
    "a number": (5, "y is a int, not a sequence"),
    "a dict": ({"a": 1}, "y is a dict"),
    "a set": ({"a", "b"}, "y is a set"),
    "one-hot rows": (np.eye(3), r"y is an array \[3, 3\].*argmax"),
    "a frame of two columns": (pd.DataFrame({"a": [1, 0], "b": [0, 1]}), r"y is an array \[2, 2\].*one column"),
    "a row": ([["a", "b", "a"]], r"y is an array \[1, 3\]"),
    "rows of different lengths": ([["a"], ["a", "b"]], r"y can't be used as labels.*y\[0\] is \['a'\]"),
    "fractions": ([0.0, 0.5, 1.0], r"continuous.*y\[1\] is 0\.5"),
    "infinity": ([0.0, float("inf")], r"infinity.*y\[1\] is inf"),
    "bytes": ([b"a", b"b"], r"bytes.*y\[0\] is b'a'"),
    "integers as objects": (np.array([0, 1], dtype=object), r"Unknown label type.*y\.astype\(str\)"),
    "integers and text as objects": (np.array([0, "a"], dtype=object), r"Unknown label type.*y\.astype\(str\)"),
    "decimals": ([decimal.Decimal("1.5"), decimal.Decimal(2)], r"Unknown label type.*y\[0\] is Decimal"),
    "complex numbers": (np.array([0j, 1]), r"Complex data not supported \[0\.\+0\.j 1\.\+0\.j\] y\[0\]"),
    "records": (np.array([(1, 2)], dtype=[("a", int), ("b", int)]), "structured array"),
    "a NUL character": (["a\0", "a"], r"y\[0\] is 'a\\x00', with a NUL character"),
    "empty text": (["a", "", "b", " "], r"y has 2 empty labels \(text without a character\), at 1, 3"),
    "one missing label": (["a", None], r"y has 1 missing label \(None or NaN\), at 1: remove this image\."),
}


@pytest.mark.parametrize("given", LABELS.values(), ids=LABELS.keys())
def test_labels_are_an_array_of_one_dimension(given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        labels = as_labels(given)
    assert labels.shape == (4,)
    assert labels[0] == labels[2] != labels[1]


@pytest.mark.parametrize("given", MISSING.values(), ids=MISSING.keys())
def test_missing_labels_are_an_error_that_names_their_positions(given):
    with pytest.raises(InputError, match=r"y has 2 missing labels \(None or NaN\), at 1, 3: remove these images"):
        as_labels(given)


@pytest.mark.parametrize(("given", "message"), NOT_LABELS.values(), ids=NOT_LABELS.keys())
def test_what_is_not_a_label_is_an_error_that_names_it(given, message):
    with pytest.raises(InputError, match=message):
        as_labels(given)


NOT_LABELLED = {
    "a tuple": (("a.png", "cat"), r"data\[1\] is a tuple, not a LabelledImage"),
    "a number as label": (LabelledImage(Path("a"), 3), r"data\[1\]\.label is 3.*str\(label\)"),
    "no label": (LabelledImage(Path("a"), None), r"data\[1\]\.label is None.*remove this image"),
    "NaN as label": (LabelledImage(Path("a"), NAN), r"data\[1\]\.label is nan.*remove this image"),
    "empty text as label": (LabelledImage(Path("a"), ""), r"data\[1\]\.label is ''.*remove this image"),
    "no path": (LabelledImage(None, "cat"), r"data\[1\]\.path is None"),
    "an unknown subset": (LabelledImage(Path("a"), "cat", "val"), r"subset is 'val': .*'validation', 'test'"),
    "a date as time": (LabelledImage(Path("a"), "cat", time="2024-05-31"), r"data\[1\]\.time is '2024-05-31'"),
    "a NUL character": (LabelledImage(Path("a"), "cat\0"), r"data\[1\]\.label is 'cat\\x00', with a NUL"),
    "NaN as time": (LabelledImage(Path("a"), "cat", time=NAN), r"data\[1\]\.time is nan, not a number"),
    "a number as group": (LabelledImage(Path("a"), "cat", "", 7), r"data\[1\]\.group is 7.*str\(group\)"),
}


@pytest.mark.parametrize(("image", "message"), NOT_LABELLED.values(), ids=NOT_LABELLED.keys())
def test_a_labelled_image_with_another_content_is_an_error_with_its_position(image, message):
    with pytest.raises(InputError, match=message):
        as_labelled_images([LabelledImage(Path("b"), "dog"), image])


def test_fields_of_labelled_images_are_of_the_plain_types():
    kind = Enum("kind", {"CAT": "cat"}, type=str)
    (image,) = as_labelled_images([LabelledImage("a", kind.CAT, "", np.str_("g"), np.float32(3))])
    assert [type(field) for field in (image.label, image.group, image.time)] == [str, str, float]
    assert image.label == "cat"


def test_paths_of_labelled_images_may_be_text():
    assert as_labelled_images(iter([LabelledImage("a.png", "cat")])) == [LabelledImage(Path("a.png"), "cat")]


@pytest.mark.parametrize(("given", "message"), [([], "data has no images"), (None, "data is a NoneType")])
def test_no_labelled_images_are_an_error(given, message):
    with pytest.raises(InputError, match=message):
        as_labelled_images(given)


def opened(content):
    file = io.BytesIO(content)
    file.seek(3)  # as another reader left it
    return file


@pytest.mark.parametrize("given", [b"content", bytearray(b"content"), memoryview(b"content"), opened(b"content")])
def test_the_content_of_a_file_is_one_image(given):
    assert as_images(given) == [b"content"]
    if isinstance(given, io.BytesIO):
        given.seek(3)
    assert as_images(["a.png", given]) == ["a.png", b"content"]


def test_a_file_in_an_archive_is_one_image(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"content")
    path = zipfile.Path(tmp_path / "a.zip")
    assert as_images(path / "a.png") == as_images([path / "a.png"]) == [b"content"]
    with pytest.raises(InputError, match=r"images is .*a\.zip/b\.png, which can't be read"):
        as_images(path / "b.png")


def test_a_file_on_disk_that_is_open_is_read(tmp_path):
    (tmp_path / "image").write_bytes(b"content")
    with (tmp_path / "image").open("rb") as file:
        assert as_images([file, file]) == [b"content"] * 2
    with (tmp_path / "image").open() as file, pytest.raises(InputError, match="gives str, not bytes"):
        as_images(file)


@pytest.mark.parametrize("label", ["caf\udce9", "\ud800", "half \udfff of it"])
def test_labels_that_are_no_text_are_refused_by_position(label):
    for y in (["cat", label], np.array(["cat", label]), pd.Series(["cat", label], dtype=object), [["cat"], [label]]):
        with pytest.raises(InputError, match=r"y\[1\] is .*can't be written as UTF-8.*surrogateescape"):
            as_labels(y)
    for image in (LabelledImage("a.png", label), LabelledImage("a.png", "cat", group=label)):
        with pytest.raises(InputError, match=r"data\[0\]\.(label|group) is .*can't be written as UTF-8"):
            as_labelled_images([image])
