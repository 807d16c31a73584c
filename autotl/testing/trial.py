"""A small real problem for the checks of strategies and engines: patches of two photographs and a tiny network."""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from autotl.backbones.base import Backbone
from autotl.data.dataset import ImageDataset
from autotl.data.digests import digest_file
from autotl.data.splits import Split
from autotl.heads.base import Head
from autotl.recipe import Recipe
from autotl.registry import Registry, load_registry
from autotl.strategies.base import Report, Result, Strategy, Task
from autotl.testing.images import photographs

__all__ = ["SampleProblem", "sample_problem"]

NUM_TRAIN, NUM_VALIDATION = 24, 12


@dataclass
class SampleProblem:
    """A dataset of two classes, a split, a backbone with weights, and the registry. Features are recorded by PyTorch in
    fp32."""

    folder: tempfile.TemporaryDirectory
    registry: Registry
    backbone: Backbone
    dataset: ImageDataset
    split: Split

    @property
    def validation_labels(self) -> np.ndarray:
        return self.dataset.labels[self.split.validation]

    def head(self, head_type: str) -> Head:
        """A built-in head of a type."""
        return self.registry.head({"dense": "linear", "estimator": "logistic_regression"}[head_type])

    def task(self, head_type: str, **fields: Any) -> Task:
        """The problem as a trial's task; `fields` sets more of its fields."""
        from autotl.engines.torch import TorchEngine
        from autotl.features.extractor import FeatureExtractor
        from autotl.features.store import FeatureStore

        root = Path(self.folder.name)
        extractor = FeatureExtractor(
            self.dataset,
            self.split,
            FeatureStore(root / "features"),
            FeatureStore(root / "boundary"),
            engine=TorchEngine(bf16=False),
            device="cpu",
            threads=1,
        )
        given: dict[str, Any] = {"backbone": self.backbone, "features": extractor.of(self.backbone)} | fields
        return Task(
            head=self.head(head_type),
            num_classes=2,
            train_labels=self.dataset.labels[self.split.train],
            validation_labels=self.validation_labels,
            metric=self.registry.metric("accuracy"),
            **given,
        )

    def fit(
        self, strategy: Strategy, head_type: str, report: Report = lambda fraction, score: None, **fields: Any
    ) -> Result:
        """Run a trial of the strategy's and the head's defaults; `fields` sets more of the task's fields."""
        head = self.head(head_type)
        recipe = Recipe(self.backbone.name, strategy.name, head.name, 3, strategy.defaults(head), head.defaults())
        return strategy.fit(recipe, self.task(head_type, **fields), "cpu", report)


@cache
def sample_problem() -> SampleProblem:
    """The process's sample problem. Its files are removed when the process ends."""
    import timm
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    folder = tempfile.TemporaryDirectory(prefix="autotl-testing-")
    root = Path(folder.name)
    rng = np.random.default_rng(0)
    paths = []
    for i in range(NUM_TRAIN + NUM_VALIDATION):
        photograph = photographs()[i % 2]
        top, left = (int(rng.integers(side - 96)) for side in photograph.shape[:2])
        paths.append(root / f"{i:02}.png")
        Image.fromarray(photograph[top : top + 96, left : left + 96]).save(paths[-1])
    digests = tuple(map(digest_file, paths))
    n = len(paths)
    dataset = ImageDataset(
        "patches",
        ("china", "flower"),
        tuple(paths),
        np.arange(n) % 2,
        digests,
        tuple("" for _ in paths),
        tuple("" for _ in paths),
    )
    split = Split(np.arange(NUM_TRAIN), np.arange(NUM_TRAIN, n), np.arange(0), seed=0)

    weights = root / "test_resnet.safetensors"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = timm.create_model("test_resnet").train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average over real images: realistic running statistics
        pixels = np.stack([photograph[:320, :480] for photograph in photographs()]).astype(np.float32) / 128 - 1
        network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
    save_file(network.state_dict(), weights)
    registry = load_registry()
    return SampleProblem(folder, registry, registry.backbone(f"test_resnet@{weights}"), dataset, split)
