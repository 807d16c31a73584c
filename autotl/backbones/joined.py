"""Several backbones under one name: a head sees their recorded features side by side."""

import re
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.errors import AutotlError
from autotl.recipe import JOIN

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DIGEST_JOIN", "JoinedBackbone", "larger_size", "with_size"]

DIGEST_JOIN = "+"
"""Between the digests of backbones whose features are joined."""
LARGER = 1.3
"""A larger size of the images, as a multiple of that of the pretraining. Networks of convolutions see objects larger in
training, where they are cropped at random, than in the middle of whole images (Touvron et al., Fixing the train-test
resolution discrepancy, NeurIPS 2019)."""
MULTIPLE = 32
"""Networks of convolutions halve an image five times."""


class JoinedBackbone(Backbone):
    """The features of several frozen backbones, each with its own preprocessing, size of images and recorded features.

    It has no network that could be built or trained: strategies read its features (`Features.levels`), and whoever
    needs the networks goes through `parts`.

    Args:
        parts: two or more, each once.

    Raises:
        AutotlError: one is there twice.
    """

    def __init__(self, parts: Sequence[Backbone]):
        names = [part.name for part in parts]
        self.name = JOIN.join(names)
        if len(set(names)) < len(names):
            raise AutotlError(f"{self.name!r} joins a backbone with itself. Give each once.")
        self._parts = tuple(parts)
        self.pretrained_on = "; ".join(dict.fromkeys(part.pretrained_on for part in parts))
        self.license = "; ".join(dict.fromkeys(part.license for part in parts))

    @property
    def parts(self) -> tuple[Backbone, ...]:
        return self._parts

    @property
    def is_cached(self) -> bool:
        return all(part.is_cached for part in self._parts)

    @property
    def note(self) -> str | None:
        return "; ".join(part.note for part in self._parts if part.note) or None

    @cached_property
    def digest(self) -> str:
        return DIGEST_JOIN.join(part.digest for part in self._parts)

    def count_params(self) -> int:
        return sum(part.count_params() for part in self._parts)

    def count_bytes(self) -> int:
        return sum(part.count_bytes() for part in self._parts)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        self._refuse()

    def build(self, *, pretrained: bool = True) -> "nn.Module":
        self._refuse()

    def blocks(self, module: "nn.Module") -> list[Block]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AutotlError(
            f"{self.name!r} is {len(self._parts)} backbones, which can't be built or trained as one. Name one of them."
        )


def larger_size(backbone: Backbone) -> int | None:
    """The larger size at which a backbone's features are recorded, too; None where it isn't known."""
    return None if backbone.size is None else round(LARGER * backbone.size / MULTIPLE) * MULTIPLE


def with_size(name: str) -> tuple[str, int] | None:
    """The base and the size of a name with `,size=SIZE` as its only option; None for any other name.

    >>> with_size("resnet18,size=288")
    ('resnet18', 288)
    """
    found = re.fullmatch(r"([^,@]+),size=([0-9]{1,4})", name)
    return (found[1], int(found[2])) if found else None
