"""Predictions for any number of files: finding the images, the most probable classes, and the CSV file."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path

import numpy as np

from autotl.data.file_listing import FileListing
from autotl.errors import AutotlError
from autotl.escaping import csv_cell
from autotl.folders import expand_home

__all__ = ["CsvFile", "best_classes", "find_images", "more_than", "require_target", "unused_name"]


def find_images(places: Iterable[Path], listing: FileListing | None = None) -> Iterator[Path]:
    """Yield the images at `places`: a file whatever its name, and every image below a folder, sorted by name.

    Args:
        places: files and folders.
        listing: says which files of a folder are images, and counts the others.

    Raises:
        AutotlError: a place doesn't exist. Raised by the call itself, before the first image is yielded.
    """
    listing = listing or FileListing()
    places = [expand_home(place) for place in places]
    for place in places:
        if not os.path.lexists(place):
            raise AutotlError(f"There is no file or folder {place}.")
    return (path for place in places for path in (listing.walk(place) if place.is_dir() else [place]))


def more_than(count: int, images: Iterator[Path]) -> tuple[bool, Iterator[Path]]:
    """Whether there are more than `count` images, and an iterator over all of them. Takes at most `count + 1` from
    `images` to find out."""
    first = list(islice(images, count + 1))
    return len(first) > count, chain(first, images)


def best_classes(probabilities: np.ndarray, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The `top` most probable classes of one image with their probabilities, most probable first.

    Args:
        probabilities: [num_classes].
        classes: the names of the classes.
        top: number of classes to return, fewer where the model has fewer.
    """
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[i], float(probabilities[i])) for i in order]


def unused_name(file: Path, used: set[Path]) -> Path:
    """`file`, or one numbered like `photo-2.png` where that exists or is among `used`, to which the name is added: no
    photograph is replaced by a picture that is made of it."""
    name, number = file, 1
    while name in used or os.path.lexists(name):
        number += 1
        name = file.with_name(f"{file.stem}-{number}{file.suffix}")
    used.add(name)
    return name


def require_target(file: Path, *inputs: str | Path | None) -> Path:
    """The file that is written for a CSV file that a user names: where it is a link, what the link leads to. A file is
    written beside it and moved there, which would replace the link.

    Raises:
        AutotlError: it is a folder, one of the files that are read, or a device or pipe, which would be replaced by a
            file.
    """
    if file.is_dir():
        raise AutotlError(f"{file} is a folder. Give the name of a file: --csv {file / 'predictions.csv'}")
    if file.exists() and not file.is_file():
        raise AutotlError(f"{file} is no file but a device or a pipe. Give the name of a file: --csv predictions.csv")
    for place in inputs:
        with suppress(OSError, ValueError):  # not both are files
            if place is not None and os.path.samefile(file, expand_home(place)):  # noqa: PTH121 - raises of both
                raise AutotlError(f"{file} is read, and would be replaced. Give another name: --csv predictions.csv")
    return Path(os.path.realpath(file))


class CsvFile:
    """Writes `path,label,probability`, then `label2,probability2` and so on up to `top`, and the columns `more`, one
    line for each image.

    The lines go to `FILE.part`, which is renamed at the end of the `with` block: a file of the final name is complete.
    Where the block ends with an exception, `FILE.part` is removed.

    Raises:
        AutotlError: the file can't be written.
    """

    def __init__(self, file: Path, top: int, more: Sequence[str] = ()):
        self.file = require_target(file)
        self.part = self.file.with_name(self.file.name + ".part")
        try:
            self.stream = self.part.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise AutotlError(f"{file} can't be written: {error.strerror}.") from None
        self.writer = csv.writer(self.stream)
        others = [f"{column}{i}" for i in range(2, top + 1) for column in ("label", "probability")]
        self.writer.writerow(["path", "label", "probability", *others, *more])

    def write(self, path: Path, best: Sequence[tuple[str, float]], more: Sequence[str] = ()) -> None:
        """Add the line of one image. `best` is what `best_classes` returned, `more` the cells of its own columns."""
        cells = (x for label, probability in best for x in (csv_cell(label), f"{probability:.6f}"))
        self.writer.writerow([csv_cell(str(path)), *cells, *map(csv_cell, more)])

    def __enter__(self) -> "CsvFile":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        try:
            self.stream.close()
            if failed is None:
                self.part.replace(self.file)
        except OSError as error:
            raise AutotlError(f"{self.file} can't be written: {error.strerror}.") from error
        finally:
            with suppress(OSError):
                self.part.unlink(missing_ok=True)
