"""Learn the warm-start portfolio: `python studies/learn_portfolio.py --data FOLDER_OF_SETS`.

Each candidate recipe, without a backbone, is fitted out of fold on a sample of each development set, with each
backbone; the test images of a set are left out. The portfolio is chosen greedily: each step takes the recipe that
lowers the log loss the most, as the mean over sets, of the best recipe so far. How good such an order is on new images
is measured by leaving out one set at a time. Results are kept in a file beside the portfolio, so that the command can
be interrupted and run again.
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

from autotl.alignment.sample import stratified_order
from autotl.clock import Deadline
from autotl.config import StudyConfig, default_cache
from autotl.coordinator.setup import prepare
from autotl.data.dataset import LabelledImage
from autotl.data.loading import load_dataset
from autotl.devices import parse_devices
from autotl.metrics import accuracy, log_loss
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.study.study import open_study
from autotl.trial.folds import fit_folds, predicted
from autotl.trial.state import WorkerState

PORTFOLIO_FILE = Path(__file__).with_name("portfolio.json")
SETS = ("elpv", "clothing", "hymenoptera", "sign-digits", "cifar10-mini", "flowers-128", "dtd-10", "magnetic-tile")
BACKBONES = ("efficientnet_lite0", "efficientnet_lite2")
LENGTH = 12
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
    """Out-of-fold scores of each candidate on each set with each backbone, from the file as far as they are there."""
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(row["set"], row["backbone"], json.dumps(row["recipe"], sort_keys=True)) for row in rows}
    for name in arguments.sets:
        location = name if name in registry.datasets else str(arguments.data / name)
        images = sampled(location, registry, arguments.images, arguments.cache)
        with tempfile.TemporaryDirectory() as folder:
            state = worker_state(name, images, arguments, registry, Path(folder))
            for backbone in arguments.backbone:
                for recipe in candidates(registry):
                    if (name, backbone, json.dumps(recipe, sort_keys=True)) in done:
                        continue
                    began, extracted = time.process_time(), state.extractor.extraction_seconds
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        fitted = fit_folds(
                            state, Recipe(backbone, seed=0, **recipe), math.inf, lambda fraction, score: None
                        )
                    labels, probabilities = predicted(state, fitted.probabilities)
                    rows.append(
                        {
                            "set": name,
                            "backbone": backbone,
                            "recipe": recipe,
                            "log_loss": log_loss(labels, probabilities),
                            "accuracy": accuracy(labels, probabilities),
                            "seconds": round(time.process_time() - began, 2),
                            "extracted": round(state.extractor.extraction_seconds - extracted, 2),
                        }
                    )
                    with kept.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                print(f"{name} {backbone}: {len(rows)} results", flush=True)
    return rows


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


def losses(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, str]], np.ndarray]:
    """The candidates, the tasks (set, backbone), and the log loss of each candidate in each task, in units of that of
    the task's best, as logarithm: [num_candidates, num_tasks]."""
    names = list(dict.fromkeys(json.dumps(row["recipe"], sort_keys=True) for row in rows))
    tasks = list(dict.fromkeys((row["set"], row["backbone"]) for row in rows))
    table = np.full((len(names), len(tasks)), np.nan)
    for row in rows:
        place = names.index(json.dumps(row["recipe"], sort_keys=True)), tasks.index((row["set"], row["backbone"]))
        table[place] = math.log(row["log_loss"])
    complete = ~np.isnan(table).any(0)
    table, tasks = table[:, complete], [task for task, whole in zip(tasks, complete, strict=True) if whole]
    return names, tasks, table - table.min(0)


def greedy(table: np.ndarray, length: int) -> list[int]:
    """The candidates in the order in which each lowers the mean over tasks of the best so far the most; ties by the
    candidate's own mean."""
    order: list[int] = []
    best = np.full(table.shape[1], np.inf)
    for _ in range(min(length, len(table))):
        gains = [(np.minimum(best, row).mean(), row.mean()) if i not in order else (np.inf, np.inf)
                 for i, row in enumerate(table)]  # fmt: skip
        chosen = min(range(len(table)), key=gains.__getitem__)
        order.append(chosen)
        best = np.minimum(best, table[chosen])
    return order


def path(table: np.ndarray, order: Sequence[int], length: int) -> np.ndarray:
    """How much worse than the best candidate the best of the first k is, k = 1 … length, in each task, in percent of
    the log loss: [length, num_tasks]."""
    return 100 * np.expm1(np.minimum.accumulate(table[list(order)[:length]], axis=0))


def compare(names: Sequence[str], tasks: Sequence[tuple[str, str]], table: np.ndarray) -> dict[str, Any]:
    """The learnt order, with the compared set left out, beside the handwritten one: mean log loss over the tasks of a
    set, in percent above the best candidate, after k recipes, and its standard error over sets."""
    recipes = [json.loads(name) for name in names]

    def index(head: str, levels: str) -> int:
        return next(
            i for i, r in enumerate(recipes) if (r["head"], r["strategy_params"]["levels"]) == (head, levels)
        )  # the first is the one with the defaults

    by_hand = [index(*pair) for pair in HANDWRITTEN]
    sets = list(dict.fromkeys(task[0] for task in tasks))
    learnt, written = [], []
    for left_out in sets:
        inside = np.array([task[0] == left_out for task in tasks])
        order = greedy(table[:, ~inside], LENGTH)
        learnt.append(path(table[:, inside], order, LENGTH).mean(1))
        written.append(path(table[:, inside], by_hand, LENGTH).mean(1))
    difference = np.array(learnt) - np.array(written)
    error = difference.std(0, ddof=1) / math.sqrt(len(sets))
    return {
        str(k): {
            "learnt": round(float(np.mean([row[k - 1] for row in learnt])), 2),
            "handwritten": round(float(np.mean([row[k - 1] for row in written])), 2),
            "difference": round(float(difference[:, k - 1].mean()), 2),
            "standard_error": round(float(error[k - 1]), 2),
        }
        for k in (1, 2, 3, 4, 6, 8, 12)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds the sets' folders")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--backbone", nargs="+", default=BACKBONES)
    parser.add_argument("--images", type=int, default=600, help="at most so many of a set")
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--results", type=Path, default=PORTFOLIO_FILE.with_name("portfolio-results.jsonl"))
    parser.add_argument("--no-fits", action="store_true", help="learn from the results that are there")
    arguments = parser.parse_args()
    registry = load_registry()
    if arguments.no_fits:
        rows = [json.loads(line) for line in arguments.results.read_text().splitlines()]
    else:
        rows = measure(arguments, registry, arguments.results)
    names, tasks, table = losses(rows)
    chosen = [json.loads(names[i]) for i in greedy(table, LENGTH)]
    compared = compare(names, tasks, table)
    content = {
        "recipes": chosen,
        "learnt_from": {"tasks": [list(task) for task in tasks], "images": arguments.images, "candidates": len(names)},
        "percent_above_the_best_candidate": compared,
    }
    PORTFOLIO_FILE.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(compared, indent=1))
    for recipe in chosen:
        print(recipe["head"], recipe["strategy_params"]["levels"], recipe["head_params"])


if __name__ == "__main__":
    main()
