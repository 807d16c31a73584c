"""What autotl makes of a GPU, side by side with the usual loops, in one run: `make bench-gpu`, or
`python tests/bench/gpu.py [NAME …]`.

Prints a table and writes bench-gpu.json, a list of {work, naive, autotl, unit, ratio, target, holds}. On a machine
without a GPU it measures how decoding scales over cores, and says so. Networks have random weights: speed doesn't
depend on them. Photographs are made from those in --photographs, of up to 500 pixels.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision  # noqa: F401  # decodes JPEGs
from PIL import Image
from torch import nn

from autotl.backbones.base import Backbone, Preprocessing
from autotl.data.augmentation import ORIGINAL
from autotl.data.dataset import ImageDataset
from autotl.data.device_images import can_decode
from autotl.data.loading import load_dataset
from autotl.data.plain_images import decode_plain
from autotl.data.preprocessing import load_view
from autotl.data.splits import Split
from autotl.engines.torch import TorchEngine
from autotl.features.batching import one_thread_per_task
from autotl.features.extractor import FeatureExtractor
from autotl.features.resident import ResidentCache, free_memory
from autotl.features.store import FeatureStore
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Task

DEVICE = "cuda:0"
NETWORKS = ("resnet50", "vit_base_patch16_224")
IMAGENET = Preprocessing(224, 0.875, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAIVE_BATCH = 256


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    work: str
    naive: float | None
    autotl: float | None
    unit: str
    ratio: float | None
    target: str
    holds: bool | None


@dataclass
class Ground:
    """Photographs in class folders, and an empty scratch folder."""

    folder: Path
    photographs: Path
    num_images: int
    threads: int
    seconds: float
    networks: tuple[str, ...]
    devices: tuple[str, ...]

    @cached_property
    def images(self) -> Path:
        """Two folders of JPEGs of up to 500 pixels."""
        sources = sorted(p for p in self.photographs.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
        target = self.folder / "images"
        for name in ("even", "odd"):
            (target / name).mkdir(parents=True)
        work = [(i, sources[i % len(sources)], target) for i in range(self.num_images)]
        with ProcessPoolExecutor(self.threads) as pool:
            list(pool.map(_make, work, chunksize=50))
        return target

    @cached_property
    def dataset(self) -> ImageDataset:
        return load_dataset(str(self.images), load_registry().datasets, threads=self.threads)

    def backbone(self, name: str) -> Backbone:
        from safetensors.torch import save_file

        from autotl.backbones.timm import autotl_find_backbone

        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            save_file(timm.create_model(name).state_dict(), file)
        backbone = autotl_find_backbone(f"{name}@{file}")
        assert backbone is not None
        return backbone

    def extractor(self, split: Split, folder: Path) -> FeatureExtractor:
        stores = (FeatureStore(folder / name) for name in ("features", "boundary"))
        kept = {"decodes": can_decode(DEVICE), "resident": ResidentCache(lambda: free_memory(DEVICE))}
        return FeatureExtractor(self.dataset, split, *stores, TorchEngine(), DEVICE, self.threads, **kept)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)


def _make(work: tuple[int, Path, Path]) -> None:
    number, source, target = work
    rng = random.Random(number)
    image = Image.open(source).convert("RGB")
    scale = rng.uniform(0.8, 1.0)
    width, height = int(image.width * scale), int(image.height * scale)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    image = image.crop((left, top, left + width, top + height))
    factor = 500 / max(image.size) * rng.uniform(0.75, 1.0)
    image = image.resize((int(image.width * factor), int(image.height * factor)))
    image.save(target / ("odd" if number % 2 else "even") / f"{number:05}.jpg", quality=90)


def halves(n: int, validation: int) -> Split:
    return Split(np.arange(validation, n), np.arange(validation), np.arange(0), seed=0)


def rate(run: Callable[[], Any], images: int, repeats: int = 10, warm_up: int = 3) -> float:
    """Images a second of a step on the GPU."""
    for _ in range(warm_up):
        run()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    torch.cuda.synchronize()
    return repeats * images / (time.perf_counter() - began)


# files to features


class Files(torch.utils.data.Dataset):
    """What everybody writes."""

    def __init__(self, paths: list[Path]):
        from torchvision import transforms as T

        self.paths = paths
        steps = [T.Resize(256), T.CenterCrop(224), T.ToTensor(), T.Normalize(IMAGENET.mean, IMAGENET.std)]
        self.transform = T.Compose(steps)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def usual_extraction(name: str, paths: list[Path], threads: int) -> float:
    network = timm.create_model(name, num_classes=0).to(DEVICE).eval().to(memory_format=torch.channels_last)
    loader = torch.utils.data.DataLoader(
        Files(paths), NAIVE_BATCH, num_workers=threads, pin_memory=True, multiprocessing_context="fork"
    )
    features = []
    began = time.perf_counter()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        for batch in loader:
            batch = batch.to(DEVICE, non_blocking=True).to(memory_format=torch.channels_last)
            features.append(network(batch).float().cpu())
    np.save("/dev/null", torch.cat(features).numpy())
    return len(paths) / (time.perf_counter() - began)


def bare_forward(name: str) -> float:
    network = timm.create_model(name, num_classes=0).to(DEVICE).eval().to(memory_format=torch.channels_last)
    images = torch.randn(NAIVE_BATCH, 3, 224, 224, device=DEVICE).to(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        return rate(lambda: network(images), NAIVE_BATCH)


def extraction(ground: Ground) -> list[Row]:
    """Files to stored features, with the network built and checked."""
    rows = []
    paths = list(ground.dataset.paths)
    few = paths[: min(len(paths), 4096)]
    for name in ground.networks:
        with ground.scratch() as folder:
            split = halves(len(paths), 64)
            extractor = ground.extractor(split, folder)
            features = extractor.of(ground.backbone(name))
            began = time.perf_counter()
            features.levels("validation", "last")  # builds, compiles and checks
            say(f"{name}: built and checked in {time.perf_counter() - began:.1f} s")
            began = time.perf_counter()
            features.levels("train", "last")
            speed = len(split.train) / (time.perf_counter() - began)
        usual, bare = usual_extraction(name, few, ground.threads), bare_forward(name)
        target = "≥ 3 × the usual loop and ≥ 3,500 images/s"
        holds = speed >= 3 * usual and speed >= 3500
        work = f"files to stored features, {name} (bare network {bare:,.0f})"
        rows.append(Row(work, usual, speed, "images/s", speed / usual, target, holds))
    return rows


def decoding(ground: Ground) -> list[Row]:
    """Files to pixels in threads, and by the GPU's decoder."""
    contents = [path.read_bytes() for path in ground.dataset.paths[:2048]]
    slow = threads_rate(lambda b: load_view_by_pillow(b), contents, ground.threads)
    fast = threads_rate(lambda b: load_view(b, "", IMAGENET), contents, ground.threads)
    rows = [
        Row(f"decoding in {ground.threads} threads: Pillow, torchvision", slow, fast, "images/s", fast / slow, "", None)
    ]
    if torch.cuda.is_available():
        path_of = dict(zip(ground.dataset.digests, ground.dataset.paths, strict=True))
        extractor = ground.extractor(halves(len(path_of), 1), ground.folder / "decoding")
        loader = extractor.loader(IMAGENET, ORIGINAL, path_of)
        digests = list(path_of)
        loader.load(digests[:256])
        began = time.perf_counter()
        for i in range(0, len(digests), 256):
            loader.load(digests[i : i + 256])
        torch.cuda.synchronize()
        speed = len(digests) / (time.perf_counter() - began)
        rows.append(Row("files to pixels on the GPU, one thread", slow, speed, "images/s", speed / slow, "", None))
    return rows


