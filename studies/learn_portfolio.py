"""Learn the warm-start portfolio: `python studies/learn_portfolio.py --data FOLDER_OF_SETS`.

Each candidate recipe, without a backbone, is fitted out of fold on a sample of each development set, with each
backbone; the test images of a set are left out. The first recipe stays the one that is fitted fastest on any number
of images. After it, each step takes the recipe that lowers the most, in a second of fitting, the log loss of the
average that a search selects among all recipes so far. How good such an order is on new images is measured by leaving
out one set at a time. Results are kept in a file, so that the command can be interrupted and run again.
"""

import argparse
import json
import math
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from autotl.alignment.sample import stratified_order
from autotl.clock import Deadline
from autotl.config import StudyConfig, default_cache
from autotl.coordinator.setup import prepare
from autotl.data.dataset import LabelledImage
from autotl.data.loading import load_dataset
from autotl.devices import parse_devices
from autotl.metrics import accuracy
from autotl.model.ensemble import select
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.study.study import open_study
from autotl.trial.folds import fit_folds
from autotl.trial.state import WorkerState

PORTFOLIO_FILE = Path(__file__).with_name("portfolio.json")
SETS = ("elpv", "clothing", "hymenoptera", "sign-digits", "cifar10-mini", "flowers-128", "dtd-10", "magnetic-tile")
BACKBONES = ("efficientnet_lite0", "efficientnet_lite2")
LENGTH = 12
FOLDS = 4
"""Of five or eight; the images in the others are fitted on alone."""
MEMBERS = 8
"""Of a model, as of a search that isn't told otherwise."""
OVERHEAD = 0.2
"""Seconds of a trial beside its fits."""
SECONDS, NUMBERS = (1, 2, 5, 10, 20, 40), (2, 3, 4, 6, 8, 12)
"""Of fitting, and recipes, after which orders are compared."""
FIRST = ("logistic_regression", "last")
HANDWRITTEN = (
    ("logistic_regression", "last"),
    *(
        (head, "stages+max")
        for head in (
            "linear", "mlp", "logistic_regression", "linear_svm", "rbf_svm", "knn", "lda", "random_forest",
            "extra_trees",
            "ridge", "kernel_ridge",
        )
    ),
)  # fmt: skip
"""The order until a portfolio was learnt: regression first, then each head with the features of all levels."""
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "logistic_regression": [{"C": 0.001}, {"C": 0.1}],
    "rbf_svm": [{"C": 20.0, "gamma": 0.1}],
    "ridge": [{"power": 1.0}],
    "kernel_ridge": [
        {"width": 0.3},
        {"kernel": "laplacian"},
        {"kernel": "cosine"},
        {"kernel": "rbf", "power": 1.0},
        {"class_weight": "balanced"},
    ],
    "linear_svm": [],
    "lda": [],
    "knn": [],
    "linear": [],
    "mlp": [],
    "random_forest": [],
    "extra_trees": [],
}
LEVELS = {"kernel_ridge": ("stages+max", "inner+max", "last"), "logistic_regression": ("last", "stages+max")}


def candidates(registry: Any) -> list[dict[str, Any]]:
    """Recipes without a backbone: strategy, head and their parameters."""
    strategy, found = registry.strategy("fast_extraction"), []
    for name, variants in VARIANTS.items():
        head = registry.head(name)
        for levels in LEVELS.get(name, ("stages+max",)):
            for changes in [{}, *variants]:
                if changes and levels == "inner+max" and name == "kernel_ridge" and changes != {"width": 0.3}:
                    continue
                found.append(
                    {
                        "strategy": strategy.name,
                        "head": name,
                        "strategy_params": {**strategy.defaults(head), "levels": levels},
                        "head_params": {**head.defaults(), **changes},
                    }
                )
    return found


def sampled(location: str, registry: Any, num_images: int, cache: Path) -> list[LabelledImage]:
    """The first images of a stratified order of those that are not test images."""
    dataset = load_dataset(location, registry.datasets, cache=cache / "digests")
    pool = np.flatnonzero(np.array(dataset.subsets) != "test")
    chosen = np.sort(pool[stratified_order(dataset.labels[pool])[:num_images]])
    names, groups = dataset.classes, dataset.groups
    return [LabelledImage(dataset.paths[i], names[dataset.labels[i]], "", groups[i]) for i in chosen]


