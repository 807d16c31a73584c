"""The way most people write it: what the examples of timm's, PyTorch's and Optuna's documentation do.

timm's network and transform, a DataLoader with two workers, fp32 as it comes. Frozen means `requires_grad_(False)`, the
whole network runs for each image, and each trial and each epoch begins with the files.
"""

import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import nn

from autotl.backbones.base import Backbone

__all__ = ["extraction", "training"]

BATCH = 32


class Folder(torch.utils.data.Dataset):
    """What torchvision's ImageFolder does: open, convert, transform."""

    def __init__(self, paths: Iterable[Path], labels: np.ndarray, transform: Any):
        self.paths, self.labels, self.transform = list(paths), labels, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), int(self.labels[i])


def extraction(paths: list[Path], backbone: Backbone) -> float:
    """Images a second, from files to features in memory."""
    model = backbone.build().eval()  # timm.create_model(name, num_classes=0), with weights from a file
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    loader = torch.utils.data.DataLoader(Folder(paths, np.zeros(len(paths)), transform), BATCH, num_workers=2)
    began = time.perf_counter()
    with torch.no_grad():
        features = torch.cat([model(images) for images, _ in loader])
    assert len(features) == len(paths)
    return len(paths) / (time.perf_counter() - began)


def training(paths: list[Path], labels: np.ndarray, backbone: Backbone, unfrozen_blocks: int, steps: int) -> float:
    """Images a second of a training loop over the whole network, its last blocks and a new head unfrozen.

    The first step, which waits for the workers to start, isn't counted.
    """
    base = backbone.build()
    with torch.no_grad():
        width = base(torch.zeros(1, 3, backbone.preprocessing.size, backbone.preprocessing.size)).shape[1]
    blocks = backbone.blocks(base)
    base.requires_grad_(False)
    for block in blocks[max(0, len(blocks) - unfrozen_blocks) :] if unfrozen_blocks else []:
        for name in block.modules:
            base.get_submodule(name).requires_grad_(True)
        for name in block.parameters:
            base.get_parameter(name).requires_grad_(True)
    model = nn.Sequential(base, nn.Linear(width, int(labels.max()) + 1)).train()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(base), is_training=True)
    loader = torch.utils.data.DataLoader(
        Folder(paths, labels, transform), BATCH, shuffle=True, drop_last=True, num_workers=2
    )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    began = 0.0
    for step, (images, targets) in enumerate(itertools.islice(endless, steps + 1)):
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 0:
            began = time.perf_counter()
    return steps * BATCH / (time.perf_counter() - began)