def load_view_by_pillow(content: bytes) -> np.ndarray:
    from autotl.data.decoding import decode
    from autotl.data.preprocessing import preprocess

    return preprocess(decode(content, 2 * 256, keep_grey=True), IMAGENET)


def threads_rate(load: Callable[[bytes], Any], contents: list[bytes], threads: int) -> float:
    with ThreadPoolExecutor(threads, initializer=one_thread_per_task) as pool:
        list(pool.map(load, contents[: 4 * threads]))
        began = time.perf_counter()
        list(pool.map(load, contents))
        return len(contents) / (time.perf_counter() - began)


def scaling(ground: Ground) -> list[Row]:
    """Decoding on one core and on all: no thread waits for another's lock."""
    contents = [path.read_bytes() for path in ground.dataset.paths[:1024]]
    assert decode_plain(contents[0]) is not None
    cores = os.cpu_count() or 1
    ratios, rates = [], {}
    for _ in range(5):  # side by side: clocks drift
        rates = {n: threads_rate(lambda b: load_view(b, "", IMAGENET), contents, n) for n in (1, cores)}
        ratios.append(rates[cores] / rates[1])
    ratio = statistics.median(ratios)
    target = "≥ 1.9 ×" if cores == 2 else ""
    holds = ratio >= 1.9 if cores == 2 else None
    return [Row(f"decoding JPEGs: 1 thread, {cores} threads", rates[1], rates[cores], "images/s", ratio, target, holds)]