def measure(arguments: argparse.Namespace, registry: Any, kept: Path) -> list[dict[str, Any]]:
    """What each candidate predicts out of fold in each set with each backbone, from the file as far as it is there.

    Heads are fitted with one thread, so that a second of the processor is a second of the fit.
    """
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["set"], row["backbone"], _key(row["recipe"])) for row in rows}
    for name in arguments.sets:
        todo = [
            (backbone, recipe)
            for backbone in arguments.backbone
            for recipe in candidates(registry)
            if (name, backbone, _key(recipe)) not in done
        ]
        if not todo:
            continue
        location = name if name in registry.datasets else str(arguments.data / name)
        images = sampled(location, registry, arguments.images, arguments.cache)
        with tempfile.TemporaryDirectory() as folder:
            state = worker_state(name, images, arguments, registry, Path(folder))
            for backbone in dict.fromkeys(backbone for backbone, _ in todo):
                state.extractor.of(registry.backbone(backbone)).levels(state.context.split.development, "stages+max")
            for backbone, recipe in todo:
                rows.append({"set": name, "backbone": backbone, "recipe": recipe, **fitted(state, backbone, recipe)})
                with kept.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
        print(f"{name}: {len(rows)} results, {time.process_time():.0f} s of the processor", flush=True)
    return rows


