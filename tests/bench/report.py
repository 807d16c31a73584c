"""What the report of a large search costs: 20,000 images of 100 classes by default.

Run from a checkout: python tests/bench/report.py FOLDER [--images 20000] [--classes 100] [--trials 40] [--seconds 15]

A finished search is made in FOLDER: image files, recorded features in clusters, trials with out-of-fold probabilities,
and predictions of test images. Nothing is trained, so there are no heat maps.
"""

import argparse
import time
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial
from PIL import Image

from autotl.clock import Deadline
from autotl.config import StudyConfig
from autotl.data.augmentation import ORIGINAL, view_key
from autotl.data.loading import load_dataset
from autotl.data.splits import make_split
from autotl.features.store import FeatureStore
from autotl.registry import Registry, load_registry
from autotl.report.held_out import HeldOut
from autotl.report.record import SearchRecord
from autotl.report.write import write_report
from autotl.study.study import FOLD_FILE
from autotl.testing.images import photographs

BACKBONE, WIDTH, SIDE = "efficientnet_lite0", 1280, 48


def write_images(folder: Path, number: int, num_classes: int, rng: np.random.Generator) -> None:
    sources = photographs()
    for i in range(number):
        source = sources[i % len(sources)]
        top, left = (int(rng.integers(side - SIDE)) for side in source.shape[:2])
        file = folder / f"class {i % num_classes:03}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source[top : top + SIDE, left : left + SIDE]).save(file, quality=90)


def probabilities(rng: np.random.Generator, labels: np.ndarray, num_classes: int) -> np.ndarray:
    logits = rng.normal(0, 1, (len(labels), num_classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 5
    rows = np.exp(logits)
    return np.asarray(rows / rows.sum(1, keepdims=True))


def finished(folder: Path, images: int, num_classes: int, trials: int, registry: Registry) -> SearchRecord:
    rng = np.random.default_rng(0)
    if not (folder / "images").is_dir():
        write_images(folder / "images", images, num_classes, rng)
    config = StudyConfig(data=str(folder / "images"), name="large", output=folder, cache=folder / "cache", time=600)
    dataset = load_dataset(config.data, registry.datasets)
    split = make_split(dataset, 0)
    digest = registry.backbone(BACKBONE).digest
    centres = rng.normal(0, 1, (num_classes, WIDTH)).astype(np.float32)
    features = np.maximum(centres[dataset.labels] + rng.normal(0, 2, (len(dataset), WIDTH)), 0).astype(np.float16)
    spec = {"backbone": digest, "view": view_key(ORIGINAL), "block": None}
    with closing(FeatureStore(config.cache / "features").open(spec, (WIDTH,), "float16", BACKBONE)) as table:
        table.append(list(dataset.digests), features)
    study = optuna.create_study(direction="maximize")
    began = datetime(2026, 1, 1)
    for number in range(trials):
        recipe = {
            "backbone": BACKBONE, "strategy": "fast_extraction", "head": ("linear", "kernel_ridge")[number % 2],
            "seed": number, "strategy_params": {"levels": ("last", "stages+max")[number % 3 % 2]}, "head_params": {},
        }  # fmt: skip
        attributes = {"recipe": recipe, "description": f"trial {number}", "seconds": 5.0, "extraction_seconds": 1.0}
        score = 0.8 + 0.001 * number
        trial = create_trial(state=TrialState.COMPLETE, value=score, user_attrs=attributes)
        trial.datetime_start = began + timedelta(seconds=10 * number)
        trial.datetime_complete = began + timedelta(seconds=10 * number + 9)
        study.add_trial(trial)
        if number >= trials - 8:  # as many models as a search keeps
            kept = folder / "large" / "trials" / f"{number:05}"
            kept.mkdir(parents=True, exist_ok=True)
            np.save(kept / FOLD_FILE, probabilities(rng, dataset.labels[split.development], num_classes))
    tested = HeldOut(
        split.test, probabilities(rng, dataset.labels[split.test], num_classes).astype(np.float64),
        features[split.test].astype(np.float32), digest,
    )  # fmt: skip
    members = [{"trial": trials - 1 - i, "weight": 0.125, "description": "one"} for i in range(8)]
    counts = {name: len(getattr(split, name)) for name in ("train", "validation", "test")}
    result = {
        "study": "large", "metric": "accuracy", "classes": list(dataset.classes), "images": {**counts, "skipped": 0},
        "trials": {"complete": trials, "pruned": 0, "failed": 0}, "seconds": 600.0, "versions": {"autotl": "0"},
        "test": {"accuracy": 0.8, "n": len(split.test)}, "members": members,
    }  # fmt: skip
    return SearchRecord(folder / "large", config, registry, study, result, dataset, split, tested)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    registry = load_registry()
    record = finished(arguments.folder, arguments.images, arguments.classes, arguments.trials, registry)
    for name, deadline in (("without a limit", Deadline()), ("with it", Deadline(arguments.seconds))):
        began, cpu = time.perf_counter(), time.process_time()
        file = write_report(replace(record, deadline=deadline), print)
        seconds, spent = time.perf_counter() - began, time.process_time() - cpu
        late = "There was no time for" in file.read_text()
        size = file.stat().st_size / 1e6
        print(
            f"{name}: {seconds:.1f} s, {spent:.1f} CPU s, {size:.2f} MB, "
            f"{'sections are missing' if late else 'all sections'}",
            flush=True,
        )


if __name__ == "__main__":
    main()
