"""Predictions of any number of images, as they come: which files, which classes, and the CSV."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from autotl.devices import parse_devices
from autotl.errors import AutotlError

__all__ = ["CsvFile", "best_classes", "find_images", "more_than", "take_device"]


def find_images(places: Iterable[Path]) -> Iterator[Path]:
    """Each file as named, whatever its extension, and every image below a folder, by name; links are followed.

    Raises AutotlError at once for a place that doesn't exist, before anything is predicted.
    """
    places = [place.expanduser() for place in places]
    for place in places:
        if not place.exists():
            raise AutotlError(f"There is no file or folder {place}.")
    return (path for place in places for path in (_below(place) if place.is_dir() else [place]))


def _below(folder: Path) -> Iterator[Path]:
    extensions = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    seen = set()  # a link may lead back up
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in extensions:
                yield Path(here) / name


def more_than(few: int, images: Iterator[Path]) -> tuple[bool, Iterator[Path]]:
    """Whether there are more than `few`, and all of them: only so many are looked at."""
    first = list(islice(images, few + 1))
    return len(first) > few, chain(first, images)


def take_device(words: str) -> str:
    """The torch device for the first place that `words` name, as `--devices` would. A GPU becomes the only visible one:
    call this before torch is imported."""
    slot = parse_devices(words)[0]
    if slot.device_type == "cuda":
        os.environ.update(slot.environment)
    return slot.device


def best_classes(probabilities: np.ndarray, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """The `top` most probable classes of one row [num_classes], most probable first; fewer where there are fewer."""
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(classes[i], float(probabilities[i])) for i in order]


class CsvFile:
    """`path,label,probability`, then `label2,probability2` and so on up to `top`. Written row by row into FILE.part,
    which becomes FILE at the end: a file of that name is whole."""

    def __init__(self, file: Path, top: int):
        self.file, self.part = file, file.with_name(file.name + ".part")
        try:
            self.stream = self.part.open("w", newline="", encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise AutotlError(f"{file} can't be written: {error.strerror}.") from None
        self.writer = csv.writer(self.stream)
        more = [f"{word}{i}" for i in range(2, top + 1) for word in ("label", "probability")]
        self.writer.writerow(["path", "label", "probability", *more])

    def write(self, path: Path, best: Sequence[tuple[str, float]]) -> None:
        self.writer.writerow([path, *(x for label, share in best for x in (label, f"{share:.6f}"))])

    def __enter__(self) -> "CsvFile":
        return self

    def __exit__(self, failed: object, *_: object) -> None:
        self.stream.close()
        if failed is None:
            self.part.replace(self.file)
