"""Images and labels as a caller of the Python API passes them: lists, arrays, frames, tensors."""

import math
import os
from collections.abc import Iterable, Iterator, KeysView, Mapping, ValuesView
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image

from autotl.data.dataset import LabelledImage, Subset, join_names
from autotl.errors import InputError

__all__ = ["IN_MEMORY", "as_images", "as_labelled_images", "as_labels"]

IN_MEMORY = "in-memory"
"""`StudyConfig.data` of a search whose labelled images were passed as a list."""

CHANNELS = (1, 3, 4)
"""Lengths of an array's axis that may hold channels: grey, RGB, RGBA."""


NO_TEXT = (
    "which can't be written as UTF-8: a file's name in another encoding has such characters. Replace them: "
    "label.encode(errors='surrogateescape').decode(errors='replace')"
)


def as_images(given: Any, name: str = "images", *, single: bool = True, stacked: bool = False) -> list[Any]:
    """The images in `given`, in order: paths, PIL images, the bytes of files, and what NumPy makes an array of.

    Open binary files are read: they become bytes.

    Args:
        given: one image; or an iterable of images; or an array or tensor [n, height, width],
            [n, height, width, channels] or [n, channels, height, width]; or a Series, an array or a column of paths.
        name: of the argument, for errors.
        single: whether `given` may be one image.
        stacked: whether several images are known to come as an array [n, height, width].

    Raises:
        InputError: `given` isn't images, or holds something else; or an array of three axes may be one image with its
            channels first as well as several grey ones.
    """
    given = _read_encoded(given, name)
    if isinstance(given, str | os.PathLike | Image.Image | bytes):
        return _single(given, name, single=single)
    if isinstance(given, Mapping | set | frozenset):
        raise InputError(f"{name} is a {type(given).__name__}, which has no order of images. Give a list of images.")
    if hasattr(given, "__array__"):
        images = _images_of_array(_as_array(given, name), name, single=single, stacked=stacked)
    elif isinstance(given, Iterable):
        images = list(given)
    else:
        raise InputError(f"{name} is a {type(given).__name__}, not a sequence of images.")
    return [_checked_item(image, f"{name}[{number}]") for number, image in enumerate(images)]


def _single(image: Any, name: str, *, single: bool) -> list[Any]:
    if not single:
        raise InputError(f"{name} is a single image: pass a list of images.")
    return [image]


def _read_encoded(given: Any, name: str) -> Any:
    """The bytes of an open file, from its start where it has one; anything else as it is.

    Raises:
        InputError: a file is empty, closed, or open as text; or `given` is empty bytes.
    """
    content = bytes(given) if isinstance(given, bytearray | memoryview) else given
    if callable(read := getattr(given, "read", None)):
        what = f"{name} is an open file ({type(given).__name__})"
        try:
            if callable(seekable := getattr(given, "seekable", None)) and seekable():
                given.seek(0)
            content = read()
        except (OSError, ValueError) as error:  # closed, or open as text with other bytes than its encoding's
            raise InputError(f"{what} that can't be read: {error}. Open it with open(path, 'rb').") from error
        if not isinstance(content, bytes):
            raise InputError(f"{what} that gives {type(content).__name__}, not bytes. Open it with open(path, 'rb').")
    elif not isinstance(given, os.PathLike) and callable(read_bytes := getattr(given, "read_bytes", None)):
        try:
            content = read_bytes()  # a zipfile.Path, or a resource of a package
        except (OSError, KeyError, ValueError) as error:
            raise InputError(f"{name} is {given}, which can't be read: {error}") from error
    if isinstance(content, bytes) and not content:
        raise InputError(f"{name} is empty: {type(given).__name__} of no bytes. Give the content of an image file.")
    return content


