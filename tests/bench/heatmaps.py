"""Whether heat maps show what a model looks at: what hiding the places they name costs, against places drawn at random.

Run from a checkout: python tests/bench/heatmaps.py FOLDER [--heads a,b] [--images N] [--pictures OUT]

Each head is fitted on recorded features of the training images, and a network is fine-tuned. For images of the test (or
validation) folder the 20 % of pixels with the largest values of the heat map get the mean colour of the image, and the
fall of the predicted class's probability is compared with the mean fall over hidden places that say nothing: the same
area of a heat map mirrored and moved at random, cells of a grid, and single pixels.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from autotl.data.loading import load_dataset
from autotl.data.splits import make_split
from autotl.features.extractor import FeatureExtractor
from autotl.features.store import FeatureStore
from autotl.model.heat_maps import HeatMap
from autotl.model.image_model import ImageModel
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Task
from autotl.trial.runner import _calibrate

SHARE = 0.2
DRAWS = 4
GRID = 14
RANDOM = ("moved", "cells", "pixels")


class Problem:
    """Labelled images, a backbone, and the heads that are fitted on its recorded features."""

    def __init__(self, location: Path, backbone: str, scratch: Path):
        self.registry = load_registry()
        self.dataset = load_dataset(str(location), self.registry.datasets)
        split = make_split(self.dataset, 0)
        engine = self.registry.engine(None, "cpu")
        stores = (FeatureStore(scratch / name) for name in ("features", "boundary"))
        self.split, self.backbone = split, self.registry.backbone(backbone)
        self.extractor = FeatureExtractor(
            self.dataset, split, *stores, engine=engine, device="cpu", threads=2, conversions=scratch / "engines"
        )
        self.held_out = split.test if len(split.test) else split.validation

    def fit(self, head: str, strategy: str = "fast_extraction", **params: object) -> Member:
        spec, registry = self.registry.head(head), self.registry
        implementation = registry.strategy(strategy)
        labels = (self.dataset.labels[part] for part in (self.split.train, self.split.validation))
        task = Task(
            self.backbone, spec, len(self.dataset.classes), *labels, registry.metric("accuracy"),
            self.extractor.of(self.backbone), threads=2,
        )  # fmt: skip
        levels = {"levels": "stages+max"} if strategy == "fast_extraction" else {}
        recipe = Recipe(
            self.backbone.name, strategy, head, 0,
            {**implementation.defaults(spec), **levels, **params}, spec.defaults(),
        )  # fmt: skip
        result = implementation.fit(recipe, task, "cpu", lambda fraction, score: None)
        _calibrate(result, task.validation_labels)
        return Member(result.recipe, result.fitted, self.backbone.digest, len(self.dataset.classes), trial=1)

    def model(self, *members: Member) -> ImageModel:
        return ImageModel(
            self.dataset.classes,
            list(members),
            {self.backbone.digest: self.backbone},
            registry=self.registry,
            threads=2,
        )


def top(values: np.ndarray) -> np.ndarray:
    """bool [height, width]: the SHARE of pixels with the largest values."""
    order = np.argsort(-values, axis=None, kind="stable")[: round(SHARE * values.size)]
    chosen = np.zeros(values.size, bool)
    chosen[order] = True
    return chosen.reshape(values.shape)


def drawn(kind: str, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [height, width]: the same share of pixels, drawn at random."""
    height, width = values.shape
    if kind == "moved":
        flipped = values[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        return np.roll(top(flipped), (int(rng.integers(height)), int(rng.integers(width))), (0, 1))
    if kind == "pixels":
        return top(rng.random(values.shape))
    cells = top(rng.random((GRID, GRID)))
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    return cells[rows][:, columns]


def hidden(heat: HeatMap, chosen: np.ndarray) -> np.ndarray:
    """The image whose chosen pixels have its mean colour."""
    pixels = np.array(heat.image)
    pixels[chosen] = pixels.reshape(-1, 3).mean(0).astype(np.uint8)
    return pixels


def falls(model: ImageModel, maps: list[HeatMap], seed: int = 0) -> dict[str, np.ndarray]:
    """How much the probability of the explained class falls, [n], where its heat map's places are hidden ("top"), and
    where random ones are."""
    rng = np.random.default_rng(seed)
    numbers = [model.classes.index(heat.label) for heat in maps]

    def probability(images: list[np.ndarray]) -> np.ndarray:
        return model.predict_proba(images)[np.arange(len(maps)), numbers]

    whole = probability([np.array(heat.image) for heat in maps])
    found = {"top": whole - probability([hidden(heat, top(heat.values)) for heat in maps])}
    for kind in RANDOM:
        draws = [
            whole - probability([hidden(heat, drawn(kind, heat.values, rng)) for heat in maps]) for _ in range(DRAWS)
        ]
        found[kind] = np.mean(draws, axis=0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--heads")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--no-tuned", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        problem = Problem(arguments.folder, arguments.backbone, Path(scratch))
        chosen = np.random.default_rng(0).permutation(problem.held_out)[: arguments.images]
        paths = [problem.dataset.paths[i] for i in chosen]
        labels = problem.dataset.labels[chosen]
        heads = arguments.heads.split(",") if arguments.heads else list(problem.registry.heads)
        members = {}
        for head in heads:
            members[head] = problem.fit(head)
        models = {head: problem.model(member) for head, member in members.items()}
        if len(members) > 2:
            models["ensemble of all"] = problem.model(*members.values())
        if not arguments.no_tuned:
            tuned = problem.fit("linear", "fine_tuning", unfrozen_blocks=1, head_epochs=3, epochs=3)
            models["fine-tuned, linear"] = problem.model(tuned)
        print(
            f"{len(paths)} images of {arguments.folder.name}, {problem.backbone.name}; "
            "share of images whose top 20 % cost more"
        )
        print(
            f"{'model':24} accuracy  than "
            + "  ".join(f"{kind:>7}" for kind in RANDOM)
            + "   mean falls              s/image"
        )
        for name, model in models.items():
            began = time.perf_counter()
            maps = model.explain(paths)
            took = (time.perf_counter() - began) / len(paths)
            accuracy = np.mean([heat.label == model.classes[label] for heat, label in zip(maps, labels, strict=True)])
            found = falls(model, maps)
            shares = [np.mean(found["top"] > found[kind]) for kind in RANDOM]
            means = " ".join(f"{found[kind].mean():6.3f}" for kind in ("top", *RANDOM))
            print(
                f"{name:24} {accuracy:8.3f}       "
                + "  ".join(f"{share:7.3f}" for share in shares)
                + f"   {means}  {took:.2f}",
                flush=True,
            )
            if arguments.pictures:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                for path, heat in zip(paths[:6], maps[:6], strict=True):
                    heat.save(arguments.pictures / f"{name.replace(' ', '-')}-{path.stem}.png")


if __name__ == "__main__":
    main()
