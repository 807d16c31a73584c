"""Load a model in a process that is the command's own."""

from pathlib import Path
from typing import TYPE_CHECKING

from autotl.imports import without_collection

if TYPE_CHECKING:
    from autotl.model.image_model import ImageModel

__all__ = ["load_model"]


def load_model(folder: Path, device: str) -> "ImageModel":
    """`autotl.model.image_model.load`, with the libraries that it needs imported quickly."""
    with without_collection():
        from autotl.model.image_model import load

        return load(folder, device)
