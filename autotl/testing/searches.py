"""A finished search of 24 real images, without a trained model: what a report's sections read."""

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np

from autotl.data.dataset import ImageDataset
from autotl.data.splits import Split
from autotl.registry import Registry, load_registry
from autotl.report.held_out import HeldOut
from autotl.report.record import SearchRecord
from autotl.study.study import FOLD_FILE

__all__ = ["finished_search", "unfinished_search"]

CLASSES = ("temple", "flower <b>&")
"""One of them with characters that mean something in HTML."""
RECIPES = (
    ("fast_extraction", "linear", {"levels": "last"}),
    ("fast_extraction", "knn", {"levels": "stages"}),
    ("fine_tuning", "linear", {"unfrozen_blocks": 1}),
    ("fine_tuning", "linear", {"unfrozen_blocks": 2}),
)


def finished_search(folder: Path, registry: Registry | None = None) -> SearchRecord:
    """A search with four complete trials, a pruned and a failed one, and predictions of its validation and test images.

    Args:
        folder: an empty folder, which becomes the study's.
        registry: the plugins; by default all that are installed.
    """
    dataset, split = _images(folder / "images")
    record = _record(folder, registry or _registry())
    record.dataset, record.split = dataset, split
    rng = np.random.default_rng(0)
    for number in range(len(RECIPES)):
        kept = folder / "trials" / f"{number:05}"
        kept.mkdir(parents=True)
        np.save(kept / FOLD_FILE, _probabilities(rng, dataset.labels[split.development]))
    record.tested = HeldOut(split.test, _probabilities(rng, dataset.labels[split.test]))
    record.result = {
        "study": record.config.name,
        "metric": "accuracy",
        "classes": list(CLASSES),
        "images": {"train": 12, "validation": 6, "test": 6, "skipped": 0},
        "trials": {"complete": 4, "pruned": 1, "failed": 1},
        "test": {"accuracy": 0.8, "n": 6},
        "seconds": 60.0,
        "versions": {"autotl": "0"},
        "members": [{"trial": 2, "weight": 1.0, "description": "resnet18 · fine_tuning · linear"}],
    }
    return record


def unfinished_search(folder: Path, registry: Registry | None = None) -> SearchRecord:
    """A search that runs, whose images can't be read, without a complete trial."""
    import optuna

    record = _record(folder, registry or _registry())
    record.study, record.running = optuna.create_study(direction="maximize"), True
    return record


@cache
def _registry() -> Registry:
    return load_registry()


def _images(folder: Path) -> tuple[ImageDataset, Split]:
    from PIL import Image

    from autotl.data.digests import digest_file
    from autotl.testing.images import photographs

    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(24):
        photograph = photographs()[i % 2]
        top, left = (int(rng.integers(side - 64)) for side in photograph.shape[:2])
        paths.append(folder / f"{i:02}.png")
        Image.fromarray(photograph[top : top + 64, left : left + 64]).save(paths[-1])
    digests = tuple(map(digest_file, paths))
    labels = np.arange(24) % 2
    dataset = ImageDataset("photographs", CLASSES, tuple(paths), labels, digests, ("",) * 24, ("",) * 24)
    return dataset, Split(np.arange(12), np.arange(12, 18), np.arange(18, 24), seed=0)


def _record(folder: Path, registry: Registry) -> SearchRecord:
    import optuna
    from optuna.trial import TrialState, create_trial

    from autotl.config import StudyConfig

    config = StudyConfig(data="photographs", name="example", output=folder.parent, cache=folder / "cache", time=60)
    study = optuna.create_study(direction="maximize")
    began = datetime(2026, 1, 1)
    for number, (strategy, head, params) in enumerate([*RECIPES, RECIPES[0], RECIPES[0]]):
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)[max(0, number - len(RECIPES) + 1)]
        recipe = {
            "backbone": "resnet18",
            "strategy": strategy,
            "head": head,
            "seed": number,
            "strategy_params": params,
            "head_params": {},
        }
        trial = create_trial(
            state=state,
            value=0.5 + number / 10 if state == TrialState.COMPLETE else None,
            user_attrs={
                "recipe": recipe,
                "description": f"resnet18 · {strategy} · {head}",
                "seconds": 1.0 + number,
                "extraction_seconds": 0.5,
                "cause": "ValueError: <example>",
            },
        )
        trial.datetime_start = began + timedelta(seconds=10 * number)
        trial.datetime_complete = began + timedelta(seconds=10 * number + 9)
        study.add_trial(trial)
    return SearchRecord(folder, config, registry, study)


def _probabilities(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Probabilities [n, 2] of which most are right."""
    given = np.where(
        np.arange(len(labels)) % 3 == 0, rng.uniform(0.1, 0.4, len(labels)), rng.uniform(0.6, 0.95, len(labels))
    )
    return np.where(np.arange(2) == labels[:, None], given[:, None], 1 - given[:, None])
