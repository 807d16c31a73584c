"""How well the measured alignment ranks networks, what it costs, and whether its advice on retraining is good:
`python tests/bench/alignment.py record|measure|retrain|advise`.

`record` extracts the features of a stratified sample of each data set by each network into one cache; `measure` reads
them. The networks are the three EfficientNet-Lites, two MobileNetV2s, a lite0 that sees 128 pixels, and three networks
with random weights as traps. The truth about a network is its best 5-fold probe over all levels on the whole sample.

`retrain` trains lite0 on a sample: nothing of it (kernel ridge on all levels), and its last one, two and three blocks,
and scores each on images that no training has seen. `advise` measures lite0 on the same sample, and compares its advice
with what retraining has brought.
"""

import argparse
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autotl.alignment.align import align_backbones
from autotl.alignment.card import Alignment, Card
from autotl.alignment.measure import Measurement
from autotl.alignment.race import race
from autotl.alignment.ranking import PUBLISHED_DEVIATION, published_accuracy
from autotl.alignment.sample import stratified_order
from autotl.alignment.scores import loo_ridge, standardised
from autotl.alignment.words import blocks_to_retrain, verdict_of
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


DEVIATIONS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05)
"""Shrinkages that are compared: deviations of the prior from the published accuracy."""


@dataclass
class Ground:
    """What the races on one data set need, computed once."""

    features: dict[str, BackboneFeatures]
    labels: np.ndarray
    units: np.ndarray
    num_images: int
    """Of the data set, without its test images: a full pass of all networks is what the cost is a share of."""
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    kept: dict[tuple[int, int, str], np.ndarray] = field(default_factory=dict)

    def hits(self, order: int, size: int, short: str) -> np.ndarray:
        """Which images of a sample the probe has right."""
        if (order, size, short) not in self.kept:
            chosen = stratified_order(self.labels, order)[:size]
            if short not in self.rows:
                self.rows[short] = self.features[short].levels("train", "stages+max")
            labels = self.labels[chosen]
            right = loo_ridge(self.rows[short][chosen], labels, self.units[chosen]) == labels
            self.kept[order, size, short] = right
        return self.kept[order, size, short]

    def race(self, shorts: list[str], order: int, deviation: float) -> tuple[str, float]:
        """The first of the ranking, and what the race has cost: the images of the others, as a share of a full pass."""
        seen = dict.fromkeys(shorts, 0)

        def run(short: str, size: int) -> Measurement:
            hits = self.hits(order, size, short)
            seen[short] = size
            return Measurement(card_of(short, float(hits.mean()), size), hits, size)

        backbones = {short: self.features[short].backbone for short in shorts}
        cards = race(backbones, run, self.num_images, len(self.labels), deviation)
        others = sum(seen[card.backbone] for card in cards[1:])
        return cards[0].backbone, others / (self.num_images * len(shorts))


def measure(arguments: argparse.Namespace) -> None:
    """Print what the first of the ranking loses, with the code's shrinkage and that which the other sets choose, and
    what the first of the static list loses: the mean over the sets, and each."""
    registry = load_registry()
    names = networks(arguments.cache / "weights", arguments.shared)
    published = [s for s in names if s in PUBLISHED]
    lost: dict[str, dict[float, list[float]]] = {"all": {}, "published": {}}
    static: dict[str, list[float]] = {"all": [], "published": []}
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
        ground = Ground(features, labels, units, int((np.array(dataset.subsets) != "test").sum()))
        costs = list[float]()
        for title, shorts in (("all", list(names)), ("published", published)):
            best = max(truth[s] for s in shorts)
            for deviation in DEVIATIONS:
                races = [ground.race(shorts, order, deviation) for order in range(arguments.orders)]
                lost[title].setdefault(deviation, []).append(float(np.mean([best - truth[f] for f, _ in races])))
                costs.append(max(cost for _, cost in races))
            first = max(shorts, key=lambda s: published_accuracy(features[s].backbone)[0])
            static[title].append(best - truth[first])
        print(f"{set_name:14} {ground.num_images} images, races cost {max(costs):.3f} at most", flush=True)
    for title in lost:
        table = np.array([lost[title][deviation] for deviation in DEVIATIONS])
        others = [np.delete(table, i, axis=1).mean(1).argmin() for i in range(len(SETS))]
        _print_loss(f"{title}: static list", np.array(static[title]))
        _print_loss(f"{title}: shrinkage of the code", table[DEVIATIONS.index(PUBLISHED_DEVIATION)])
        _print_loss(f"{title}: chosen by the other sets", table[others, range(len(SETS))])


def _print_loss(title: str, lost: np.ndarray) -> None:
    error = lost.std(ddof=1) / np.sqrt(len(lost))
    each = " ".join(f"{100 * loss:.1f}" for loss in lost)
    print(f"{title:34} loses {100 * lost.mean():.2f} ± {100 * error:.2f} points ({each})")


OPTIONS = (0, 1, 2)
"""Retrained blocks."""
EPOCHS = 6
MAX_SCORED = 400


