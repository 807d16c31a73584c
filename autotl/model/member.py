"""A member of a model: a fitted recipe, saved as `member.json`, its head, and its unfrozen blocks. No pickle."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotl.atomic_io import write_atomically, write_json
from autotl.backbones.levels import find_levels
from autotl.data.augmentation import View, find_augmentation
from autotl.errors import AutotlError, UnknownName
from autotl.heads.serialization import load_head, save_head
from autotl.model.manifest import read_member_manifest
from autotl.recipe import Recipe
from autotl.registry import Registry
from autotl.strategies.base import Fitted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Member", "load_member", "save_member"]


@dataclass
class Member:
    """A fitted recipe that is part of a model."""

    recipe: Recipe
    fitted: Fitted
    backbone_digest: str
    num_classes: int
    weight: float = 1.0
    trial: int = -1
    validation: float | None = None
    """Validation score of the trial."""

    @property
    def network_key(self) -> str:
        """Members with the same key share one forward pass: those of one frozen backbone. A fine-tuned member has a
        network of its own."""
        return self.backbone_digest if self.fitted.backbone_state is None else f"{self.backbone_digest}/{self.trial}"

    def probabilities(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Probabilities [n, num_classes] from the features of the member's levels, float32 [n, num_features], one array
        for each of its views."""
        from autotl.heads.inference import average_logits, probabilities

        return probabilities(average_logits(self.fitted.head, views, self.num_classes), self.fitted.temperature)


def save_member(member: Member, num_features: int, folder: Path) -> None:
    """Write a member's folder. `member.json` is written last: a folder without it is incomplete and is ignored."""
    folder.mkdir(parents=True, exist_ok=True)
    save_head(member.fitted.head, folder)
    if member.fitted.backbone_state is not None:
        from safetensors.torch import save

        tensors = {name: tensor.contiguous() for name, tensor in member.fitted.backbone_state.items()}
        write_atomically(folder / "backbone_state.safetensors", save(tensors))
    write_json(
        folder / "member.json",
        {
            "recipe": member.recipe.to_dict(),
            "levels": member.fitted.levels,
            "views": [asdict(view) for view in member.fitted.views],
            "tuned": member.fitted.backbone_state is not None,
            "backbone_digest": member.backbone_digest,
            "num_features": num_features,
            "num_classes": member.num_classes,
            "temperature": member.fitted.temperature,
            "weight": member.weight,
            "trial": member.trial,
            "validation": member.validation,
        },
    )


def load_member(folder: Path, registry: Registry) -> Member:
    """Read a member's folder.

    Raises:
        AutotlError: a file is missing or damaged, or an estimator contains types that its head doesn't allow.
    """
    manifest = read_member_manifest(folder)
    try:
        find_levels(manifest.levels, registry.levels)
        for policy in {view.policy for view in manifest.views} - {"none"}:
            find_augmentation(policy, registry.augmentations)
    except UnknownName as error:
        raise AutotlError(f"{folder / 'member.json'}: {error}") from error
    try:
        recipe = Recipe.from_dict(manifest.recipe.model_dump())
        head = load_head(
            registry.head(recipe.head), recipe.head_params, manifest.num_features, manifest.num_classes, folder
        )
        state = _backbone_state(folder) if manifest.tuned else None
        views = tuple(View(view.policy, view.number) for view in manifest.views)
        return Member(
            recipe,
            Fitted(manifest.levels, head, state, views, manifest.temperature),
            manifest.backbone_digest,
            manifest.num_classes,
            manifest.weight,
            manifest.trial,
            manifest.validation,
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise AutotlError(f"{folder} is not a complete member of a model: {type(error).__name__}: {error}") from error


def _backbone_state(folder: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / "backbone_state.safetensors")
    except SafetensorError as error:
        raise ValueError(f"backbone_state.safetensors is damaged: {error}") from error
