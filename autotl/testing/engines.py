"""What every engine promises, seen on a tiny network and real images."""

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
from autotl.testing.trial import bench

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ENGINE"]

ENGINE = Checks("engine", Engine, options=("device",))


@ENGINE.promise(Engine)
def is_described(engine: Engine, device: str = "cpu") -> None:
    """An engine has a name without spaces, and says whether it is usable on a device, also on one that isn't here."""
    expect(isinstance(engine.name, str) and re.fullmatch(r"\S+", engine.name), f"name is {engine.name!r}")
    for asked in (device, "cuda:63"):
        expect(isinstance(engine.usable(asked), bool), f"usable({asked!r}) is {engine.usable(asked)!r}")


@ENGINE.promise(Engine.precision)
def precision_is_stated(engine: Engine, device: str = "cpu") -> None:
    """`precision` is "fp32" or "bf16", the same each time: it is part of the feature store's key."""
    _ask_for_device(engine, device)
    found = engine.precision(device)
    expect(found in ("fp32", "bf16"), f"precision is {found!r}")
    expect(
        engine.precision(device) == found, f"asked again precision is {engine.precision(device)!r}, and was {found!r}"
    )


@ENGINE.promise(engine_cosine)
def rows_are_pytorchs_own(engine: Engine, device: str = "cpu") -> None:
    """Rows are those of PyTorch in fp32, with a mean cosine of at least 0.99 on real images: of features [N, F], and of
    the maps [N, C, H, W] that a frozen prefix leaves."""
    for what, module in (("features", _network()), ("maps", _network(maps=True))):
        cosine = engine_cosine(_compiled(engine, module, device), _network(what == "maps"), _images(8))
        expect(cosine >= MIN_COSINE, f"the mean cosine of {what} is {cosine:.4f}")


@ENGINE.promise(Engine.compile)
def takes_batches_of_any_length(engine: Engine, device: str = "cpu") -> None:
    """uint8 images [N, size, size, 3] become float32 rows [N, …], whatever N from call to call, the same ones each
    time; a later call leaves an earlier one's rows alone."""
    run = _compiled(engine, _network(), device)
    images = _images(8)
    rows = run(images)
    expect(isinstance(rows, np.ndarray) and rows.dtype == np.float32, f"rows are {getattr(rows, 'dtype', type(rows))}")
    kept = rows.copy()
    for n in (1, 3, 8):
        part = run(images[:n].copy())
        expect(part.shape == (n, *rows.shape[1:]), f"for {n} images came {list(part.shape)}")
        cosine = mean_cosine(part, kept[:n])
        expect(cosine > 0.999, f"of a batch of {n} the same images have other rows (mean cosine {cosine:.4f})")
    run(images[::-1].copy())
    expect(np.array_equal(rows, kept), "a later call changed the rows of an earlier one: return a copy")


@ENGINE.promise(Engine.compile)
def may_be_called_from_any_thread(engine: Engine, device: str = "cpu") -> None:
    """What it compiled runs in another thread than the one that compiled it, and in two at once."""
    run = _compiled(engine, _network(), device)
    images = _images(8)
    expected = run(images)
    with ThreadPoolExecutor(2) as pool:
        for rows in pool.map(run, [images.copy() for _ in range(4)]):
            cosine = mean_cosine(rows, expected)
            expect(cosine > 0.999, f"in other threads the same images have other rows (mean cosine {cosine:.4f})")


@ENGINE.promise(Engine.compile)
def leaves_the_module_as_it_was(engine: Engine, device: str = "cpu") -> None:
    """The caller's module keeps its tensors, stays on the CPU, and isn't put into training mode."""
    import torch

    module = _network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    _compiled(engine, module, device)(_images(2))
    after = module.state_dict()
    expect(all(t.device.type == "cpu" for t in after.values()), "its tensors were moved")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    expect(not changed, f"{len(changed)} of its tensors changed, {changed[:1]}")
    expect(not module.training, "it is in training mode")


@ENGINE.promise(Engine.compile)
def what_it_keeps_is_keyed(engine: Engine, device: str = "cpu") -> None:
    """With a folder to keep things in, the same key gives the same rows again, and another key, of other weights,
    other rows."""
    import torch

    images = _images(4)
    other = _network()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-0.5)
    with tempfile.TemporaryDirectory() as folder:
        keep: dict[str, Any] = {"cache": Path(folder)}
        first = _compiled(engine, _network(), device, **keep, key="a")(images)
        again = _compiled(engine, _network(), device, **keep, key="a")(images)
        changed = _compiled(engine, other, device, **keep, key="b")(images)
    expect(mean_cosine(again, first) > 0.999, "from what it kept come other rows than at first")
    expect(not np.allclose(changed, first, rtol=1e-2), "other weights under another key have the same rows")


def _ask_for_device(engine: Engine, device: str) -> None:
    import pytest

    if not engine.usable(device):
        pytest.skip(f"engine {engine.name} isn't usable on {device} here")


def _network(maps: bool = False) -> "nn.Module":
    from autotl.backbones.graph_split import GraphSplit, Normalize

    backbone = bench().backbone
    module = backbone.build()
    inner = GraphSplit(module, backbone.blocks(module)).prefix(2) if maps else module
    return Normalize(inner, backbone.preprocessing).eval()


def _images(n: int) -> np.ndarray:
    return patches(bench().backbone.preprocessing, n)


def _compiled(engine: Engine, module: "nn.Module", device: str, **keep: Any) -> Compiled:
    _ask_for_device(engine, device)
    return engine.compile(module, bench().backbone.preprocessing.size, device, 1, engine.precision(device), **keep)
