"""The contract checks for backbones.

No weights are downloaded. Where the weights aren't on this machine, checks of the weights are skipped and the other
checks run on arbitrary ones.
"""

import copy
import pickle
import re
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.testing.check import Checks, Unexpected, expect

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BACKBONE"]

BACKBONE = Checks("backbone", Backbone, options=("other",))
INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


@BACKBONE.requires(Backbone)
def is_described(backbone: Backbone) -> None:
    """A backbone has a name without spaces, except in a path after '@' or ':', and states its pretraining data and the
    licence of its weights."""
    name: Any = backbone.name
    expect(isinstance(name, str) and re.fullmatch(r"[^\s@:]+([@:]\S.*)?", name), f"name is {name!r}")
    for attribute in ("pretrained_on", "license"):
        text = getattr(backbone, attribute)
        expect(isinstance(text, str) and text.strip(), f"{attribute} is {text!r}")
    expect(isinstance(backbone.is_cached, bool), f"is_cached is {backbone.is_cached!r}, neither True nor False")


@BACKBONE.requires(Backbone)
def pickles_to_a_worker_lightly(backbone: Backbone) -> None:
    """A backbone can be pickled to another process, and unpickling it there imports no torch."""
    fresh = _without_cached_properties(backbone)
    try:
        content = pickle.dumps(fresh)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise Unexpected(f"it can't be pickled: {error}") from error
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import pickle; backbone = pickle.load(sys.stdin.buffer); backbone.name\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], input=content, capture_output=True, check=False)
    last = run.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    expect(run.returncode == 0, f"unpickled in a new process: {last}")
    expect(run.stdout.strip() == b"False", "unpickling it imported torch")
    expect(
        pickle.loads(content).preprocessing == backbone.preprocessing,  # noqa: S301  # pickled above
        "its preprocessing is different after pickling",
    )


@BACKBONE.requires(Preprocessing)
def preprocessing_is_complete(backbone: Backbone) -> None:
    """The preprocessing is complete: a size in whole pixels, a crop in (0, 1], an interpolation, and mean and std of
    three channels in units of x/255."""
    preprocessing: Any = backbone.preprocessing
    expect(isinstance(preprocessing, Preprocessing), f"preprocessing is {preprocessing!r}")
    size, crop, interpolation = preprocessing.size, preprocessing.crop, preprocessing.interpolation
    expect(isinstance(size, int) and size > 0, f"size is {size!r}")
    expect(backbone.size in (None, size), f"`size` is {backbone.size}, and the preprocessing's size is {size}")
    expect(isinstance(crop, float) and 0 < crop <= 1, f"crop is {crop!r}")
    expect(interpolation in INTERPOLATIONS, f"interpolation is {interpolation!r}, none of {', '.join(INTERPOLATIONS)}")
    for name, low in (("mean", 0.0), ("std", 1e-6)):
        values = getattr(preprocessing, name)
        three = isinstance(values, tuple) and len(values) == 3 and all(isinstance(v, float) for v in values)
        expect(three, f"{name} is {values!r}, not a tuple of three floats")
        expect(all(low <= v <= 1 for v in values), f"{name} is {values!r}: outside of the range of x/255, 0 to 1")


@BACKBONE.requires(Backbone.build)
def builds_twice_alike(backbone: Backbone) -> None:
    """`build()` returns the same network each time, every tensor bit-equal, in eval mode. Changing one network doesn't
    change the next one."""
    import torch

    _skip_without_weights(backbone)
    first = backbone.build()
    expect(not any(m.training for m in first.modules()), "a network in training mode: end with `return module.eval()`")
    expected = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.zero_()
    difference = _difference(expected, dict(backbone.build().state_dict()))
    expect(not difference, f"in the second network {difference}")


