"""Feature levels: which of a backbone's recorded features a head is trained on.

One pass records the features of all levels in one vector, so another choice of levels costs no pass over the images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["BUILT_IN", "PARTS", "Layout", "Levels", "Part"]

Part: TypeAlias = Literal["output", "means", "maxima", "last_maxima"]
PARTS: tuple[Part, ...] = get_args(Part)
"""The parts of a recorded vector, in their order: the network's output, which is its final pooled map; the mean of each
earlier stage's map; the maximum of each earlier stage's map; and the maximum of the last stage's map. The order is part
of the feature store's `FORMAT`."""


@dataclass(frozen=True)
class Levels:
    """A named choice of the parts of a recorded vector.

    For a network of one stage, which has no earlier ones, a choice that is left empty stands for the output.

    >>> layout = Layout(output=5, means=3, last_maxima=4)
    >>> layout.slices(Levels("pooled", ("output", "maxima")))
    [slice(0, 5, None), slice(8, 11, None)]

    Raises:
        ValueError: no part, an unknown one, or one that is there twice.
    """

    name: str
    parts: tuple[Part, ...]
    """The parts, in any order: a head gets them in that of PARTS."""

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) < len(self.parts) or not set(self.parts) <= set(PARTS):
            raise ValueError(f"levels {self.name!r} have the parts {self.parts!r}; each is one of {', '.join(PARTS)}")


BUILT_IN: Mapping[str, Levels] = {
    levels.name: levels
    for levels in (
        Levels("last", ("output",)),
        Levels("stages", ("output", "means")),
        # best on images that are unlike the pretraining images
        Levels("inner+max", ("means", "maxima")),
        Levels("stages+max", PARTS),
    )
}
"""The levels that are registered, by name."""


@dataclass(frozen=True)
class Layout:
    """Where the parts of a recorded vector are; see PARTS."""

    output: int
    """Number of features in the network's output."""
    means: int
    """Number of means of the earlier stages. There are as many maxima of the earlier stages."""
    last_maxima: int
    """Number of maxima of the last stage."""
    stages: tuple[int, ...] = ()
    """Number of means, which is that of maxima, of each earlier stage."""
    depths: tuple[int, ...] = ()
    """Number of blocks whose output each earlier stage is."""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Layout":
        """The layout whose fields these are, as JSON has them. Raises TypeError for other fields."""
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
        return cls(**values)

    def stage_slices(self) -> list[tuple[int, list[slice]]]:
        """The number of blocks, and the positions of mean and maximum, of each earlier stage.

        >>> Layout(output=5, means=3, last_maxima=4, stages=(1, 2), depths=(1, 3)).stage_slices()[1]
        (3, [slice(6, 8, None), slice(9, 11, None)])
        """
        found, start = [], self.output
        for depth, width in zip(self.depths, self.stages, strict=True):
            found.append((depth, [slice(first, first + width) for first in (start, start + self.means)]))
            start += width
        return found

    @property
    def width(self) -> int:
        """Number of features in a vector."""
        return self.output + 2 * self.means + self.last_maxima

    def slices(self, levels: Levels) -> list[slice]:
        """The positions of the features of `levels` in a vector, in their order; adjacent parts are one slice."""
        widths = (self.output, self.means, self.means, self.last_maxima)
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        merged: list[slice] = []
        for part, (start, stop) in zip(PARTS, pairwise([0, *ends]), strict=True):
            if part not in levels.parts or start == stop:
                continue
            if merged and merged[-1].stop == start:
                merged[-1] = slice(merged[-1].start, stop)
            else:
                merged.append(slice(start, stop))
        return merged or [slice(0, self.output)]

    def num_features(self, levels: Levels) -> int:
        """The number of features of `levels`."""
        return sum(int(part.stop - part.start) for part in self.slices(levels))


def autotl_register_levels(register: "Register[Levels]") -> None:
    for levels in BUILT_IN.values():
        register(levels)
