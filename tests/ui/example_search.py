"""The events, a snapshot and the result of a search, for the tests of displays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from autotl.events import SearchStarted, TrialFinished
from autotl.ui.progress import Snapshot, WorkerLine

LONG = (
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k · extract_augment (policy dihedral, views 8, levels stages_max, "
    "mixup 0.2) · hist_gradient_boosting (learning_rate 0.1, iterations 200, leaves 31, l2 0.001)"
)
SHORT = "efficientnet_lite0 · fast_extraction (levels last) · rbf_svm (C 12.3)"
FINISHED = TrialFinished(
    number=34,
    state="complete",
    value=0.8843,
    strategy="extract_augment",
    backbone="vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    head="hist_gradient_boosting",
    description=LONG,
    seconds=64.0,
    is_best=True,
)
FAILED = TrialFinished(
    number=33,
    state="failed",
    value=None,
    strategy="fast_extraction",
    backbone="efficientnet_lite0",
    head="rbf_svm",
    description=SHORT,
    seconds=1.0,
    cause="RuntimeError: out of memory: tried to allocate 12 GiB\nand more",
)
PRUNED = replace(FAILED, number=32, state="pruned", seconds=11.0, cause="")
TRAINING = WorkerLine("cpu:0", 37, LONG, "epoch 2/8", 12.3)
EXTRACTING = WorkerLine("cuda:1", 38, SHORT, "efficientnet_lite0: 812/1574 images", 3.1)
IDLE = WorkerLine("cuda:2", None, "", "waiting", 1.0)
SNAPSHOT = Snapshot(
    seconds=151.0,
    time_left=149.0,
    complete=21,
    pruned=12,
    failed=1,
    trials_left=66,
    workers=(TRAINING, EXTRACTING, IDLE),
    best=FINISHED,
    recent=(PRUNED, FAILED, FINISHED),
    images_per_second=473.2,
)
STARTED = SearchStarted(
    study="太陽電池",
    folder=Path("studies/cells"),
    data="cells",
    classes=tuple(f"class number {i}" for i in range(40)),
    images={"train": 1574, "validation": 394, "test": 656, "skipped": 2},
    metric="balanced_accuracy",
    devices=("cpu:0", "cuda:1"),
    backbones=("efficientnet_lite0",),
    warnings=("3 images lie in both train and test (same bytes): the copies in train were left out",),
)
SCORES = {"accuracy": 0.8765, "balanced_accuracy": 0.86, "macro_f1": 0.85, "log_loss": 0.31, "n": 656}
RESULT: dict[str, Any] = {
    "study": "cells",
    "metric": "balanced_accuracy",
    "classes": list(STARTED.classes),
    "images": dict(STARTED.images),
    "trials": {"complete": 41, "pruned": 20, "failed": 2},
    "best": {"number": 34, "recipe": {}, "validation": 0.8843},
    "test": SCORES,
    "baseline": SCORES | {"accuracy": 0.6891},
    "seconds": 297.4,
    "versions": {},
    "leaderboard": [
        {
            "rank": rank,
            "trial": 33 + rank,
            "value": 0.8843 - rank / 100,
            "backbone": FINISHED.backbone,
            "strategy": FINISHED.strategy,
            "head": FINISHED.head,
            "description": LONG,
            "seconds": 64.0,
        }
        for rank in range(1, 20)
    ],
    "members": [34, 31, 12],
    "model": "studies/cells/model",
}