@BACKBONE.requires(Backbone.build)
def builds_the_same_network_without_weights(backbone: Backbone) -> None:
    """`build(pretrained=False)` returns the same architecture, into which the tensors of `build()` load strictly, and
    works where the weights aren't on this machine."""
    empty = {name: tuple(tensor.shape) for name, tensor in backbone.build(pretrained=False).state_dict().items()}
    expect(empty, "a network without tensors")
    if backbone.is_cached:
        whole = {name: tuple(tensor.shape) for name, tensor in backbone.build().state_dict().items()}
        differing = next((name for name in {**whole, **empty} if whole.get(name) != empty.get(name)), "")
        expect(
            not differing,
            f"{differing!r} has shape {whole.get(differing)} with weights and {empty.get(differing)} without",
        )


@BACKBONE.requires(Backbone.digest)
def digest_follows_the_weights(backbone: Backbone, other: Backbone | None = None) -> None:
    """`digest` is hex digits that change when the weights change, and only then, so that features recorded with other
    weights are never used."""
    import pytest

    _skip_without_weights(backbone)
    digest = backbone.digest
    is_hex = isinstance(digest, str) and re.fullmatch("[0-9a-f]{16,}", digest)
    expect(is_hex, f"digest is {digest!r}: 16 hex digits or more")
    backbone.build()
    again = _without_cached_properties(backbone).digest
    expect(again == digest, f"computed again it is {again}, and was {digest}")
    if other is not None:
        expect(other.digest != digest, f"`other`, with other weights, has the same digest {digest}")
        return
    file = backbone.weights_file()
    if file is None:
        pytest.skip("its weights_file() is None: pass a backbone with other weights, check(backbone, other=…)")
    with tempfile.TemporaryDirectory() as folder:
        changed = _with_other_weights(backbone, file, Path(folder))
        expect(changed.digest != digest, f"the values in {file.name} were changed and the digest is still {digest}")
        difference = _difference(dict(backbone.build().state_dict()), dict(changed.build().state_dict()))
        expect(difference, f"the values in {file.name} were changed and the network not: it reads another file")


@BACKBONE.requires(Backbone.build)
def features_are_sound(backbone: Backbone) -> None:
    """Real images [N, 3, size, size] become finite features [N, num_features], which differ between images. Where
    `num_features` is stated, it is right."""
    features = _features(backbone, _module(backbone), 4)
    expect(
        features.ndim == 2 and len(features) == 4,
        f"features of 4 images are {list(features.shape)}: pool the feature maps to [N, num_features]",
    )
    expect(features.is_floating_point(), f"features are {features.dtype}")
    finite = features.isfinite().all(1)
    expect(finite.all(), f"{4 - int(finite.sum())} of 4 images have NaN or infinite features")
    if backbone.num_features is not None:
        width = features.shape[1]
        expect(width == backbone.num_features, f"{width} features, and num_features is {backbone.num_features}")
    expect(not features[0].equal(features[1]), "two different photographs have the same features")


@BACKBONE.requires(Backbone.build)
def features_are_deterministic(backbone: Backbone) -> None:
    """The same images have the same features each time, and an image has the same features alone as in a batch."""
    import torch

    module = _module(backbone)
    images = _images(backbone, 4)
    with torch.inference_mode():
        once, again = module(images), module(images)
        alone = torch.cat([module(image[None]) for image in images])
    expect(torch.equal(once, again), f"in a second run they differ by up to {float((once - again).abs().max()):.3g}")
    scale = float(once.abs().max())
    off = float((once - alone).abs().max())
    expect(off <= 1e-3 * scale, f"one by one they differ by up to {off:.3g}, where the largest feature is {scale:.3g}")


@BACKBONE.requires(Backbone.blocks)
def blocks_cover_every_parameter_once(backbone: Backbone) -> None:
    """The blocks hold every parameter of the network exactly once. `num_blocks` is the number of blocks, and
    `count_params()`, which is `num_params` where that is stated, the number of parameters."""
    module = _module(backbone)
    blocks = backbone.blocks(module)
    expect(blocks and all(isinstance(block, Block) for block in blocks), f"blocks are {blocks!r}")
    known = dict(module.named_parameters())
    held: dict[str, str] = {}
    for block in blocks:
        names = _parameters_of(block, module)
        expect(names, f"block {block.name!r} holds no parameter: join it to the block before")
        for name in names:
            expect(name not in held, f"{name!r} is in block {held.get(name)!r} and in block {block.name!r}")
            held[name] = block.name
    missing = [name for name in known if name not in held]
    expect(not missing, f"in no block: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}")
    expect(backbone.num_blocks == len(blocks), f"num_blocks is {backbone.num_blocks}, and there are {len(blocks)}")
    count = sum(parameter.numel() for parameter in known.values())
    expect(backbone.count_params() == count, f"count_params() is {backbone.count_params()}, and there are {count}")


