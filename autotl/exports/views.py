"""Which views of an image a graph can draw: those that don't depend on the file's digest."""

from collections.abc import Mapping, Sequence

from PIL import Image

from autotl.data.augmentation import ORIGINAL, Augmentation, Symmetries, View
from autotl.errors import find_named

__all__ = ["transposes_of"]


def transposes_of(
    views: Sequence[View], augmentations: Mapping[str, Augmentation]
) -> tuple[Image.Transpose | None, ...] | None:
    """The transposes that a member averages over (None for the image as it is); None for the whole where they are drawn
    from a file's digest: all symmetries of a policy together don't depend on it, some of them or random crops do."""
    transposes: list[Image.Transpose | None] = []
    for policy in dict.fromkeys(view.policy for view in views):
        numbers = {view.number for view in views if view.policy == policy}
        if policy == ORIGINAL.policy:
            transposes.append(None)
            continue
        augmentation = find_named("augmentation", policy, augmentations)
        if not isinstance(augmentation, Symmetries) or numbers != set(range(len(augmentation.transposes))):
            return None
        transposes += augmentation.transposes
    return tuple(transposes)
