"""Whether an export answers as the model does: each strategy with each head, alone and averaged, on images of all modes
and sizes.

Run from a checkout: python tests/bench/exports.py FOLDER --images FOLDER... [--odd FOLDER] [--number 300] [--to onnx]
[--speed]

Each head is trained on the images of FOLDER with its defaults. All of them are exported in one graph that has the
answers of each member beside each other, and every answer is compared with what `predict_proba` gives in fp32. Images
are drawn at random from those folders, and all of `--odd` (broken ones are refused by both) come first.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from heatmaps import Problem
from torch import Tensor, nn

from autotl.data.augmentation import ORIGINAL, View
from autotl.data.decoding import UndecodableImage, decode
from autotl.data.device_augmentation import transpose
from autotl.data.file_listing import FileListing
from autotl.exports import graph
from autotl.features.extractor import LARGEST_FEATURE
from autotl.model.exporting import _parts
from autotl.model.file_prediction import find_images
from autotl.model.image_model import ImageModel
from autotl.model.opening import load_file

TOLERANCE = 1e-3
BATCH = 32
FEW = {
    "fast_extraction": {"epochs": 10},
    "extract_augment": {"policy": "flip", "views": 1, "tta": True, "epochs": 5},
    "fine_tuning": {"unfrozen_blocks": 1, "head_epochs": 1, "epochs": 1},
}
"""Parameters of strategies that keep training short."""


class Members(nn.Module):
    """The graph of a model, before the average: [N, members, num_classes]."""

    def __init__(self, whole: graph._ModelGraph):
        super().__init__()
        self.whole = whole

    def forward(self, images: Tensor) -> Tensor:
        features = {}
        for number, (by, network) in enumerate(zip(self.whole.prepared_by, self.whole.networks, strict=True)):
            for view in self.whole.views[number]:
                drawn = images if view is None else transpose(images.permute(0, 3, 1, 2), view).permute(0, 2, 3, 1)
                computed = network(self.whole.resizes[by](drawn))
                features[number, view] = computed.clamp(-LARGEST_FEATURE, LARGEST_FEATURE)
        answers = []
        for member, head in zip(self.whole.members, self.whole.heads, strict=True):
            logits = sum(
                head(torch.cat([features[number, view][:, part.start : part.stop] for number, part in member.parts], 1))
                for view in member.transposes
            )
            answers.append((logits / (len(member.transposes) * member.temperature)).softmax(1))
        return torch.stack(answers, 1)


def fitted(problem: Problem, only: Sequence[str] | None) -> ImageModel:
    """A model of one member for each strategy with each head that it can train."""
    registry, members = problem.registry, []
    levels = sorted(registry.levels)
    for name, strategy in registry.strategies.items():
        for head, spec in registry.heads.items():
            if spec.type not in strategy.head_types or (only and head not in only):
                continue
            known = strategy.defaults(spec)
            params = {
                key: value for key, value in FEW[name].items() if key in known or key in ("policy", "views", "tta")
            }
            if name == "fast_extraction":
                params["levels"] = levels[len(members) % len(levels)]
            started = time.process_time()
            member = problem.fit(head, name, **params)
            members.append(replace(member, trial=len(members)))
            print(f"  fitted {name} · {head} in {time.process_time() - started:.0f} CPU s", flush=True)
    return replace(problem.model(*members), in_fp32=True, threads=2)


def expected(model: ImageModel, paths: Sequence[Path]) -> tuple[list[Path], np.ndarray]:
    """The files that can be decoded, and what each member of the model answers to them, [n, members, num_classes]."""
    options = (model._plugins.augmentations, model._decoder, model.size_hint)
    networks = {network.key: network for network in model.compiled_networks(many=False)}
    loaded: dict[str, list[dict[View, np.ndarray]]] = {key: [] for key in networks}
    read = []
    for path in paths:
        try:
            views = [load_file(path, network.backbone, network.views, *options) for network in networks.values()]
        except UndecodableImage:
            continue
        read.append(path)
        for images, found in zip(loaded.values(), views, strict=True):
            images.append(found)
    computed: dict[tuple[str, View], np.ndarray] = {}
    for key, network in networks.items():
        for view in network.views:
            pixels = np.stack([images[view] for images in loaded[key]])
            batches = (network.features({view: pixels[i : i + BATCH]})[view] for i in range(0, len(pixels), BATCH))
            computed[key, view] = np.concatenate(list(batches))
    answers = []
    for member in model.members:
        seen = [
            np.concatenate(
                [
                    part
                    for key in member.network_keys
                    for part in networks[key].levels(computed[key, view], member.fitted.levels)
                ],
                axis=1,
            )
            for view in member.fitted.views
        ]
        answers.append(member.probabilities(seen))
    return read, np.stack(answers, 1)


def compare(model: ImageModel, names: Sequence[str], formats: Sequence[str], paths: Sequence[Path]) -> None:
    registry = model._plugins

    def of_members(exported: object, *, likeness: bool = False, in_float32: bool = False) -> nn.Module:
        return Members(graph._ModelGraph(parts, in_float32=in_float32)).eval()

    parts = _parts(model, registry, "bench")
    graph.model_graph = of_members
    read, rows = expected(model, paths)
    refused = sorted(set(paths) - set(read))
    print(f"{len(read)} images, {len(refused)} refused: {', '.join(p.name for p in refused)}", flush=True)
    for to in formats:
        exporter = registry.exporter(to)
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            exporter.export(parts, Path(folder))
            run = exporter.load(Path(folder))
            print(f"{to}: exported in {time.process_time() - started:.0f} CPU s", flush=True)
            answers = np.stack([run(np.array(decode(path, model.size_hint))[None])[0] for path in read])
        print(f"{'':60} largest  over {TOLERANCE:g}  equal classes")
        every = [*names, "all averaged", "first half averaged", "second half averaged"]
        pairs = [
            np.concatenate([values, *(values[:, half].mean(1, keepdims=True) for half in _halves(len(names)))], 1)
            for values in (answers, rows)
        ]
        for number, name in enumerate(every):
            given, right = (values[:, number] for values in pairs)
            off = np.abs(given - right).max(1)
            # a tie is no other answer
            best = given.argmax(1)
            same = (best == right.argmax(1)) | (right.max(1) - right[np.arange(len(best)), best] <= 2 * TOLERANCE)
            print(f"  {name:58} {off.max():.1e}  {(off > TOLERANCE).sum():9}  {same.mean():.4f}", flush=True)
            worst = int(off.argmax())
            if off[worst] > TOLERANCE:
                print(f"    worst: {read[worst]}")


def speed(model: ImageModel, formats: Sequence[str], paths: Sequence[Path]) -> None:
    """Images a second from files to probabilities, the second pass over the same files."""
    registry = model._plugins

    def timed(name: str, answer: Callable[[], object]) -> None:
        answer()
        started = time.perf_counter()
        answer()
        print(f"  {name:40} {len(paths) / (time.perf_counter() - started):6.1f} images/s", flush=True)

    def of_model(in_fp32: bool, many: bool) -> Callable[[], object]:
        chosen = replace(model, in_fp32=in_fp32)
        return lambda: list(chosen.stream(paths, many=many))

    timed("predict, many images", of_model(in_fp32=False, many=True))
    timed("predict, few images", of_model(in_fp32=False, many=False))
    timed("predict in fp32", of_model(in_fp32=True, many=True))
    for to in formats:
        with tempfile.TemporaryDirectory() as folder:
            registry.exporter(to).export(_parts(model, registry, "bench"), Path(folder))
            run = registry.exporter(to).load(Path(folder))
            timed(to, lambda run=run: [run(np.array(decode(path, model.size_hint))[None]) for path in paths])


def _halves(number: int) -> tuple[slice, slice, slice]:
    return slice(None), slice(number // 2), slice(number // 2, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--odd", type=Path)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--to", default="onnx,openvino")
    parser.add_argument("--heads")
    parser.add_argument("--speed", action="store_true", help="Measure images a second of one member instead.")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    arguments = parser.parse_args()
    odd = [p for p in sorted(arguments.odd.iterdir()) if p.suffix not in (".csv", ".md", "")] if arguments.odd else []
    pool = list(find_images(arguments.images, FileListing()))
    drawn = np.random.default_rng(0).permutation(len(pool))[: arguments.number - len(odd)]
    with tempfile.TemporaryDirectory() as scratch:
        problem = Problem(arguments.folder, arguments.backbone, Path(scratch))
        if arguments.speed:
            member = problem.fit(arguments.heads or "kernel_ridge")
            speed(problem.model(member), arguments.to.split(","), [pool[i] for i in drawn])
            return
        model = fitted(problem, arguments.heads.split(",") if arguments.heads else None)
        names = []
        for member in model.members:
            views = "" if member.fitted.views == (ORIGINAL,) else f" · {len(member.fitted.views)} views"
            names.append(f"{member.recipe.strategy} · {member.recipe.head} · {member.fitted.levels}{views}")
        compare(model, names, arguments.to.split(","), [*odd, *(pool[i] for i in drawn)])


if __name__ == "__main__":
    main()
