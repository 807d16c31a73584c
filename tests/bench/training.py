"""Heads on recorded features, recorded views, and fine-tuning from the freeze boundary."""

import gc
from pathlib import Path
from typing import Any

import naive
import numpy as np
import optuna
from optuna.samplers import PartialFixedSampler
from rows import Ground, Row, at_least, at_most, seconds, work

from autotl.clock import Deadline
from autotl.config import StudyConfig
from autotl.data.splits import Split, make_split
from autotl.devices import Slot
from autotl.features.extractor import FeatureExtractor
from autotl.recipe import Recipe
from autotl.strategies.base import Task
from autotl.study.space import Choices
from autotl.study.study import open_study
from autotl.trial.runner import run_trial
from autotl.trial.state import WorkerState
from autotl.workers.messages import Context

TRIALS = 60
SEEDS = 3
"""Dense head trials are timed over so many, in each of so many studies: what a sampler comes to like, long trainings or
short ones, differs from seed to seed by a factor of two. The first few, which import and open, don't count."""
WARM_TRIALS = 5
VIEWS = 8
VIEW_TRIALS = 20
NAIVE_EPOCHS = 10
"""Of a naive trial on augmented images. What it takes is calculated from its images a second."""
SCORED = 32
"""Validation images of a fine-tuning run: an epoch ends with scoring them."""
STEPS = {1: 12, 2: 10, 99: 5}
"""Naive steps of 32 images, by unfrozen blocks."""
EPOCHS = 4


@work
def dense_heads(ground: Ground) -> list[Row]:
    """Whole trials, from the ask to the tell on a journal: both dense heads, whatever the sampler suggests."""
    with ground.scratch() as folder:
        states = [_with_features(ground, folder, seed) for seed in range(SEEDS)]
        gc.freeze()  # as a worker does when it is ready
        jobs = [state for state in states for _ in range(TRIALS)]
        took = seconds(lambda: [run_trial(state, state.study.ask().number) for state in jobs])
        for state in states:
            if failed := state.study.get_trials(states=(optuna.trial.TrialState.FAIL,)):
                raise RuntimeError(f"a trial failed: {failed[0].user_attrs['cause']}")
        num_train = len(states[0].context.split.train)
        num_features = states[0].extractor.of(ground.backbone).layout.output
    rate = len(jobs) / took * 60
    work = f"dense head trials on {num_train:,} × {num_features:,} features, one worker"
    return [Row(work, None, rate, "trials/min", None, "≥ 200 trials/min", rate >= 200)]


def _with_features(ground: Ground, folder: Path, seed: int) -> WorkerState:
    """The state of a worker whose last levels are recorded, after its first trials."""
    dataset = ground.dataset("elpv")
    split = make_split(dataset, 0)
    name = ground.backbone.name
    choices = Choices((name,), ("fast_extraction",), ("linear", "mlp"), len(split.train), len(dataset.classes))
    config = StudyConfig(
        data="elpv", name=f"bench{seed}", output=folder, cache=folder / "cache", cache_size=10**10, seed=seed
    )
    config.folder.mkdir(parents=True)
    slot = Slot("cpu:0", "cpu", "cpu", ground.threads)
    context = Context(config, config.folder, dataset, split, choices, slot, ground.threads)
    open_study(config.folder, config.name, "maximize", seed)
    state = WorkerState.set_up(context, lambda message: None, Deadline())
    state.extractor.conversions = ground.folder / "engines"
    for subset in ("train", "validation"):
        state.extractor.of(state.registry.backbone(name)).levels(subset, "last")
    state.study.sampler = PartialFixedSampler({"fast_extraction.levels": "last"}, state.study.sampler)
    for _ in range(WARM_TRIALS):
        run_trial(state, state.study.ask().number)
    return state


@work
def kernel_ridge(ground: Ground) -> list[Row]:
    """Settings of kernel ridge with leave-one-out scores: whole fits of the four kernels, on one core. The naive way is
    five fits of the RBF support vector machine for a setting."""
    from threadpoolctl import threadpool_limits

    dataset = ground.dataset("elpv")
    split = make_split(dataset, 0)
    with ground.scratch() as folder:
        features = ground.made_ready(dataset, split, folder).of(ground.backbone).levels("train", "stages+max")
    labels, groups = dataset.labels[split.train], np.arange(len(split.train))
    registry = ground.registry

    def fitted(head: str, **params: Any) -> Any:
        spec = registry.head(head)
        return spec.build({**spec.defaults(), **params}, features.shape[1], len(dataset.classes), 0)

    with threadpool_limits(1):
        fitted("kernel_ridge").fit(features, labels, groups=groups)  # the first fit imports
        models = [fitted("kernel_ridge", kernel=kernel) for kernel in ("rbf", "laplacian", "cosine", "linear")]
        took = seconds(lambda: [model.fit(features, labels, groups=groups) for model in models])
        folds = [groups % 5 != fold for fold in range(5)]
        slow = seconds(lambda: [fitted("rbf_svm").fit(features[fold], labels[fold]) for fold in folds])
    rate = sum(len(model.loo_log_losses_) for model in models) / took * 60
    work = f"kernel settings with leave-one-out scores on {len(labels):,} × {features.shape[1]:,} features, one core"
    return [Row(work, 60 / slow, rate, "settings/min", rate * slow / 60, "≥ 2,000 settings/min", rate >= 2000)]


