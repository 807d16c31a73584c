"""The promises of every engine, checked on a tiny network and real images."""

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.engines.base import Compiled, Engine
from autotl.engines.parity import MIN_COSINE, engine_cosine, mean_cosine
from autotl.testing.check import Checks, expect
from autotl.testing.images import patches
from autotl.testing.trial import sample_problem

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ENGINE"]

ENGINE = Checks("engine", Engine, options=("device",))


@ENGINE.requires(Engine)
def is_described(engine: Engine, device: str = "cpu") -> None:
    """An engine has a name without spaces, and `usable` returns a bool, also for a device that doesn't exist."""
    expect(isinstance(engine.name, str) and re.fullmatch(r"\S+", engine.name), f"name is {engine.name!r}")
    for name in (device, "cuda:63"):
        expect(isinstance(engine.usable(name), bool), f"usable({name!r}) is {engine.usable(name)!r}")


@ENGINE.requires(Engine.precision)
def precision_is_stated(engine: Engine, device: str = "cpu") -> None:
    """`precision` is "fp32" or "bf16", the same each time: it is part of the feature store's key."""
    _skip_unless_usable(engine, device)
    first, second = engine.precision(device), engine.precision(device)
    expect(first in ("fp32", "bf16"), f"precision is {first!r}")
    expect(first == second, f"precision is {first!r} first and {second!r} then")


@ENGINE.requires(Engine.version)
def version_is_stated(engine: Engine, device: str = "cpu") -> None:
    """`version` is a text with a digit, the same each time: it is part of the feature store's key."""
    _skip_unless_usable(engine, device)
    first, second = engine.version(), engine.version()
    expect(isinstance(first, str) and re.search(r"\d", first), f"version is {first!r}")
    expect(first == second, f"version is {first!r} first and {second!r} then")


@ENGINE.requires(engine_cosine)
def features_match_pytorch(engine: Engine, device: str = "cpu") -> None:
    """Features [N, F], and the maps [N, C, H, W] of a frozen prefix, have a mean cosine of at least 0.99 with PyTorch's
    in fp32 on real images."""
    for what, module in (("features", _network()), ("maps", _network(maps=True))):
        cosine = engine_cosine(_compile(engine, module, device), _network(maps=what == "maps"), _images(8))
        expect(cosine >= MIN_COSINE, f"the mean cosine of {what} is {cosine:.4f}")


@ENGINE.requires(Engine.compile)
def takes_batches_of_any_length(engine: Engine, device: str = "cpu") -> None:
    """uint8 images [N, size, size, 3] become float32 features [N, ...] for any N, the same each time; a later call
    doesn't change the features of an earlier one."""
    run = _compile(engine, _network(), device)
    images = _images(8)
    features = run(images)
    dtype = getattr(features, "dtype", type(features))
    expect(isinstance(features, np.ndarray) and dtype == np.float32, f"features are {dtype}")
    first = features.copy()
    for n in (1, 3, 8):
        batch = run(images[:n].copy())
        expect(batch.shape == (n, *features.shape[1:]), f"{n} images give the shape {list(batch.shape)}")
        cosine = mean_cosine(batch, first[:n])
        expect(cosine > 0.999, f"in a batch of {n} the same images have other features (mean cosine {cosine:.4f})")
    run(images[::-1].copy())
    expect(np.array_equal(features, first), "a later call changed the features of an earlier one: return a copy")


@ENGINE.requires(Engine.compile)
def is_thread_safe(engine: Engine, device: str = "cpu") -> None:
    """A compiled network runs in other threads than the one that compiled it, and in two at the same time."""
    run = _compile(engine, _network(), device)
    images = _images(8)
    expected = run(images)
    with ThreadPoolExecutor(2) as pool:
        for features in pool.map(run, [images.copy() for _ in range(4)]):
            cosine = mean_cosine(features, expected)
            expect(cosine > 0.999, f"in other threads the same images have other features (mean cosine {cosine:.4f})")


@ENGINE.requires(Engine.compile)
def leaves_the_module_unchanged(engine: Engine, device: str = "cpu") -> None:
    """The caller's module keeps its tensors, stays on the CPU, and stays in eval mode."""
    import torch

    module = _network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _compile(engine, module, device)(_images(2))
    after = module.state_dict()
    expect(all(t.device.type == "cpu" for t in after.values()), "its tensors were moved")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    expect(not changed, f"{len(changed)} of its tensors changed, {changed[:1]}")
    expect(not module.training, "it is in training mode")


@ENGINE.requires(Engine.compile)
def cache_is_keyed(engine: Engine, device: str = "cpu") -> None:
    """With a `cache` folder, the same key gives the same features again, and another key, of other weights, others."""
    import torch

    images = _images(4)
    other = _network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-0.5)
    with tempfile.TemporaryDirectory() as folder:
        cache: dict[str, Any] = {"cache": Path(folder)}
        first = _compile(engine, _network(), device, **cache, key="a")(images)
        again = _compile(engine, _network(), device, **cache, key="a")(images)
        changed = _compile(engine, other, device, **cache, key="b")(images)
    expect(mean_cosine(again, first) > 0.999, "the same key gives other features the second time")
    expect(not np.allclose(changed, first, rtol=1e-2), "other weights under another key have the same features")


def _skip_unless_usable(engine: Engine, device: str) -> None:
    import pytest

    if not engine.usable(device):
        pytest.skip(f"engine {engine.name} isn't usable on {device} on this machine")


def _network(*, maps: bool = False) -> "nn.Module":
    from autotl.backbones.graph_split import GraphSplit, Normalize

    backbone = sample_problem().backbone
    module = backbone.build()
    network = GraphSplit(module, backbone.blocks(module)).prefix(2) if maps else module
    return Normalize(network, backbone.preprocessing).eval()


def _images(n: int) -> np.ndarray:
    return patches(sample_problem().backbone.preprocessing, n)


def _compile(engine: Engine, module: "nn.Module", device: str, **cache: Any) -> Compiled:
    _skip_unless_usable(engine, device)
    return engine.compile(
        module, sample_problem().backbone.preprocessing.size, device, 1, engine.precision(device), **cache
    )
