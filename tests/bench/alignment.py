"""How well the measured alignment ranks networks, and what it costs: `python tests/bench/alignment.py record|measure`.

`record` extracts the features of a stratified sample of each data set by each network into one cache; `measure` reads
them. The networks are the three EfficientNet-Lites, two MobileNetV2s, a lite0 that sees 128 pixels, and three networks
with random weights as traps. The truth about a network is its best 5-fold probe over all levels on the whole sample.
"""

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau

from autotl.alignment.card import Card
from autotl.alignment.ranking import published_accuracy, ranked
from autotl.alignment.sample import stratified_order
from autotl.alignment.scores import loo_ridge, standardised
from autotl.data.dataset import ImageDataset
from autotl.data.loading import load_dataset
from autotl.data.splits import Split, connected_units
from autotl.features.extractor import BackboneFeatures, FeatureExtractor
from autotl.features.store import FeatureStore
from autotl.registry import Registry, load_registry

SETS = (
    "hymenoptera",
    "sign-digits",
    "magnetic-tile",
    "elpv",
    "clothing",
    "cifar10-mini",
    "dtd-10",
    "flowers-128",
)
FAR, NEAR = ("elpv", "magnetic-tile"), ("hymenoptera", "clothing", "flowers-128")
MOBILENET = "mobilenetv2_100"
CORAL = f"{MOBILENET},pad_type=same,mean=0.5,std=0.5,interpolation=bilinear"


def networks(weights: Path, shared: Path) -> dict[str, str]:
    """Backbone names by short name."""
    return {
        "lite0": "efficientnet_lite0",
        "mnv2": f"{CORAL}@{shared}/weights/mobilenetv2_100.coral_in1k.safetensors",
        "lite1": "efficientnet_lite1",
        "lite2": "efficientnet_lite2",
        "mnv2-trunk": f"{MOBILENET}@{weights}/mobilenetv2_deepsort.safetensors",
        "lite0-128": f"tf_efficientnet_lite0,size=128,mean=0.5,std=0.5@{weights}/lite0.safetensors",
        "random-lite0": f"tf_efficientnet_lite0@{weights}/tf_efficientnet_lite0_random.safetensors",
        "random-mnv4": f"mobilenetv4_conv_medium@{weights}/mobilenetv4_conv_medium_random.safetensors",
        "random-resnet18": f"resnet18,size=128@{weights}/resnet18_random.safetensors",
    }


def load(name: str, shared: Path, registry: Registry, cache: Path) -> ImageDataset:
    location = name if name == "elpv" else str(shared / "data" / name)
    return load_dataset(location, registry.datasets, cache=cache / "digests")


def sample_of(dataset: ImageDataset, size: int) -> np.ndarray:
    """Indices of the sample, without the test images that a set has."""
    pool = np.flatnonzero(np.array(dataset.subsets) != "test")
    return pool[stratified_order(dataset.labels[pool])[:size]]


def extractor_of(dataset: ImageDataset, indices: np.ndarray, registry: Registry, cache: Path) -> FeatureExtractor:
    none = np.arange(0)
    return FeatureExtractor(
        dataset=dataset,
        split=Split(indices, none, none, seed=0),
        store=FeatureStore(cache / "features"),
        boundary_store=FeatureStore(cache / "boundary"),
        engine=registry.engine(None, "cpu"),
        device="cpu",
        threads=os.cpu_count() or 1,
        conversions=cache / "engines",
    )


def record(arguments: argparse.Namespace) -> None:
    registry = load_registry()
    weights_of_lite0(registry, arguments.cache / "weights")
    for short, name in networks(arguments.cache / "weights", arguments.shared).items():
        backbone = registry.backbone(name)
        for set_name in SETS:
            dataset = load(set_name, arguments.shared, registry, arguments.cache)
            indices = sample_of(dataset, arguments.images)
            began = time.perf_counter()
            extractor = extractor_of(dataset, indices, registry, arguments.cache)
            samples = extractor.of(backbone).levels("train", "stages+max")
            seconds = time.perf_counter() - began
            print(f"{short:16} {set_name:14} {samples.shape} {len(indices) / seconds:6.1f} images/s", flush=True)


def weights_of_lite0(registry: Registry, folder: Path) -> Path:
    """The installed weights of lite0 under timm's names, for a name with options."""
    file = folder / "lite0.safetensors"
    if not file.exists():
        from safetensors.torch import save_file

        tensors = registry.backbones["efficientnet_lite0"].state_dict()  # type: ignore[attr-defined]
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


PUBLISHED = {"lite0": 75.1, "lite1": 76.7, "lite2": 77.6, "mnv2": 71.9, "mnv2-trunk": 71.9}
"""Percent on ImageNet as their authors publish them (EfficientNet-Lite's page; torchvision's for MobileNetV2)."""


