"""Extract and augment: a new head learns from the frozen backbone's features of several augmented views per image.

A view is drawn from a seed of (image digest, policy, view number), so its features are recorded like the original
image's: K views cost K extractions once, not one per epoch, and estimator heads can use them. With `tta` the model
averages its logits over the same views of a new image.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.backbones.base import Backbone
from autotl.data.augmentation import ORIGINAL, views_of
from autotl.heads.base import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.base import Report, Result, Strategy, Task
from autotl.strategies.head_training import fit_head, head_training_defaults, suggest_head_training

if TYPE_CHECKING:
    from autotl.registration import Register

__all__ = ["ExtractAugment"]

MAX_VIEWS = 7
"""With the original image these are all symmetries of a square."""


class ExtractAugment(Strategy):
    """More expensive than fast extraction, and augmentation works."""

    name = "extract_augment"
    cross_validated = True
    samples_per_image = 2  # the original image and one view
    recorded_params = ("policy", "views")

    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        views = space.int("views", 1, MAX_VIEWS)
        if head.max_train_samples:  # the original image is one sample, each view another
            views = max(1, min(views, head.max_train_samples // max(1, space.num_train) - 1))
        return {
            "policy": space.categorical("policy", space.augmentations),
            "views": views,
            "tta": space.categorical("tta", (True, False)),
            "levels": space.categorical("levels", space.levels),
            **suggest_head_training(space, head),
        }

    def defaults(self, head: Head) -> Params:
        return {
            "policy": "flip",
            "views": 1,
            "tta": True,
            "levels": "stages+max",
            **head_training_defaults(head),
        }

    def expensive_defaults(self, head: Head, passes: int) -> list[Params]:
        views = min(MAX_VIEWS, passes - 1)
        sets = [{"policy": "dihedral", "views": views, "levels": levels} for levels in ("inner+max", "stages+max")]
        return [{**self.defaults(head), **params} for params in sets] if views > 0 else []

    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        params = recipe.strategy_params
        levels, policy = str(params["levels"]), str(params["policy"])
        views = views_of(policy, int(params["views"] or 0), task.augmentations)
        first = task.features.levels("train", levels, views[0])
        features = np.empty((len(views), *first.shape), first.dtype)
        features[0] = first
        for i, view in enumerate(views[1:], 1):  # filled in place: a list of all views would double the peak memory
            features[i] = task.features.levels("train", levels, view)
        labels = np.tile(task.train_labels, len(views))
        tta_views = tuple(views) if params.get("tta") else (ORIGINAL,)
        return fit_head(recipe, task, device, report, levels, features.reshape(-1, first.shape[1]), labels, tta_views)


def autotl_register_strategies(register: "Register[Strategy]") -> None:
    register(ExtractAugment())
