"""Files to recorded features, and back."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import naive
import numpy as np
from rows import Ground, Row, at_least, seconds, whole, work
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from autotl.data.preprocessing import load_view
from autotl.engines.base import Compiled, Engine

READS = 20
BARE_BATCHES = 64


@work
def extraction_elpv(ground: Ground) -> list[Row]:
    """Solar cells, grey PNGs: against the naive way, and against the engine alone on tensors that are ready."""
    rate, slow = _extraction(ground, "elpv")
    name = ground.backbone.name
    return [
        at_least(f"extraction, files to stored features, elpv, {name}", slow, rate, "images/s", 10),
        at_least("the same, of the bare engine on ready tensors", _bare_engine(ground, "elpv"), rate, "images/s", 0.7),
    ]


@work
def extraction_clothing(ground: Ground) -> list[Row]:
    """Photographs, colour JPEGs."""
    if ground.clothing is None:
        raise FileNotFoundError("the clothing photographs aren't here: name their folder with --clothing")
    rate, slow = _extraction(ground, str(ground.clothing))
    name = ground.backbone.name
    return [at_least(f"extraction, files to stored features, clothing JPEGs, {name}", slow, rate, "images/s", 8)]


def _extraction(ground: Ground, location: str) -> tuple[float, float]:
    """Images a second, autotl's and naive. Both begin with a network that is built, and with empty hands."""
    dataset = ground.dataset(location)
    few = [
        dataset.paths[i] for i in np.linspace(0, len(dataset) - 1, min(ground.naive_images, len(dataset)), dtype=int)
    ]
    slow = naive.extraction(few, ground.backbone)
    with ground.scratch() as folder:
        features = ground.made_ready(dataset, whole(dataset), folder).of(ground.backbone)
        rate = len(dataset) / seconds(lambda: features.levels("train", "last"))
    return rate, slow


def _bare_engine(ground: Ground, location: str) -> float:
    """Images a second of the engine, with every tap, on batches of real images in memory."""
    from autotl.backbones.graph_split import FeatureLevels, GraphSplit, Normalize

    dataset, preprocessing = ground.dataset(location), ground.backbone.preprocessing
    images = np.stack([load_view(path, "", preprocessing) for path in dataset.paths[:32]])
    module = ground.backbone.build()
    network = Normalize(FeatureLevels(GraphSplit(module, ground.backbone.blocks(module))), preprocessing).eval()
    engine = ground.engine
    run = engine.compile(network, preprocessing.size, "cpu", ground.threads, engine.precision("cpu"))
    with ThreadPoolExecutor(ground.threads) as callers:  # as many at once as the engine was made ready for
        list(callers.map(run, [images] * 2 * ground.threads))
        taken = seconds(lambda: list(callers.map(run, [images] * BARE_BATCHES)))
    return BARE_BATCHES * len(images) / taken


@work
def reading(ground: Ground) -> list[Row]:
    """What a worker's trials read: the first of them checks every row, the others find it checked."""
    dataset = ground.dataset("elpv")
    with ground.scratch() as folder:
        ground.extractor(dataset, whole(dataset), folder).of(ground.backbone).levels("train", "last")
        features = ground.extractor(dataset, whole(dataset), folder).of(ground.backbone)
        first = len(dataset) / seconds(lambda: features.levels("train", "last"))

        def again() -> None:  # as trials do: none keeps what an earlier one read
            for _ in range(READS):
                features.levels("train", "last")

        rate = READS * len(dataset) / seconds(again)
    return [
        Row("reading recorded features back", None, rate, "images/s", None, "≥ 100,000 images/s", rate >= 1e5),
        Row(
            "the same, a worker's first time, with checksums", None, first, "images/s", None, "≥ 100,000 images/s",
            first >= 1e5,
        ),
    ]  # fmt: skip


class Counted(Engine):
    """An engine, and how many images went through what it compiled."""

    def __init__(self, engine: Engine):
        self.engine, self.name, self.images = engine, engine.name, 0

    def usable(self, device: str) -> bool:
        return self.engine.usable(device)

    def version(self) -> str:
        return self.engine.version()

    def precision(self, device: str) -> str:
        return self.engine.precision(device)

    def compile(self, *args: Any, **kwargs: Any) -> Compiled:
        run = self.engine.compile(*args, **kwargs)

        def counted(images: np.ndarray) -> np.ndarray:
            self.images += len(images)
            return run(images)

        return counted


@contextmanager
def counted_torch() -> Iterator[list[int]]:
    """The images of each pass that PyTorch itself makes through a network, as its first convolution sees them."""
    passes: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            passes.append(len(inputs[0]))

    hook = register_module_forward_pre_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


@work
def new_images(ground: Ground) -> list[Row]:
    """A data set grows by ten images between two searches, in two processes' worth of objects."""
    dataset = ground.dataset("elpv")
    engine = Counted(ground.engine)
    split = whole(dataset)
    with ground.scratch() as folder:
        before = replace(split, train=split.train[10:])
        ground.extractor(dataset, before, folder).of(ground.backbone).levels("train", "last")
        with counted_torch() as by_torch:
            ground.extractor(dataset, split, folder, engine).of(ground.backbone).levels("train", "last")
        # what a torch engine runs is among torch's own passes
        passes = sum(by_torch) + (0 if engine.name.startswith("torch") else engine.images)
    n = len(dataset)
    work = f"10 new images among {n:,}: forward passes"
    return [Row(work, n, passes, "passes", n / passes if passes else None, "exactly 10", passes == 10)]