def five_fold(rows: np.ndarray, labels: np.ndarray, units: np.ndarray) -> float:
    """The best 5-fold accuracy of ridge regression over four regularisations."""
    from sklearn.model_selection import StratifiedGroupKFold

    scaled = standardised(rows)
    scaled = np.sign(scaled) * np.sqrt(np.abs(scaled))
    gram = scaled @ scaled.T
    targets = np.eye(int(labels.max()) + 1)[labels]
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(rows, labels, units))
    right = np.zeros((4, len(labels)))
    for train, test in folds:
        values, vectors = np.linalg.eigh(gram[np.ix_(train, train)])
        mean = targets[train].mean(0)
        projected, back = vectors.T @ (targets[train] - mean), gram[np.ix_(test, train)] @ vectors
        for i, alpha in enumerate(np.array([0.01, 0.1, 1.0, 10.0]) * values.mean()):
            answers = back @ (projected / (values + alpha)[:, None]) + mean
            right[i, test] = answers.argmax(1) == labels[test]
    return float(right.mean(1).max())


def truths(
    set_name: str, features: dict[str, BackboneFeatures], labels: np.ndarray, units: np.ndarray, file: Path
) -> dict[str, float]:
    """The truth about each network, which is kept in a file."""
    kept = json.loads(file.read_text()) if file.exists() else {}
    for short, one in features.items():
        if short not in kept.setdefault(set_name, {}):
            layout, rows = one.layout, one.levels("train", "stages+max")
            parts = [rows, rows[:, : layout.output], rows[:, layout.output : layout.output + 2 * layout.means]]
            kept[set_name][short] = max(five_fold(part, labels, units) for part in parts)
            file.write_text(json.dumps(kept))
    return kept[set_name]


def race(
    shorts: list[str], features: dict[str, BackboneFeatures], labels: np.ndarray, units: np.ndarray
) -> tuple[list[Card], str]:
    """The ranking after rounds of 256 and 512 images, of which the better half takes part in the second; and the best
    by the probe alone."""
    cards: dict[str, Card] = {}
    hits: dict[str, np.ndarray] = {}
    racing, order = shorts, []
    for size in (256, 512):
        first = slice(min(size, len(labels)))
        for short in racing:
            rows = features[short].levels("train", "stages+max")[first]
            hits[short] = loo_ridge(rows, labels[first], units[first]) == labels[first]
            cards[short] = card_of(short, float(hits[short].mean()), len(rows))
        backbones = [features[short].backbone for short in cards]
        order = ranked(list(cards.values()), [hits[short] for short in cards], backbones)
        racing = [card.backbone for card in order][: -(-len(shorts) // 2)]
    return order, max(racing, key=lambda short: cards[short].probe)


def measure(arguments: argparse.Namespace) -> None:
    """Print, for each set, what the first of three rankings loses."""
    registry = load_registry()
    names = networks(arguments.cache / "weights", arguments.shared)
    losses: dict[str, list[float]] = {}
    for set_name in SETS:
        dataset = load(set_name, arguments.shared, registry, arguments.cache)
        indices = sample_of(dataset, arguments.images)
        labels, units = dataset.labels[indices], connected_units(dataset)[indices]
        features = {}
        for short, name in names.items():
            backbone = registry.backbone(name)
            backbone.top1 = PUBLISHED.get(short)
            features[short] = extractor_of(dataset, indices, registry, arguments.cache).of(backbone)
        truth = truths(set_name, features, labels, units, arguments.cache / "truth.json")
        for title, shorts in (("all", list(names)), ("without traps", [s for s in names if s in PUBLISHED])):
            order, probe = race(shorts, features, labels, units)
            static = max(shorts, key=lambda s: published_accuracy(features[s].backbone)[0])
            best = max(truth[s] for s in shorts)
            for method, first_one in (("ranking", order[0].backbone), ("static", static), ("probe", probe)):
                losses.setdefault(f"{title}: {method}", []).append(best - truth[first_one])
            places = [card.backbone for card in order]
            tau = kendalltau([places.index(s) for s in shorts], [-truth[s] for s in shorts]).statistic
            print(
                f"{set_name:14} {title}: first {places[0]}, probe {probe}, static {static}, tau {tau:.2f}", flush=True
            )
    for method, lost in losses.items():
        error = np.std(lost, ddof=1) / np.sqrt(len(lost))
        print(f"{method:24} loses {100 * np.mean(lost):.2f} ± {100 * error:.2f} points, at most {100 * max(lost):.1f}")


def card_of(short: str, probe: float, num_images: int) -> Card:
    """A card with what the ranking reads."""
    unknown = {"gap": 0.0, "gap_error": 0.0, "probe_error": 0.0, "probe_half": 0.0}
    return Card(
        backbone=short,
        pretrained_on="",
        num_images=num_images,
        num_blocks=0,
        levels=(),
        probe=probe,
        recalls={},
        counts={},
        scores={},
        seen=None,
        norms=None,
        seconds_per_image=None,
        **unknown,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("record", "measure"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600, help="of each data set")
    arguments = parser.parse_args()
    record(arguments) if arguments.action == "record" else measure(arguments)


if __name__ == "__main__":
    main()
