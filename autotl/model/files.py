"""The files of a model folder: their digests, and the checks before one of them is read."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from autotl.backbones.weights import file_digest
from autotl.errors import AutotlError

__all__ = ["require_sound"]


def require_sound(folder: Path, names: Iterable[str], digests: Mapping[str, str]) -> None:
    """Check files that are about to be read.

    Args:
        names: paths in `folder`.
        digests: SHA-256 by path, from the folder's JSON file.

    Raises:
        AutotlError: a file is missing, isn't listed, or has other bytes than when it was saved.
    """
    for name in names:
        file = folder / name
        if not file.is_file():
            raise AutotlError(f"{file} is missing: the model is incomplete. Copy its whole folder again.")
        if digests.get(name) != file_digest(file):
            raise AutotlError(f"{file} is damaged, or was changed after it was saved. Copy the model's folder again.")
