"""Answers to contents of image files from many clients: in a batch a bad image costs only its own answer."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from autotl.backbones.base import Backbone
from autotl.data.augmentation import View
from autotl.data.decoding import UndecodableImage
from autotl.data.sandbox import SandboxedDecoder
from autotl.model.network import Measure, averaging
from autotl.model.opening import load_file
from autotl.registry import load_registry

if TYPE_CHECKING:
    from autotl.model.image_model import ImageModel

__all__ = ["Answerer", "answerer"]

Answerer: TypeAlias = Callable[[Sequence[bytes]], "list[np.ndarray | UndecodableImage]"]
"""From contents of image files to, for each, its probabilities [num_classes] followed by the columns of the measure; or
why it can't be decoded. May be called by several threads."""


@dataclass(eq=False)
class _Item:
    content: bytes
    error: UndecodableImage | None = None


class _Screened(SandboxedDecoder):
    """Stands for a child process that has decoded the file already."""

    def verify(self, path: str | os.PathLike[str] | bytes) -> bytes:
        return b""


def answerer(model: "ImageModel", measure: Measure | None = None) -> Answerer:
    """What answers as `ImageModel.stream` of many files does, with the same networks, whose compiling takes seconds.

    The images must have been screened (`SandboxedDecoder.screen`): all are decoded in this process.

    Args:
        measure: of `autotl.model.doubt.Doubts`.
    """
    model.registry = model.registry or load_registry()
    augmentations, hint = model.registry.augmentations, model.size_hint
    decoder = _Screened()

    def load(item: _Item, backbone: Backbone, views: set[View]) -> dict[View, np.ndarray]:
        if item.error is None:
            try:
                return load_file(item.content, backbone, views, augmentations, decoder, hint)
            except UndecodableImage as error:
                item.error = error
        return {}

    average = averaging(model.compiled_networks(many=True), model.members, load, len(model.classes), measure)

    def answer(contents: Sequence[bytes]) -> list[np.ndarray | UndecodableImage]:
        items = [_Item(content) for content in contents]
        return [item.error or row for item, row in zip(items, average(items), strict=True)]

    return answer
