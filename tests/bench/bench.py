"""Side by side, in one run: the way most people write it, and autotl's. `make bench` runs it; no test does.

The naive side does what timm's and PyTorch's own examples do: timm's transform, a DataLoader with two workers, the
model in eval mode under no_grad, fp32 as it comes. Timings drift on a shared machine; ratios hold.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from autotl.data.load import load_dataset
from autotl.data.splits import Split, make_split
from autotl.features.extract import FeatureExtractor
from autotl.features.store import FeatureStore
from autotl.registry import load_registry

BACKBONE = "efficientnet_lite0"
NAIVE_IMAGES = 512
"""The naive way is slow: it is timed on so many images."""
BATCH = 32


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Folder(torch.utils.data.Dataset):
    """What torchvision's ImageFolder does: open, convert, transform."""

    def __init__(self, paths: list[Path], transform: Any):
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def naive_extraction(paths: list[Path], backbone: Any) -> Callable[[], np.ndarray]:
    model = backbone.build().eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    loader = torch.utils.data.DataLoader(Folder(paths, transform), batch_size=BATCH, num_workers=2)

    def run() -> np.ndarray:
        with torch.no_grad():
            return torch.cat([model(batch) for batch in loader]).numpy()

    return run


def main() -> None:
    torch.set_num_threads(2)
    registry = load_registry()
    backbone = registry.backbone(BACKBONE)
    dataset = load_dataset("elpv", registry.datasets)
    split = make_split(dataset, 0)
    everything = np.arange(len(dataset))
    rows = []

    def row(work: str, naive: float, ours: float, unit: str) -> None:
        rows.append({"work": work, "naive": naive, "autotl": ours, "unit": unit, "ratio": ours / naive})

    with tempfile.TemporaryDirectory() as scratch:
        few = [dataset.paths[i] for i in everything[:NAIVE_IMAGES]]
        naive = NAIVE_IMAGES / seconds(naive_extraction(few, backbone))

        def extractor(split: Split) -> FeatureExtractor:
            store = FeatureStore(Path(scratch) / "features")
            engine = registry.engine(None, "cpu")
            conversions = Path(scratch) / "engines"
            return FeatureExtractor(dataset, split, store, store, engine, "cpu", 2, conversions=conversions)

        ready = extractor(Split(everything[:BATCH], everything[:0], everything[:0], 0))
        ready.of(backbone).taps("train", "last")  # the conversion is kept for good: it isn't timed
        ours = extractor(split).of(backbone)
        ours.taps("validation", "last")
        n_train = len(split.train) - sum(i < BATCH for i in split.train)
        row(
            "extraction, files to stored features",
            naive,
            n_train / seconds(lambda: ours.taps("train", "last")),
            "images/s",
        )
        again = extractor(split).of(backbone)
        again.taps("train", "last")
        row(
            "the same images again",
            naive,
            len(split.train) / seconds(lambda: again.taps("train", "stages")),
            "images/s",
        )

    table = Table("work", "naive", "autotl", "unit", "ratio")
    for r in rows:
        table.add_row(r["work"], f"{r['naive']:,.0f}", f"{r['autotl']:,.0f}", r["unit"], f"{r['ratio']:,.1f} ×")
    Console(width=100).print(table)
    Path(sys.argv[1] if len(sys.argv) > 1 else "bench.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
