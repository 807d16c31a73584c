"""A member of a model: a fitted recipe, saved as `member.json`, its head, and its unfrozen blocks. No pickle."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotl.atomic_io import write_atomically
from autotl.backbones.weights import file_digest
from autotl.data.augmentation import View
from autotl.errors import AutotlError, UnknownName, find_named
from autotl.heads.inference import reference_answers
from autotl.heads.serialization import load_head, save_head
from autotl.model.files import require_sound
from autotl.model.manifest import MemberManifest, read_member_manifest, write_manifest
from autotl.recipe import Recipe
from autotl.registry import Registry
from autotl.strategies.base import Fitted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Member", "check_complete", "load_member", "save_member"]

FILES = ("head.safetensors", "head.skops")
"""Of a dense head, and of an estimator."""
STATE = "backbone_state.safetensors"


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


def save_member(member: Member, num_features: int, folder: Path) -> str:
    """Write a member's folder; returns the SHA-256 of its `member.json`, which holds those of the other files.

    `member.json` is written last: a folder without it is incomplete and is ignored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_head(member.fitted.head, folder)
    if member.fitted.backbone_state is not None:
        from safetensors.torch import save

        tensors = {name: tensor.contiguous() for name, tensor in member.fitted.backbone_state.items()}
        write_atomically(folder / STATE, save(tensors))
    return write_manifest(
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
            "answers": reference_answers(member.fitted.head, num_features, member.num_classes).tolist(),
            "files": {name: file_digest(folder / name) for name in (*FILES, STATE) if (folder / name).exists()},
        },
    )


def load_member(folder: Path, registry: Registry) -> Member:
    """Read a member's folder.

    Raises:
        AutotlError: a file is missing or damaged, was changed, an estimator contains types that its head doesn't allow,
            the head gives other answers than when it was saved, or no plugin has the member's levels or augmentation.
    """
    manifest = read_member_manifest(folder)
    try:
        _check_components(manifest, registry)
        head_file = FILES[0] if registry.head(manifest.recipe.head).type == "dense" else FILES[1]
        require_sound(folder, (head_file, STATE) if manifest.tuned else (head_file,), manifest.files)
        recipe = Recipe.from_dict(manifest.recipe.model_dump())
        head = load_head(
            registry.head(recipe.head),
            recipe.head_params,
            manifest.num_features,
            manifest.num_classes,
            folder,
            manifest.answers,
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
    except UnknownName as error:
        raise AutotlError(f"{folder / 'member.json'}: {error}") from error
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise AutotlError(f"{folder} is not a complete member of a model: {type(error).__name__}: {error}") from error


def check_complete(folder: Path, members: Sequence[Member], backbones: Collection[str], num_classes: int) -> None:
    """Check that members belong to one model of these backbones (by digest) and classes, and that any of them counts.

    Raises:
        AutotlError: they don't; `folder` is the model's.
    """
    for number, member in enumerate(members):
        if member.backbone_digest not in backbones or member.num_classes != num_classes:
            raise AutotlError(
                f"{folder} is not a complete model: member {number} belongs to another one. "
                "Copy the model's folder again."
            )
    if not sum(member.weight for member in members):
        raise AutotlError(f"{folder} is not a complete model: the weight of each member is 0.")


def _check_components(manifest: MemberManifest, registry: Registry) -> None:
    """Look up the levels and augmentations that a page names.

    Raises:
        UnknownName: no plugin has one.
        ValueError: an augmentation has no view of that number.
    """
    find_named("levels", manifest.levels, registry.levels)
    for view in manifest.views:
        most = 1 if view.policy == "none" else find_named("augmentation", view.policy, registry.augmentations).max_views
        if most is not None and view.number >= most:
            raise ValueError(f"augmentation {view.policy!r} has {most} views, and number {view.number} is none of them")


def _backbone_state(folder: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(folder / STATE)
    except SafetensorError as error:
        raise ValueError(f"{STATE} is damaged: {error}") from error