def _as_array(given: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except (RuntimeError, TypeError, ValueError) as error:  # a tensor on a GPU, or one that requires a gradient
        raise InputError(f"{name} is a {type(given).__name__} that NumPy can't read: {error}") from error


def _images_of_array(array: np.ndarray, name: str, *, single: bool, stacked: bool) -> list[Any]:
    if array.dtype == object and array.ndim > 2:  # NumPy takes a list of PIL images apart, down to their pixels
        array = _as_array(array.tolist(), name)
    shape = list(array.shape)
    if array.dtype.kind in "OUT":
        if array.ndim == 0:
            return as_images(array.item(), name, single=single)
        if array.ndim == 1 or shape[1:] == [1]:
            return list(array.ravel().tolist())
    elif shape and not len(array):
        return []
    elif array.ndim == 3 and shape[2] in CHANNELS:
        if not single:
            raise InputError(f"{name} is a single image, an array {shape}: pass a list of images.")
        return [array]
    elif array.ndim == 3 and len(array) in CHANNELS[1:] and not stacked:
        raise InputError(
            f"{name} is an array {shape}: one image with its channels first, or a stack of {len(array)} grey images. "
            "Give [image] for one, and list(images) for several."
        )
    elif array.ndim == 3 or (array.ndim == 4 and {shape[1], shape[3]} & set(CHANNELS)):
        return list(array)
    elif array.ndim == 2 and single:
        return [array]
    raise InputError(
        f"{name} is an array {shape} of {array.dtype}, not of images: give [n, height, width], "
        "[n, height, width, channels], [n, channels, height, width], or one column of paths; of a file's content "
        "array.tobytes()."
    )


def _checked_item(image: Any, name: str) -> Any:
    image = _read_encoded(image, name)
    if isinstance(image, str | os.PathLike | Image.Image | bytes):
        return image
    if not hasattr(image, "__array__") or isinstance(image, np.generic):
        what = repr(image) if is_missing(image) else f"a {type(image).__name__}"
        hint = " For pixels give numpy.asarray(…)." if isinstance(image, list | tuple) else ""
        raise InputError(f"{name} is {what}, not a path, a PIL image, the bytes of a file or an array.{hint}")
    if np.ndim(image) not in (2, 3):
        raise InputError(
            f"{name} is an array {list(np.shape(image))}, not one image: give [height, width] or "
            "[height, width, channels]."
        )
    return image


def as_labels(given: Any) -> np.ndarray:
    """One label for each image, [n], as scikit-learn's classifiers read them, none of them missing.

    Raises:
        InputError: a label is missing, empty or not finite, with its position; or labels are of a type, or an array of
            a shape, that scikit-learn's classifiers don't take.
    """
    from sklearn.utils import column_or_1d
    from sklearn.utils.multiclass import check_classification_targets

    if given is None:
        raise InputError("ImageClassifier requires y to be passed, but the target y is None.")
    if isinstance(given, str | Mapping | set | frozenset) or not (
        isinstance(given, Iterable) or hasattr(given, "__array__")
    ):
        raise InputError(f"y is a {type(given).__name__}, not a sequence of labels.")
    given = list(given) if isinstance(given, Iterator | KeysView | ValuesView) else given
    shape = _check_present(given)
    if len(shape) == 2 and shape[1] > 1:
        rows = f"y is an array {list(shape)}, and one label is needed for each image."
        raise InputError(f"{rows} Of one-hot rows give y.argmax(axis=1), of a frame one column: y['label'].")
    if getattr(getattr(given, "dtype", None), "kind", "") == "T":  # scikit-learn can't read NumPy's StringDType
        given = np.asarray(given).astype(object)
    try:
        labels: np.ndarray = column_or_1d(given, warn=True)
        check_classification_targets(labels)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"y can't be used as labels: {reason} {_example(given)}") from error
    if labels.dtype.kind == "V":
        raise InputError(f"y can't be used as labels: it is a structured array of {labels.dtype}. Give one column.")
    return labels


