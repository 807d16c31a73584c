"""One fitted recipe on disk: `member.json`, its head, and the weights of its unfrozen blocks. No pickle."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotl.atomic_io import write_atomically, write_json
from autotl.data.augmentation import View
from autotl.errors import AutotlError
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

    @property
    def passes(self) -> str:
        """Members of one frozen backbone share one pass over the images; a fine-tuned one has its own."""
        return self.backbone_digest if self.fitted.backbone_state is None else f"{self.backbone_digest}/{self.trial}"

    def probabilities(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """From its levels' columns for each of its views, float32 [n, num_features]."""
        from autotl.heads.inference import average_logits, probabilities

        return probabilities(average_logits(self.fitted.head, views, self.num_classes), self.fitted.temperature)


def save_member(member: Member, num_features: int, folder: Path) -> None:
    """Write it whole: `member.json`, the last file, is what makes the folder count."""
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
    """Raises AutotlError where a part is missing, damaged, or holds what may not be loaded."""
    page = read_member_manifest(folder)
    try:
        recipe = Recipe.from_dict(page.recipe.model_dump())
        spec = registry.head(recipe.head)
        head = load_head(spec, recipe.head_params, page.num_features, page.num_classes, folder)
        views = tuple(View(view.policy, view.number) for view in page.views)
        fitted = Fitted(page.levels, head, _base(folder) if page.tuned else None, views, page.temperature)
        return Member(recipe, fitted, page.backbone_digest, page.num_classes, page.weight, page.trial, page.validation)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise AutotlError(f"{folder} is no whole part of a model: {type(error).__name__}: {error}") from error


def _base(folder: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / "backbone_state.safetensors")
    except SafetensorError as error:
        raise ValueError(f"backbone_state.safetensors is damaged: {error}") from error