def folder(ground: Ground) -> list[Row]:
    """Reading and verifying a folder, the first time."""
    began = time.perf_counter()
    n = len(ground.dataset)
    speed = n / (time.perf_counter() - began)
    return [Row("reading and verifying a folder", None, speed, "images/s", None, "", None)]


# fine-tuning


def bare_steps(name: str) -> float:
    """Images a second of whole training steps on ready tensors, at the better of two batches."""
    speeds = []
    for batch in (128, 256):
        network = timm.create_model(name, num_classes=2).to(DEVICE).train().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
        images = torch.randn(batch, 3, 224, 224, device=DEVICE).to(memory_format=torch.channels_last)
        labels = torch.randint(0, 2, (batch,), device=DEVICE)

        def step() -> None:
            with torch.autocast("cuda", torch.bfloat16):
                loss = nn.functional.cross_entropy(network(images).float(), labels)  # noqa: B023
            loss.backward()
            optimizer.step()  # noqa: B023
            optimizer.zero_grad(set_to_none=True)  # noqa: B023

        speeds.append(rate(step, batch, 15))
    return max(speeds)


def fine_tuning(ground: Ground) -> list[Row]:
    """Joint training, from the second epoch on: the first one loads images and activations."""
    registry = load_registry()
    strategy, head = registry.strategy("fine_tuning"), registry.head("linear")
    rows = []
    n = min(len(ground.dataset), 4096)
    dataset = replace(
        ground.dataset,
        paths=ground.dataset.paths[:n],
        digests=ground.dataset.digests[:n],
        labels=ground.dataset.labels[:n],
        subsets=ground.dataset.subsets[:n],
        groups=ground.dataset.groups[:n],
    )
    split = halves(n, 64)
    for name in ground.networks:
        bare = bare_steps(name)
        with ground.scratch() as folder:
            extractor = replace(ground.extractor(split, folder), dataset=dataset)
            backbone = ground.backbone(name)
            for blocks, policy, factor in ((99, "none", 0.8), (99, "crop", 0.8), (2, "none", 2.5)):
                task = Task(
                    backbone,
                    head,
                    2,
                    dataset.labels[split.train],
                    dataset.labels[split.validation],
                    registry.metric("accuracy"),
                    extractor.of(backbone),
                    threads=ground.threads,
                )
                params = {**strategy.defaults(head), "unfrozen_blocks": blocks, "batch": 256, "epochs": 3}
                recipe = Recipe(
                    backbone.name, "fine_tuning", "linear", 0, {**params, "policy": policy}, head.defaults()
                )
                began = time.perf_counter()
                history = strategy.fit(recipe, task, DEVICE, lambda fraction, score: None).history
                whole = time.perf_counter() - began
                trained = (len(history) - 1) * (len(split.train) // 256 * 256)
                speed = trained / (history[-1]["seconds"] - history[0]["seconds"])
                what = "whole network" if blocks == 99 else f"last {blocks} blocks"
                what += "" if policy == "none" else f", {policy} drawn in every epoch"
                say(f"{name}, {what}: {whole:.1f} s for 3 epochs of {len(split.train):,} images, first epoch included")
                work = f"fine-tuning, {what}, {name}"
                rows.append(
                    Row(
                        work,
                        bare,
                        speed,
                        "images/s",
                        speed / bare,
                        f"≥ {factor} × the bare step",
                        speed >= factor * bare,
                    )
                )
    return rows


# searches


class Utilisation:
    """Samples how busy the GPU is."""

    def __enter__(self) -> "Utilisation":
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "500"]
        self.samples: list[tuple[float, float]] = []
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.samples.append((time.time(), float(line)))

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def busy(self, begin: float, end: float) -> float:
        """Mean percentage between two moments."""
        chosen = [value for moment, value in self.samples if begin <= moment <= end]
        return statistics.mean(chosen) if chosen else float("nan")