@work
def views(ground: Ground) -> list[Row]:
    """Twenty `extract_augment` trials of eight views, on an empty store; then the same once more, for the heads alone.

    An extraction is a pass over the images to train and to score on.
    """
    dataset = ground.dataset("elpv")
    split = make_split(dataset, 0)
    frozen = naive.training(*_few(ground, split), ground.backbone, 0, STEPS[1])
    strategy = ground.registry.strategy("extract_augment")
    head = ground.registry.head("linear")
    params = {**strategy.defaults(head), "policy": "dihedral", "views": VIEWS, "levels": "last"}

    def trial(extractor: FeatureExtractor, seed: int, **changed: Any) -> None:
        recipe = Recipe(ground.backbone.name, strategy.name, head.name, seed, {**params, **changed}, head.defaults())
        strategy.fit(recipe, _task(ground, extractor), "cpu", lambda fraction, score: None)

    def trials(extractor: FeatureExtractor) -> None:
        for seed in range(VIEW_TRIALS):
            trial(extractor, seed)

    with ground.scratch() as folder:
        plain = ground.made_ready(dataset, split, folder / "plain")
        features = plain.of(ground.backbone)
        extraction = seconds(lambda: [features.levels(part, "last") for part in ("train", "validation")])
        trial(plain, 0, policy="none")  # what a process's first head imports is no extraction
        extractor = ground.made_ready(dataset, split, folder / "views")
        everything = seconds(lambda: trials(extractor))
        heads = seconds(lambda: trials(extractor))
    in_extractions = (everything - heads) / extraction
    images = len(split.train) + len(split.validation)
    slow = VIEW_TRIALS * NAIVE_EPOCHS * images / frozen / extraction
    work = f"extract_augment, {VIEWS} views, {VIEW_TRIALS} trials, without the heads' {heads:.0f} s"
    return [at_most(work, in_extractions, "extractions", VIEWS + 1, slow)]


@work
def fine_tuning_1(ground: Ground) -> list[Row]:
    """An epoch with the last block unfrozen, from the recorded boundary."""
    return _fine_tuning(ground, 1, 1024, "fine-tuning, last block", 10)


@work
def fine_tuning_2(ground: Ground) -> list[Row]:
    """An epoch with the last two blocks unfrozen."""
    return _fine_tuning(ground, 2, 512, "fine-tuning, last two blocks", 2.5)


@work
def fine_tuning_all(ground: Ground) -> list[Row]:
    """An epoch with nothing frozen."""
    return _fine_tuning(ground, 99, 160, "fine-tuning, all blocks", 1.6)


def _fine_tuning(ground: Ground, blocks: int, n: int, words: str, ratio: float) -> list[Row]:
    dataset = ground.dataset("elpv")
    order = make_split(dataset, 0).train
    split = Split(order[SCORED : SCORED + n], order[:SCORED], order[:0], seed=0)
    slow = naive.training(*_few(ground, split), ground.backbone, blocks, STEPS[blocks])
    strategy, head = ground.registry.strategy("fine_tuning"), ground.registry.head("linear")
    params = {**strategy.defaults(head), "unfrozen_blocks": blocks, "epochs": EPOCHS}
    recipe = Recipe(ground.backbone.name, strategy.name, head.name, 0, params, head.defaults())
    with ground.scratch() as folder:
        extractor = ground.extractor(dataset, split, folder)
        result = strategy.fit(recipe, _task(ground, extractor), "cpu", lambda fraction, score: None)
    first, last = result.history[0], result.history[-1]
    an_epoch = (last["seconds"] - first["seconds"]) / (last["epoch"] - first["epoch"])
    name = ground.backbone.name
    return [at_least(f"{words} of {name}, an epoch", slow, len(split.train) / an_epoch, "images/s", ratio)]


def _few(ground: Ground, split: Split) -> tuple[list[Any], np.ndarray]:
    dataset, few = ground.dataset("elpv"), split.train[: ground.naive_images]
    return [dataset.paths[i] for i in few], dataset.labels[few]


def _task(ground: Ground, extractor: FeatureExtractor) -> Task:
    labels = (extractor.dataset.labels[part] for part in (extractor.split.train, extractor.split.validation))
    metric = ground.registry.metric("accuracy")
    return Task(
        ground.backbone, ground.registry.head("linear"), len(extractor.dataset.classes), *labels, metric,
        extractor.of(ground.backbone), threads=ground.threads,
    )  # fmt: skip