def fitted(state: WorkerState, backbone: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The probability of each image's label, out of fold, in the first folds; and the seconds of the processor."""
    began = time.process_time()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        outcome = fit_folds(
            state, Recipe(backbone, seed=0, **recipe), math.inf, lambda fraction, score: None, folds=FOLDS
        )
    seconds = time.process_time() - began
    labels, rows = state.labels("development"), state.context.split.development_folds < FOLDS
    of_label = outcome.probabilities[np.arange(len(labels)), labels][rows]
    return {
        "of_label": [float(f"{value:.4g}") for value in of_label],
        "accuracy": round(accuracy(labels[rows], outcome.probabilities[rows]), 4),
        "seconds": round(seconds, 2),
    }


def _key(recipe: Mapping[str, Any]) -> str:
    return json.dumps(recipe, sort_keys=True)


def worker_state(
    name: str, images: list[LabelledImage], arguments: argparse.Namespace, registry: Any, folder: Path
) -> WorkerState:
    """The state of a worker that fits recipes on these images."""
    config = StudyConfig(
        data=name, name="portfolio", output=folder, cache=arguments.cache, trials=1, test="none", devices="cpu",
        backbones=list(arguments.backbone),
    )  # fmt: skip
    config.folder.mkdir(parents=True)
    context = prepare(config, registry, parse_devices("cpu"), lambda line: None, images)
    open_study(config.folder, config.name, "maximize", config.seed)
    return WorkerState.set_up(context, lambda message: None, Deadline())


class Results:
    """What the candidates predict: the losses and durations of orders of them.

    A task is a set with a backbone. `names` are the candidates that were fitted in all tasks.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.tasks = list(dict.fromkeys((row["set"], row["backbone"]) for row in rows))
        by_name: dict[str, dict[tuple[str, str], Mapping[str, Any]]] = {}
        for row in rows:
            by_name.setdefault(_key(row["recipe"]), {})[row["set"], row["backbone"]] = row
        self.names = [name for name, found in by_name.items() if len(found) == len(self.tasks)]
        self.recipes = [json.loads(name) for name in self.names]
        self.of_label = [[np.array(by_name[n][t]["of_label"])[:, None] for t in self.tasks] for n in self.names]
        self.seconds = np.array([[by_name[n][t]["seconds"] + OVERHEAD for t in self.tasks] for n in self.names])
        """[num_candidates, num_tasks]"""
        self._losses: dict[frozenset[int], np.ndarray] = {}

    def losses(self, chosen: Sequence[int]) -> np.ndarray:
        """The logarithm of the log loss, in each task, of the average that a search selects among these candidates."""
        key = frozenset(chosen)
        if key not in self._losses:
            self._losses[key] = np.array([self._loss(sorted(key), task) for task in range(len(self.tasks))])
        return self._losses[key]

    def _loss(self, chosen: Sequence[int], task: int) -> float:
        of_label = [self.of_label[i][task] for i in chosen]
        weights = select(of_label, np.zeros(len(of_label[0]), int), MEMBERS)
        average = sum(weight * of_label[i] for i, weight in weights.items())
        return math.log(-np.log(np.maximum(average, 1e-15)).mean())

    def index(self, head: str, levels: str) -> int:
        """The candidate with the head's first parameters."""
        pairs = [(recipe["head"], recipe["strategy_params"]["levels"]) for recipe in self.recipes]
        return pairs.index((head, levels))

    def learnt(self, tasks: np.ndarray) -> list[int]:
        """The order after the first recipe: what lowers the loss the most in a second, as the mean over tasks.

        Args:
            tasks: which to learn from, bool [num_tasks].
        """
        order = [self.index(*FIRST)]
        while len(order) < LENGTH:
            rest = [i for i in range(len(self.names)) if i not in order]
            before = self.losses(order)
            gains = {i: (before - self.losses([*order, i]))[tasks].mean() / self.seconds[i, tasks].mean() for i in rest}
            order.append(max(rest, key=gains.__getitem__))
        return order

    def completed(self, order: Sequence[int]) -> list[int]:
        """The order, and then every head that isn't in it, as a search goes on."""
        heads = {self.recipes[i]["head"] for i in order}
        return [*order, *(self.index(head, "stages+max") for head, _ in HANDWRITTEN[1:] if head not in heads)]

    def over_time(self, order: Sequence[int], task: int) -> list[float]:
        """The loss of what is done after each of SECONDS, and its mean over the time from the first model on."""
        ends = np.cumsum(self.seconds[list(order), task])
        losses = [self.losses(order[: k + 1])[task] for k in range(len(order))]
        grid = np.linspace(ends[0], max(SECONDS), 500)
        at = [losses[max(0, int(np.searchsorted(ends, t, side="right")) - 1)] for t in (*SECONDS, *grid)]
        return [*at[: len(SECONDS)], float(np.mean(at[len(SECONDS) :]))]


def compare(results: Results) -> dict[str, Any]:
    """The learnt order, with the compared set left out, beside the handwritten one: the difference of log losses in
    percent, as the mean over the tasks of a set, with its standard error over sets."""
    by_hand = [results.index(*pair) for pair in HANDWRITTEN]
    sets = list(dict.fromkeys(name for name, _ in results.tasks))
    of_time, of_number, orders = [], [], []
    for left_out in sets:
        inside = np.array([name == left_out for name, _ in results.tasks])
        order = results.learnt(~inside)
        orders.append(order)
        tasks, whole = np.flatnonzero(inside), results.completed(order)
        pairs = [(results.over_time(whole, t), results.over_time(by_hand, t)) for t in tasks]
        of_time.append(np.mean([np.subtract(*pair) for pair in pairs], axis=0))
        steps = [results.losses(order[:k]) - results.losses(by_hand[:k]) for k in NUMBERS]
        of_number.append([step[inside].mean() for step in steps])
    return {
        "after_seconds": _with_errors([*map(str, SECONDS), f"mean of {max(SECONDS)}"], of_time),
        "after_recipes": _with_errors([*map(str, NUMBERS)], of_number),
        "by_set": {name: round(100 * float(row[-1]), 2) for name, row in zip(sets, of_time, strict=True)},
        "same_beginning": [len({tuple(order[:k]) for order in orders}) == 1 for k in range(1, LENGTH + 1)],
    }


def _with_errors(names: Sequence[str], differences: Sequence[Any]) -> dict[str, str]:
    percent = 100 * np.array(differences, float)
    error = percent.std(0, ddof=1) / math.sqrt(len(percent)) if len(percent) > 1 else np.full(len(names), np.nan)
    return {n: f"{mean:+.2f} ± {e:.2f}" for n, mean, e in zip(names, percent.mean(0), error, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the sets' folders")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--images", type=int, default=400, help="at most so many of a set")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--results", type=Path, default=PORTFOLIO_FILE.with_name("portfolio-results.jsonl"))
    parser.add_argument("--no-fits", action="store_true", help="learn from the results that are there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    registry = load_registry()
    if arguments.no_fits:
        rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    else:
        rows = measure(arguments, registry, arguments.results)
    results = Results(rows)
    print(json.dumps(compare(results), indent=1, ensure_ascii=False))
    order = results.learnt(np.ones(len(results.tasks), bool))
    for i in order:
        recipe, seconds = results.recipes[i], results.seconds[i].mean()
        print(f"{recipe['head']}, {recipe['strategy_params']['levels']}, {recipe['head_params']}: {seconds:.1f} s")
    PORTFOLIO_FILE.write_text(json.dumps([results.recipes[i] for i in order], indent=2) + "\n")


if __name__ == "__main__":
    main()