def _search(ground: Ground, seconds: float, *options: str) -> dict[str, Any]:
    """Search the photographs: trials by strategy, seconds to the first, test accuracy, and how busy the GPU was."""
    from autotl.study.study import load_study

    with ground.scratch() as folder:
        command = [sys.executable, "-m", "autotl", "search", str(ground.photographs), "--time", f"{seconds:g}s"]
        command += ["--name", "bench", "--output", str(folder), "--cache", str(folder / "cache"), *options]
        began = time.time()
        with Utilisation() as utilisation:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        took = time.time() - began
        say(f"$ {' '.join(command[2:5])} … {' '.join(options)}: exit {done.returncode} after {took:.0f} s")
        say("\n".join(done.stdout.splitlines()[-200:]))
        if not (folder / "bench" / "journal.log").exists():
            return {"exit": done.returncode, "complete": 0, "by": {}, "first": None, "busy": None, "test": None}
        trials = [t for t in load_study(folder / "bench").get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
        ended = sorted(t.datetime_complete.timestamp() for t in trials if t.datetime_complete)
        by = Counter(t.params["strategy"] for t in trials)
        result = folder / "bench" / "result.json"
        test = json.loads(result.read_text())["test"]["accuracy"] if result.exists() else None
        first = ended[0] - began if ended else None
        # trials have to be done some seconds before the end
        busy = utilisation.busy(ended[0], ended[-1]) if ended else None
        for log in sorted((folder / "bench" / "logs").glob("*.log")):
            if text := log.read_text(errors="replace").strip():
                say(f"{log.name}: {text[-1500:]}")
        return {
            "exit": done.returncode,
            "complete": len(trials),
            "by": dict(by),
            "first": first,
            "busy": busy,
            "test": test,
        }


def search_60s(ground: Ground) -> list[Row]:
    """`autotl search clothing --time 60s`."""
    result = _search(ground, 60)
    by = ", ".join(f"{name} {n}" for name, n in sorted(result["by"].items()))
    holds = result["complete"] >= 150 and len(result["by"]) == 3
    early = result["first"] is not None and result["first"] <= 12
    return [
        Row(
            f"search, 60 s: complete trials ({by})",
            None,
            result["complete"],
            "trials",
            None,
            "≥ 150, of 3 strategies",
            holds,
        ),
        Row("search, 60 s: the first trial is complete after", None, result["first"], "s", None, "≤ 12 s", early),
        Row("search, 60 s: GPU busy", None, result["busy"], "%", None, "", None),
        Row("search, 60 s: test accuracy", None, result["test"], "", None, "", None),
    ]


def search_fine_tuning(ground: Ground) -> list[Row]:
    """Fine-tuning alone, one backbone, 40 s."""
    rows = []
    for name in ground.networks:
        options = ("--strategy", "fine_tuning", "--backbone", ground.backbone(name).name)
        result = _search(ground, 40, *options)
        work = f"search, 40 s, fine_tuning alone, {name}: complete trials"
        rows.append(Row(work, None, result["complete"], "trials", None, "a model", result["exit"] == 0))
    return rows


def search_busy(ground: Ground) -> list[Row]:
    """Three minutes: how busy the GPU is, from the first complete trial to the last."""
    rows = []
    for devices in ground.devices:
        result = _search(ground, ground.seconds, "--devices", devices)
        by = ", ".join(f"{name} {n}" for name, n in sorted(result["by"].items()))
        work = f"search, {ground.seconds:g} s on {devices}: GPU busy ({result['complete']} trials: {by})"
        rows.append(Row(work, None, result["busy"], "%", None, "≥ 70 %", (result["busy"] or 0) >= 70))
    return rows


ON_GPU = {
    "folder": folder,
    "decoding": decoding,
    "extraction": extraction,
    "fine-tuning": fine_tuning,
    "search-60s": search_60s,
    "search-fine-tuning": search_fine_tuning,
    "search-busy": search_busy,
}
ON_CPU = {"folder": folder, "decoding": decoding, "scaling": scaling}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("gpu.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"Works to run: {', '.join(ON_GPU)}.")
    shared = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "clothing"
    parser.add_argument("--photographs", type=Path, default=shared, help="A folder of class folders of JPEGs.")
    parser.add_argument("--images", type=int, default=12_000, help="How many JPEGs are made of them.")
    parser.add_argument("--network", action="append", help="A timm network; several times for several.")
    parser.add_argument(
        "--devices", action="append", help="Of the search whose GPU is watched; several times to compare."
    )
    parser.add_argument("--seconds", type=float, default=180, help="Of the search whose GPU is watched.")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu.json"), help="Where the rows are written.")
    options = parser.parse_args(arguments)
    has_gpu = torch.cuda.is_available()
    works = ON_GPU if has_gpu else ON_CPU
    if not has_gpu:
        say("This machine has no GPU that PyTorch can use: decoding alone is measured, on the CPU.")
    if not options.photographs.is_dir():
        print(f"{options.photographs} isn't there. Give a folder of class folders of JPEGs: --photographs FOLDER")
        return 2
    unknown = sorted(set(options.names) - set(ON_GPU))
    if unknown:
        print(f"There is no work {', '.join(unknown)}. There are: {', '.join(ON_GPU)}")
        return 2
    num_images = options.images if has_gpu else min(options.images, 1024)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="autotl-bench-gpu-") as folder:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        ground = Ground(
            Path(folder),
            options.photographs,
            num_images,
            threads,
            options.seconds,
            tuple(options.network or NETWORKS),
            tuple(options.devices or ["auto"]),
        )
        _ = ground.images
        for name in [n for n in works if not options.names or n in options.names]:
            began = time.monotonic()
            try:
                rows += works[name](ground)
            except Exception as error:  # the other works are measured all the same
                import traceback

                traceback.print_exc()
                rows.append(Row(f"{name}: {type(error).__name__}: {error}"[:150], None, None, "", None, "", False))
            say(f"{name}: {time.monotonic() - began:.0f} s")
            options.out.write_text(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n")
        for row in rows:
            print_row(row)
    return 1 if has_gpu and any(row.holds is False for row in rows) else 0


def print_row(row: Row) -> None:
    figures = [
        f"{value:,.3g}" if value is not None and value < 100 else f"{value:,.0f}" if value is not None else "–"
        for value in (row.naive, row.autotl)
    ]
    ratio = f"{row.ratio:.2f} ×" if row.ratio is not None else ""
    verdict = {True: "yes", False: "NO", None: ""}[row.holds]
    print(
        f"{row.work:88} {figures[0]:>8} {figures[1]:>8} {row.unit:9} {ratio:>9} {row.target:42} {verdict}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