@BACKBONE.requires(Backbone.blocks)
def blocks_are_in_forward_order(backbone: Backbone) -> None:
    """Blocks are listed from input to output: in a forward pass, each begins after the one before it."""
    module = _module(backbone)
    blocks = backbone.blocks(module)
    began: dict[int, None] = {}
    handles = []
    for number, block in enumerate(blocks):
        for name in block.modules:
            for part in module.get_submodule(name).modules():

                def record(_: Any, __: Any, number: int = number) -> None:
                    began.setdefault(number)

                handles.append(part.register_forward_pre_hook(record))
    try:
        _features(backbone, module, 1)
    finally:
        for handle in handles:
            handle.remove()
    order = list(began)
    late = next((i for i, number in enumerate(order) if number != sorted(order)[i]), None)
    names = [blocks[number].name for number in order]
    expect(late is None, f"in a forward pass they begin in the order {', '.join(names)}")


@BACKBONE.requires(Block)
def freezing_keeps_exactly_the_frozen_blocks(backbone: Backbone) -> None:
    """With the first k blocks frozen (no gradients, eval mode), a training step leaves their tensors bit-equal, running
    statistics included, and changes a tensor in every other block."""
    import torch

    module = _module(backbone)
    blocks = backbone.blocks(module)
    images = _images(backbone, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    for k in sorted({0, 1, len(blocks) // 2, len(blocks) - 1}):
        module.load_state_dict(before)
        module.train()
        for block in blocks:
            frozen = block in blocks[:k]
            for name in block.modules:
                module.get_submodule(name).train(not frozen)
            for name in _parameters_of(block, module):
                module.get_parameter(name).requires_grad_(not frozen)
        learning = [p for p in module.parameters() if p.requires_grad]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            features = module(images)
            target = torch.randn(features.shape)
            loss = ((features - target) ** 2).mean()
            if loss.requires_grad:
                loss.backward()
        torch.optim.AdamW(learning, lr=0.01).step()  # its step size doesn't depend on the gradient's
        module.zero_grad()
        after = module.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        for number, block in enumerate(blocks):
            names = [name for name in changed if name in block.parameters or name.startswith(_prefixes(block))]
            if number < k:
                expect(not names, f"with {k} blocks frozen, {names[:1]} of block {block.name!r} changed")
            else:
                expect(names, f"with {k} blocks frozen, no tensor of block {block.name!r} changed")


@BACKBONE.requires(Backbone.blocks)
def splitting_between_blocks_changes_nothing(backbone: Backbone) -> None:
    """Wherever the network can be cut between two blocks, its prefix followed by its suffix computes the same features
    as the network."""
    import warnings

    import torch

    from autotl.backbones.graph_split import GraphSplit

    module = _module(backbone)
    graph_split = GraphSplit(module, backbone.blocks(module))
    images = _images(backbone, 2)
    uncut = []
    with torch.inference_mode():
        expected = module(images)
        for number, block in enumerate(graph_split.blocks):
            if number and graph_split.cut(number) is None:
                uncut.append(block.name)
            elif number:
                off = float((graph_split.suffix(number)(graph_split.prefix(number)(images)) - expected).abs().max())
                expect(
                    off <= 1e-3 * float(expected.abs().max()),
                    f"cut before {block.name!r}, the features differ by {off:.3g}",
                )
    if uncut:
        warnings.warn(
            f"{backbone.name}: the network can't be cut before {', '.join(uncut)}. That is allowed, and slow: "
            "fine-tuning from there runs the frozen blocks in every epoch.",
            stacklevel=1,
        )


@BACKBONE.requires(Backbone.build)
def levels_record_the_output(backbone: Backbone) -> None:
    """The vector that the feature store records for an image includes the network's own output, unchanged."""
    import torch

    from autotl.backbones.graph_split import FeatureLevels, GraphSplit
    from autotl.backbones.levels import BUILT_IN

    module = _module(backbone)
    feature_levels = FeatureLevels(GraphSplit(module, backbone.blocks(module)))
    images = _images(backbone, 2)
    with torch.inference_mode():
        layout = feature_levels.layout(backbone.preprocessing.size)
        features, expected = feature_levels(images), module(images)
    expect(
        features.shape == (2, layout.width),
        f"vectors of two images are {list(features.shape)}, and their layout has {layout.width} features",
    )
    (last,) = layout.slices(BUILT_IN["last"])
    off = float((features[:, last] - expected).abs().max())
    expect(off <= 1e-3 * float(expected.abs().max()), f"the recorded output differs by {off:.3g}")


def _skip_without_weights(backbone: Backbone) -> None:
    import pytest

    if not backbone.is_cached:
        pytest.skip(f"the weights of {backbone.name} are not on this machine, and a check downloads none")


def _module(backbone: Backbone) -> "nn.Module":
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return backbone.build(pretrained=backbone.is_cached)


def _images(backbone: Backbone, n: int) -> "Tensor":
    """Real images, normalised: float [n, 3, size, size]."""
    import torch

    from autotl.testing.images import patches

    preprocessing = backbone.preprocessing
    pixels = patches(preprocessing, n).astype(np.float32) / 255
    normalised = (pixels - np.array(preprocessing.mean, np.float32)) / np.array(preprocessing.std, np.float32)
    return torch.from_numpy(normalised).permute(0, 3, 1, 2).contiguous()


def _features(backbone: Backbone, module: "nn.Module", n: int) -> Any:
    import torch

    with torch.inference_mode():
        features = module(_images(backbone, n))
    expect(isinstance(features, torch.Tensor), f"the network returns {type(features).__name__}, not a tensor")
    return features


def _prefixes(block: Block) -> tuple[str, ...]:
    return tuple(f"{name}." for name in block.modules)


def _parameters_of(block: Block, module: "nn.Module") -> list[str]:
    known = dict(module.named_parameters())
    modules = dict(module.named_modules())
    unknown = [n for n in block.modules if n not in modules] + [n for n in block.parameters if n not in known]
    expect(not unknown, f"block {block.name!r} names {unknown[:1]}, which the network doesn't have")
    return [name for name in known if name.startswith(_prefixes(block))] + list(block.parameters)


def _without_cached_properties(backbone: Backbone) -> Backbone:
    """A copy that computes its cached properties anew."""
    fresh = copy.copy(backbone)
    for name in [n for n in vars(fresh) if isinstance(getattr(type(fresh), n, None), cached_property)]:
        del vars(fresh)[name]
    return fresh


def _with_other_weights(backbone: Backbone, file: Path, folder: Path) -> Backbone:
    """A copy whose `weights_file` has the same format, and other values in every tensor."""
    import torch
    from safetensors.torch import save_file

    from autotl.backbones.weights import read_tensors

    tensors = {n: t + 0.25 if t.is_floating_point() else t.clone() for n, t in read_tensors(file).items()}
    target = folder / f"changed{file.suffix}"
    if file.suffix == ".safetensors":
        save_file(tensors, target)
    else:
        torch.save(tensors, target)  # keeps the order of the tensors, on which some packages rely
    changed = _without_cached_properties(backbone)
    changed.weights_file = lambda: target  # type: ignore[method-assign]
    return changed


def _difference(a: "dict[str, Tensor]", b: "dict[str, Tensor]") -> str:
    """A text that names the tensors that differ; empty where all are equal."""
    import torch

    if a.keys() != b.keys():
        return f"{sorted(a.keys() ^ b.keys())[0]!r} is in only one of them"
    names = [name for name in a if not torch.equal(a[name], b[name])]
    return f"{len(names)} of {len(a)} tensors differ, {names[0]!r} first" if names else ""
