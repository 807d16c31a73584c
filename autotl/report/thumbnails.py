"""Small copies of images for a report."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autotl.clock import Deadline
from autotl.data.decoding import decode
from autotl.errors import DataError

__all__ = ["Thumbnails"]

MAX_BYTES = 3_800_000
"""Of all thumbnails of a report: in base64 they take a third more."""
QUALITY = 68
HEAT_OPACITY = 0.55


class Thumbnails:
    """Makes thumbnails as WebP, until there is no more time or space for them.

    Args:
        paths: of all images.
        deadline: after it no thumbnail is made.
    """

    def __init__(self, paths: Sequence[Path], deadline: Deadline):
        self.paths, self.deadline = paths, deadline
        self._made: dict[tuple[int, int, bool], bytes | None] = {}
        self._num_bytes = 0

    def get(self, image: int, side: int, *, square: bool = False, reserve: float = 0.0) -> bytes | None:
        """The whole image in `side` × `side` pixels at most, or its middle in as many; None where it can't be had.

        Args:
            reserve: seconds that have to be left for something else.
        """
        key = image, side, square
        if key not in self._made:
            full = self._num_bytes > MAX_BYTES or self.deadline.remaining() <= reserve
            if full:
                return None
            self._made[key] = self._make(image, side, square=square)
            self._num_bytes += len(self._made[key] or b"")
        return self._made[key]

    def with_heat(self, image: int, side: int, heat: np.ndarray) -> bytes | None:
        """The whole image under a heat map in [0, 1], [height, width]."""
        from PIL import Image

        try:
            picture = decode(self.paths[image], side * 2).convert("RGB")
        except DataError:
            return None
        picture.thumbnail((side, side))
        scaled = Image.fromarray((np.clip(heat, 0, 1) * 255).astype(np.uint8)).resize(
            picture.size, Image.Resampling.BILINEAR
        )
        red = Image.new("RGB", picture.size, (255, 40, 0))
        picture.paste(red, mask=scaled.point(lambda value: int(value * HEAT_OPACITY)))
        content = _webp(picture)
        self._num_bytes += len(content)
        return content

    def _make(self, image: int, side: int, *, square: bool) -> bytes | None:
        from PIL import ImageOps

        try:
            picture = decode(self.paths[image], side * 2).convert("RGB")
        except DataError:  # it has vanished since the search began
            return None
        if square:
            picture = ImageOps.fit(picture, (side, side))
        picture.thumbnail((side, side))
        return _webp(picture)


def _webp(picture: object) -> bytes:
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=QUALITY, method=1)  # type: ignore[attr-defined]
    return content.getvalue()
