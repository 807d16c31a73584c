"""The digests of the images that a model was trained on, in its folder: so that it isn't tested on them by mistake.

The file holds the digests (`autotl.data.digests`), DIGEST_BYTES each, one after the other, sorted.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from autotl.atomic_io import read_json, write_atomically
from autotl.data.digests import DIGEST_BYTES
from autotl.errors import AutotlError
from autotl.model.files import require_sound

__all__ = ["known_images", "load_trained_on", "save_trained_on"]

FILE = "trained_on.digests"

MAX_IMAGES = 10_000_000
"""A file of more digests is none that a search writes, and would fill the memory."""


def save_trained_on(digests: Iterable[str], folder: Path) -> None:
    """Write the file, unless there are no digests."""
    content = b"".join(sorted({bytes.fromhex(digest) for digest in digests}))
    if content:
        write_atomically(folder / FILE, content)


def load_trained_on(folder: Path, files: Mapping[str, str]) -> frozenset[str]:
    """The digests; none for a model without the file.

    Args:
        files: SHA-256 of the model's files, by path.

    Raises:
        AutotlError: the file is missing or damaged.
    """
    if FILE not in files:
        return frozenset()
    file = folder / FILE
    size = file.stat().st_size if file.is_file() else 0
    if size > MAX_IMAGES * DIGEST_BYTES or size % DIGEST_BYTES:
        raise AutotlError(f"{file} is damaged or was made by hand. Copy the model's folder again.")
    require_sound(folder, [FILE], files)
    content = file.read_bytes()
    return frozenset(content[i : i + DIGEST_BYTES].hex() for i in range(0, len(content), DIGEST_BYTES))


def known_images(
    trained_on: frozenset[str], model: Path | None, digests: Sequence[str], location: str, *, refuse_all: bool
) -> np.ndarray:
    """Whether the search that made a model used each of these images to train or to select it, [n] of bool.

    Args:
        trained_on: what the model states; where it states nothing, the split of its study counts.
        model: the model's folder, if it is known.
        location: of the images.
        refuse_all: raise AutotlError where it used all of them.
    """
    if not trained_on and model is not None:
        try:
            known = read_json(model.parent / "split.json")["digests"]
            trained_on = frozenset((*known["train"], *known["validation"]))
        except (OSError, ValueError, KeyError, TypeError):  # a model that was moved out of its study
            pass
    known_ones = np.array([digest in trained_on for digest in digests], dtype=bool)
    if refuse_all and known_ones.all():
        raise AutotlError(
            f"All {len(known_ones):,} images of {location} were used to train the model or to select it. Give others, "
            "or score it on them all the same: --all"
        )
    return known_ones
