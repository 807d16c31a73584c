"""One fitted recipe on disk: `member.json`, its head, and the weights of its unfrozen blocks. No pickle."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.errors import AutotlError
from autotl.files import write_atomically, write_json
from autotl.heads.persist import load_head, save_head
from autotl.recipe import Recipe
from autotl.registry import Registry
from autotl.strategies.strategy import Fitted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Member", "load_member", "read_page", "save_member"]


@dataclass
class Member:
    """A fitted recipe that is part of a model."""

    recipe: Recipe
    fitted: Fitted
    backbone_digest: str
    n_classes: int
    weight: float = 1.0
    trial: int = -1
    validation: float | None = None

    @property
    def passes(self) -> str:
        """Members of one frozen backbone share one pass over the images; a fine-tuned one has its own."""
        return self.backbone_digest if self.fitted.base is None else f"{self.backbone_digest}/{self.trial}"

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """From its taps' columns, float32 [n, n_features]."""
        from autotl.heads.predict import logits, probabilities

        return probabilities(logits(self.fitted.head, features, self.n_classes), self.fitted.temperature)


def save_member(member: Member, n_features: int, folder: Path) -> None:
    """Write it whole: `member.json`, the last file, is what makes the folder count."""
    folder.mkdir(parents=True, exist_ok=True)
    save_head(member.fitted.head, folder)
    if member.fitted.base is not None:
        from safetensors.torch import save

        tensors = {name: tensor.contiguous() for name, tensor in member.fitted.base.items()}
        write_atomically(folder / "base.safetensors", save(tensors))
    write_json(
        folder / "member.json",
        {
            "recipe": member.recipe.to_dict(),
            "taps": member.fitted.taps,
            "tuned": member.fitted.base is not None,
            "backbone_digest": member.backbone_digest,
            "n_features": n_features,
            "n_classes": member.n_classes,
            "temperature": member.fitted.temperature,
            "weight": member.weight,
            "trial": member.trial,
            "validation": member.validation,
        },
    )


def read_page(folder: Path) -> dict[str, Any]:
    """What `member.json` says: all but the fitted parts. Raises AutotlError where it can't be read."""
    try:
        return json.loads((folder / "member.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AutotlError(f"{folder} is no whole part of a model: {type(error).__name__}: {error}") from error


def load_member(folder: Path, registry: Registry) -> Member:
    """Raises AutotlError where a part is missing, damaged, or holds what may not be loaded."""
    about = read_page(folder)
    try:
        recipe = Recipe.from_dict(about["recipe"])
        spec = registry.head(recipe.head)
        head = load_head(spec, recipe.head_params, about["n_features"], about["n_classes"], folder)
        fitted = Fitted(about["taps"], head, _base(folder) if about["tuned"] else None, float(about["temperature"]))
        return Member(
            recipe,
            fitted,
            str(about["backbone_digest"]),
            int(about["n_classes"]),
            float(about["weight"]),
            int(about["trial"]),
            about["validation"],
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise AutotlError(f"{folder} is no whole part of a model: {type(error).__name__}: {error}") from error


def _base(folder: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / "base.safetensors")
    except SafetensorError as error:
        raise ValueError(f"base.safetensors is damaged: {error}") from error
