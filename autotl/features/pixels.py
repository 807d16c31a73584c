"""Load one view of images, from the bytes that their digests belong to: features are recorded under the digest."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from PIL import Image

from autotl.backbones.base import Preprocessing
from autotl.data.augmentation import ORIGINAL, Augmentation, Symmetries, View
from autotl.data.decoding import UndecodableImage
from autotl.data.digests import digest_bytes
from autotl.data.members import read_image
from autotl.data.preprocessing import load_view
from autotl.engines.accelerator import ACCELERATOR_BATCH, PIPELINE_THREADS, own_stream, to_device
from autotl.errors import DataError, find_named
from autotl.features.batching import BATCH, one_thread_per_task

if TYPE_CHECKING:
    from torch import Tensor

    from autotl.data.device_images import EncodedImage

__all__ = ["AcceleratorLoader", "PixelLoader", "decoder_of"]

READERS = 4
"""Threads that read files for a GPU's decoder. Each read takes Python's lock a few times: more threads wait for it."""


def decoder_of(view: View, preprocessing: Preprocessing, augmentations: Mapping[str, Augmentation]) -> str:
    """The decoder of a view of JPEGs on a GPU that decodes, "" for the CPU's. Part of the key of recorded features."""
    from autotl.data.device_images import DECODER, resizes

    return DECODER if resizes(preprocessing) and _symmetry_of(view, augmentations, "") is not False else ""


@dataclass
class PixelLoader:
    """Decodes on the CPU. Each calling thread decodes its own batch.

    Args:
        path_of: the image files, by digest.
        preprocessing: the backbone's.
        view: which view.
        augmentations: the policies of views, by name.
        cores: that decode.
    """

    batch: ClassVar[int] = BATCH
    path_of: Mapping[str, Path]
    preprocessing: Preprocessing
    view: View
    augmentations: Mapping[str, Augmentation]
    cores: int

    @property
    def threads(self) -> int:
        """How many threads call `load` at the same time."""
        return self.cores

    def load(self, digests: Sequence[str]) -> Any:
        """Images uint8 [n, size, size, 3]: an array, or a tensor on the accelerator.

        Raises:
            DataError: a file has changed, or can't be read any more.
        """
        return np.stack([self._decode(d, self._read(d)) for d in digests])

    def stream(self) -> AbstractContextManager[None]:
        """In which a thread loads a batch and computes with it."""
        return nullcontext()

    def close(self) -> None:
        """End all threads."""

    def _read(self, digest: str) -> bytes:
        path = self.path_of[digest]
        try:
            content = read_image(path)
        except OSError as error:
            raise DataError(
                f"{path} was readable when the search began and isn't any more: {error.strerror}"
            ) from error
        if digest_bytes(content) != digest:
            raise DataError(f"{path} has changed since the search began. Start the search again with another --name.")
        return content

    def _decode(self, digest: str, content: bytes) -> np.ndarray:
        try:
            return load_view(content, digest, self.preprocessing, self.view, augmentations=self.augmentations)
        except UndecodableImage as error:
            path = self.path_of[digest]
            raise DataError(f"{path} was readable when the search began and isn't any more: {error}") from error


@dataclass
class AcceleratorLoader(PixelLoader):
    """Loads larger batches to an accelerator. A GPU decodes JPEGs itself where it can; threads decode the rest.

    Args:
        device: a torch device.
        decodes: whether it decodes JPEGs.
    """

    batch: ClassVar[int] = ACCELERATOR_BATCH
    device: str
    decodes: bool

    def __post_init__(self) -> None:
        self._on_gpu = self.decodes and bool(decoder_of(self.view, self.preprocessing, self.augmentations))
        self._slices = min(self.cores, READERS) if self._on_gpu else self.cores
        self._decoding = ThreadPoolExecutor(self._slices, "decode", initializer=one_thread_per_task)

    @property
    def threads(self) -> int:
        return PIPELINE_THREADS

    def stream(self) -> AbstractContextManager[None]:
        return own_stream(self.device)

    def close(self) -> None:
        self._decoding.shutdown(wait=False, cancel_futures=True)

    def load(self, digests: Sequence[str]) -> "Tensor":
        import torch

        from autotl.data.device_images import EncodedImage

        per_slice = max(1, -(-len(digests) // self._slices))
        slices = [digests[i : i + per_slice] for i in range(0, len(digests), per_slice)]
        loaded = [item for part in self._decoding.map(self._load_slice, slices) for item in part]
        size = self.preprocessing.size
        images = torch.empty((len(digests), size, size, 3), dtype=torch.uint8, device=self.device)
        decoded = {i: item for i, item in enumerate(loaded) if isinstance(item, np.ndarray)}
        encoded = {i: item for i, item in enumerate(loaded) if isinstance(item, EncodedImage)}
        if decoded:
            pixels = to_device(torch.from_numpy(np.stack(list(decoded.values()))), self.device)
            images[torch.tensor(list(decoded), device=self.device)] = pixels
        if encoded:
            self._decode_on_gpu(digests, encoded, images)
        return images

    def _load_slice(self, digests: Sequence[str]) -> "list[EncodedImage | np.ndarray]":
        """Of each image the bytes, where the GPU decodes it, else the pixels."""
        return [self._load_one(digest) for digest in digests]

    def _load_one(self, digest: str) -> "EncodedImage | np.ndarray":
        content = self._read(digest)
        if self._on_gpu:
            from autotl.data.device_images import encoded_image

            if encoded := encoded_image(content):
                return encoded
        return self._decode(digest, content)

    def _decode_on_gpu(self, digests: Sequence[str], encoded: "Mapping[int, EncodedImage]", images: "Tensor") -> None:
        import torch

        from autotl.data.device_augmentation import transpose
        from autotl.data.device_images import batches_of, decode_on_gpu, preprocess_batch

        for numbers in batches_of(encoded):
            try:
                decoded = decode_on_gpu([encoded[i].content for i in numbers], self.device)
            except RuntimeError:  # an odd file: the CPU decodes this batch
                pixels = np.stack([self._decode(digests[i], encoded[i].content) for i in numbers])
                images[torch.tensor(numbers, device=self.device)] = to_device(torch.from_numpy(pixels), self.device)
                continue
            symmetries = [_symmetry_of(self.view, self.augmentations, digests[i]) for i in numbers]
            drawn = [
                transpose(image, how) if isinstance(how, Image.Transpose) else image
                for image, how in zip(decoded, symmetries, strict=True)
            ]
            images[torch.tensor(numbers, device=self.device)] = preprocess_batch(drawn, self.preprocessing)


def _symmetry_of(
    view: View, augmentations: Mapping[str, Augmentation], digest: str
) -> Image.Transpose | Literal[False] | None:
    """The transpose that a view applies to an image; None for the original, False for a view that is no transpose."""
    if view == ORIGINAL:
        return None
    augmentation = find_named("augmentation", view.policy, augmentations)
    return augmentation.transpose_of(digest, view.number) if type(augmentation) is Symmetries else False