def _check_present(given: Any) -> tuple[int, ...]:
    """The shape of `given`. Raises InputError for labels that are missing or empty, before NumPy turns NaN beside text
    into the text "nan"."""
    try:
        raw = np.asarray(given, dtype=object)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"y is a {type(given).__name__} that NumPy can't read: {error}") from error
    values = raw.ravel().tolist()
    masked = np.ma.getmaskarray(given).ravel() if isinstance(given, np.ma.MaskedArray) else None
    missing = [i for i, label in enumerate(values) if is_missing(label) or (masked is not None and masked[i])]
    _refuse(missing, "missing", "(None or NaN)", raw.shape)
    empty = [i for i, label in enumerate(values) if isinstance(label, str) and not label.strip()]
    _refuse(empty, "empty", "(text without a character)", raw.shape)
    for i, label in enumerate(values):
        _check_text(label, "y[{}]", i // math.prod(raw.shape[1:]))
    return raw.shape


def _check_text(value: Any, name: str, number: int) -> None:
    """Raises InputError for text that can't be written as UTF-8 or has a NUL character: NumPy drops one at the end, and
    takes two labels for one. The `name` of the value has the place of its `number`, and is put together for an error
    alone: there may be a million values."""
    if not isinstance(value, str):
        return
    if is_surrogate(value):
        raise InputError(f"{name.format(number)} is {value!r}, {NO_TEXT}")
    if "\0" in value:
        raise InputError(f"{name.format(number)} is {value!r}, with a NUL character: remove it.")


def is_surrogate(text: str) -> bool:
    """Whether a text can't be written as UTF-8, since it has half of a character, or a byte of a file's name."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _refuse(found: list[int], problem: str, meaning: str, shape: tuple[int, ...]) -> None:
    if found:
        rows = [str(i // math.prod(shape[1:])) for i in found]
        plural = "s" if len(found) > 1 else ""
        remedy = "remove these images" if plural else "remove this image"
        raise InputError(f"y has {len(found)} {problem} label{plural} {meaning}, at {join_names(rows)}: {remedy}.")


def _example(given: Any) -> str:
    """The first label that is neither text nor a whole number; else what to do with an array of objects."""
    for number, label in enumerate(np.asarray(given, dtype=object).ravel().tolist()):
        is_whole = isinstance(label, Real) and float(label).is_integer()
        if not is_whole and not isinstance(label, str):
            return f"y[{number}] is {label!r}."
    return "Give text, or numbers of one type: y.astype(str)"


def as_labelled_images(given: Any) -> list[LabelledImage]:
    """The labelled images that a caller of `autotl.search` passes.

    Raises:
        InputError: there are none, or one is of another type, or a field of one holds something else.
    """
    remedy = "Give a location, or a list of autotl.LabelledImage(path, label)."
    if not isinstance(given, Iterable):
        raise InputError(f"data is a {type(given).__name__}. {remedy}")
    images = list(given)
    if not images:
        raise InputError(f"data has no images. {remedy}")
    for number, image in enumerate(images):
        name = f"data[{number}]"
        if not isinstance(image, LabelledImage):
            raise InputError(f"{name} is a {type(image).__name__}, not a LabelledImage. {remedy}")
        if not isinstance(image.path, str | os.PathLike):
            raise InputError(f"{name}.path is {image.path!r}, not a path.")
        if not isinstance(image.label, str) or not image.label.strip():
            is_label = not is_missing(image.label) and str(image.label).strip()
            how = "give text: str(label)" if is_label else "remove this image"
            raise InputError(f"{name}.label is {image.label!r}, not the name of a class: {how}.")
        _check_text(image.label, "data[{}].label", number)
        _check_text(image.group, "data[{}].group", number)
        if image.subset not in get_args(Subset):
            known = ", ".join(map(repr, get_args(Subset)))
            raise InputError(f"{name}.subset is {image.subset!r}: give one of {known}.")
        if not isinstance(image.group, str):
            raise InputError(f"{name}.group is {image.group!r}, not text: give str(group).")
        if image.time is not None and not (isinstance(image.time, Real) and math.isfinite(image.time)):
            raise InputError(f"{name}.time is {image.time!r}, not a number: give seconds, such as date.timestamp().")
    return [
        LabelledImage(
            Path(image.path),
            str.__str__(image.label),  # of an enumeration's member or NumPy's text, which not all JSON writers know
            image.subset,
            str.__str__(image.group),
            None if image.time is None else float(image.time),
        )
        for image in images
    ]


def is_missing(value: Any) -> bool:
    """Whether a value stands for a missing one: None, NaN, NaT or pandas.NA."""
    try:
        return value is None or bool(value != value)  # NaN and NaT differ from themselves
    except (TypeError, ValueError):  # pandas.NA has no truth value; an array's is ambiguous
        return not hasattr(value, "__len__")