def retrain(arguments: argparse.Namespace) -> None:
    """Print what each number of retrained blocks brings, and keep which images each has right in a file."""
    from autotl.recipe import Recipe
    from autotl.strategies.base import Task

    registry, file = load_registry(), arguments.cache / f"retrained-{arguments.images}.json"
    backbone = registry.backbone("efficientnet_lite0")
    kept = json.loads(file.read_text()) if file.exists() else {}
    for set_name in arguments.sets:
        for blocks in OPTIONS:
            if str(blocks) in kept.setdefault(set_name, {}):
                continue
            dataset = load(set_name, arguments.shared, registry, arguments.cache)
            extractor = extractor_of(dataset, np.arange(0), registry, arguments.cache)
            extractor.split = split = retraining_split(dataset, arguments.images)
            strategy = registry.strategy("fine_tuning" if blocks else "fast_extraction")
            head = registry.head("linear" if blocks else "kernel_ridge")
            given = {"unfrozen_blocks": blocks, "epochs": EPOCHS} if blocks else {"levels": "stages+max"}
            recipe = Recipe(backbone.name, strategy.name, head.name, 0, {**strategy.defaults(head), **given})
            recipe = Recipe(**{**recipe.to_dict(), "head_params": head.defaults()})
            labels = dataset.labels[split.validation]
            task = Task(
                backbone, head, len(dataset.classes), dataset.labels[split.train], labels, registry.metric("accuracy"),
                extractor.of(backbone), extractor.threads, refit_epochs=EPOCHS if blocks else None,
            )  # fmt: skip
            began = time.process_time()
            right = strategy.fit(recipe, task, "cpu", lambda fraction, score: None).probabilities.argmax(1) == labels
            kept[set_name][str(blocks)] = right.astype(int).tolist()
            file.write_text(json.dumps(kept))
            seconds = time.process_time() - began
            print(f"{set_name:14} {blocks} blocks: {right.mean():.3f} of {len(right)}, {seconds:.0f} CPU s", flush=True)


def advise(arguments: argparse.Namespace) -> None:
    """Print what lite0 says of the images that `retrain` has trained on, and what its advice loses against the best
    number of blocks."""
    registry, file = load_registry(), arguments.cache / f"cards-{arguments.images}.json"
    backbone = registry.backbone("efficientnet_lite0")
    results = json.loads((arguments.cache / f"retrained-{arguments.images}.json").read_text())
    kept = json.loads(file.read_text()) if file.exists() else {}
    lost = []
    for set_name in [name for name in arguments.sets if len(results.get(name, {})) == len(OPTIONS)]:
        if set_name not in kept:
            dataset = load(set_name, arguments.shared, registry, arguments.cache)
            train = retraining_split(dataset, arguments.images).train
            extractor = extractor_of(dataset, train, registry, arguments.cache)
            kept[set_name] = align_backbones(
                extractor, [backbone], train, connected_units(dataset), scores={}, with_invariances=False
            ).to_dict()
            file.write_text(json.dumps(kept))
        card = Alignment.from_dict(kept[set_name]).cards[0]
        blocks = min(blocks_to_retrain(card, card.num_images), max(OPTIONS))
        accuracy = {option: float(np.mean(results[set_name][str(option)])) for option in OPTIONS}
        best = max(accuracy, key=lambda option: (accuracy[option], -option))
        lost.append(accuracy[best] - accuracy[blocks])
        difference = np.array(results[set_name][str(best)]) - np.array(results[set_name][str(blocks)])
        error = difference.std() / np.sqrt(len(difference))
        each = ", ".join(f"{option}: {100 * accuracy[option]:.1f}" for option in OPTIONS)
        print(
            f"{set_name:14} {verdict_of(card):4} statistics {card.norm_ratio:.1f}, gap {100 * card.gap:+.1f} ± "
            f"{100 * card.gap_error:.1f}, peak {card.peak} of {card.num_blocks}; accuracy by retrained blocks {each}; "
            f"advised {blocks}, loses {100 * lost[-1]:.1f} ± {100 * error:.1f}"
        )
    print(f"within 0.5 points of the best on {sum(loss <= 0.005 for loss in lost)} of {len(lost)} sets")


def retraining_split(dataset: ImageDataset, num_train: int) -> Split:
    """A sample to train on, and the test images, or where there are none those outside of the sample, to score."""
    is_test = np.array(dataset.subsets) == "test"
    pool = np.flatnonzero(~is_test)
    order = pool[stratified_order(dataset.labels[pool])]
    units = connected_units(dataset)
    train = order[: min(num_train, len(order) if is_test.any() else 2 * len(order) // 3)]
    others = np.flatnonzero(is_test) if is_test.any() else order[len(train) :]
    others = others[~np.isin(units[others], units[train])]
    scored = others[stratified_order(dataset.labels[others])[:MAX_SCORED]]
    return Split(train, scored, np.arange(0), seed=0)


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
    parser.add_argument("action", choices=("record", "measure", "retrain", "advise"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--images", type=int, default=600, help="of each data set")
    parser.add_argument("--orders", type=int, default=5, help="samples of each data set that `measure` averages over")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="of `retrain` and `advise`")
    arguments = parser.parse_args()
    {"record": record, "measure": measure, "retrain": retrain, "advise": advise}[arguments.action](arguments)


if __name__ == "__main__":
    main()
