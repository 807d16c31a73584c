"""One trial, from the ask to the tell, in a worker."""

import ctypes
import gc
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import TrialState

from autotl.atomic_io import disk_full, write_atomically
from autotl.devices import is_device_error
from autotl.engines import micro_batch
from autotl.features.extractor import FeatureExtractor
from autotl.features.sharing import StoreTimeout
from autotl.features.store import FeatureStore, StoreUnavailable
from autotl.model.member import Member, save_member
from autotl.recipe import Recipe
from autotl.registry import Registry, load_registry
from autotl.strategies.base import OutOfTime, Result, Task
from autotl.study.pruner import STEPS
from autotl.study.space import suggest
from autotl.study.study import open_study, set_note
from autotl.workers.messages import Context, Send, Ticket, member_folder

__all__ = ["Bench", "give_back_memory", "run_trial", "train"]


@dataclass
class Bench:
    """What a worker keeps between trials: plugins, the study, engines, memory maps."""

    context: Context
    send: Send
    deadline: Callable[[], float]
    """time.monotonic() at which trials have to be done."""
    registry: Registry
    study: optuna.Study
    extractor: FeatureExtractor

    @classmethod
    def set_up(cls, context: Context, send: Send, deadline: Callable[[], float]) -> "Bench":
        config, slot = context.config, context.slot
        registry = load_registry(config.without_plugins, config.strict_plugins)
        registry.warn = lambda line: send("warn", line)
        metric = registry.metric(config.metric)
        seed = config.seed * 1000 + sum(slot.name.encode())
        study = open_study(context.folder, config.name, metric.direction, seed)

        def log(line: str) -> None:
            send("say", line)

        own = context.folder / "cache"  # it goes with the search
        extractor = FeatureExtractor(
            dataset=context.dataset,
            split=context.split,
            store=FeatureStore(own / "features", config.cache_size),
            scratch=FeatureStore(own / "boundary", config.cache_size),
            engine=registry.engine(config.engine, slot.device),
            device=slot.device,
            threads=slot.threads,
            conversions=own / "engines",
            seconds_left=lambda: deadline() - time.monotonic(),
            on_images=lambda what, done, total, rate: send("images", what, done, total, rate),
            log=log,
        )
        micro_batch.keep_in(context.folder / "micro_batches" / f"{slot.place.replace(':', '-')}.json")
        try:
            extractor.store = FeatureStore(config.cache / "features", config.cache_size)
            extractor.conversions = config.cache / "engines"
        except StoreUnavailable as error:
            log(_without_cache(error))
        return cls(context, send, deadline, registry, study, extractor)

    def do_without_cache(self, error: StoreUnavailable) -> None:
        """The cache went away, or can't be written any more: record with the study from now on. Raises `error` where
        it was the study's own folder."""
        own = self.context.folder / "cache"
        if self.extractor.store.root == own / "features":
            raise error
        self.extractor.move(FeatureStore(own / "features", self.context.config.cache_size), own / "engines")
        self.send("say", _without_cache(error))

    def labels(self, subset: str) -> np.ndarray:
        return self.context.dataset.labels[getattr(self.context.split, subset)]


def _without_cache(error: StoreUnavailable) -> str:
    return f"warning: {error} This search goes on without it: what it records goes when it ends."


def run_trial(bench: Bench, ticket: Ticket) -> bool:
    """Ask, train, tell. Whatever happens, the trial is told and the coordinator hears how it ended.

    Returns whether this process can go on: after an accelerator error it can't. Raises DiskFull alone: the trial is
    then left as it is.
    """
    began = time.monotonic()
    trial = bench.study.ask()
    state, value = TrialState.FAIL, None
    result: Result | None = None
    spoiled = False
    bench.extractor.spent = 0.0
    try:
        bench.send("asked", trial.number)
        recipe = suggest(trial, bench.context.choices, bench.registry, bench.context.config.seed)
        bench.send("started", trial.number, recipe.describe(), recipe.strategy, recipe.backbone)
        trial.set_user_attr("description", recipe.describe())
        trial.set_user_attr("recipe", recipe.to_dict())
        report = _reporter(trial, bench.send)
        try:
            result = train(bench, recipe, ticket.time_budget, report)
        except StoreUnavailable as error:
            bench.do_without_cache(error)
            result = train(bench, recipe, ticket.time_budget, report)
        value = bench.registry.metric(bench.context.config.metric)(bench.labels("validation"), result.probabilities)
        _record(bench, trial, result, value)
        state = TrialState.COMPLETE
    except optuna.TrialPruned as pruned:
        state = TrialState.PRUNED
        trial.set_user_attr("cause", str(pruned) or "worse than the median of its strategy")
    except (StoreTimeout, OutOfTime) as late:
        state = TrialState.PRUNED
        trial.set_user_attr("cause", str(late))
    except Exception as error:
        if full := disk_full(error, bench.context.folder):
            raise full from error  # no trial after this one would do better; its recipe is tried again
        spoiled = is_device_error(error)
        trial.set_user_attr("cause", f"{type(error).__name__}: {error}".strip()[:500])
        trial.set_user_attr("traceback", traceback.format_exc())
    seconds = round(time.monotonic() - began, 3)
    trial.set_user_attr("seconds", seconds)
    trial.set_user_attr("recording", round(bench.extractor.spent, 3))
    trial.set_user_attr("device", bench.context.slot.name)
    told = bench.study.tell(trial, value if state == TrialState.COMPLETE else None, state=state)
    try:
        if result is not None and state == TrialState.COMPLETE:
            bench.registry.notify("autotl_trial_finished", study=bench.study, trial=told, result=result)
    finally:
        bench.send("spoiled" if spoiled else "finished", trial.number)
    del result
    give_back_memory()
    return not spoiled


def give_back_memory() -> None:
    """glibc keeps what was freed between living blocks; over many trials that grows to gigabytes."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def _reporter(trial: optuna.Trial, send: Send) -> Callable[[float, float], None]:
    reported = 0

    def report(fraction: float, score: float) -> None:
        nonlocal reported
        step = int(fraction * STEPS)
        send("doing", f"{fraction:.0%}, best {score:.4f}")
        if step > reported:
            reported = step
            trial.report(score, step)
            if fraction < 1 and trial.should_prune():
                raise optuna.TrialPruned

    return report


def train(
    bench: Bench,
    recipe: Recipe,
    time_budget: float,
    report: Callable[[float, float], None],
    refit_epochs: int | None = None,
) -> Result:
    """Train a recipe, in a trial, in a replay, or once more where it was chosen."""
    backbone = bench.registry.backbone(recipe.backbone)
    task = Task(
        backbone=backbone,
        head=bench.registry.head(recipe.head),
        num_classes=len(bench.context.dataset.classes),
        train_labels=bench.labels("train"),
        validation_labels=bench.labels("validation"),
        metric=bench.registry.metric(bench.context.config.metric),
        features=bench.extractor.of(backbone),
        threads=bench.context.slot.threads,
        seconds_left=lambda: bench.deadline() - time.monotonic(),
        time_budget=time_budget,
        log=lambda line: bench.send("say", line),
        refit_epochs=refit_epochs,
    )
    result = bench.registry.strategy(recipe.strategy).fit(recipe, task, bench.context.slot.device, report)
    _calibrate(result, task.validation_labels)
    return result


def _calibrate(result: Result, labels: np.ndarray) -> None:
    """One temperature, which changes no decision: what a support vector machine says becomes comparable."""
    from autotl.heads.calibration import fit_temperature
    from autotl.heads.inference import MISSING, probabilities

    with np.errstate(divide="ignore"):  # but for a constant in each row these are the head's own
        logits = np.maximum(np.log(result.probabilities), MISSING)
    result.fitted.temperature = fit_temperature(logits, labels)
    result.probabilities = probabilities(logits, result.fitted.temperature)


def _record(bench: Bench, trial: optuna.Trial, result: Result, value: float) -> None:
    """Everything that rides on the trial, and what it fitted; a finished trial takes no more attributes."""
    context, recipe = bench.context, result.recipe
    backbone = bench.registry.backbone(recipe.backbone)
    labels = bench.labels("validation")
    classes = len(context.dataset.classes)
    member = Member(recipe, result.fitted, backbone.digest, classes, trial=trial.number, validation=value)
    num_features = bench.extractor.of(backbone).layout.num_features(result.fitted.levels)
    folder = member_folder(context.folder, trial.number)
    write_atomically(folder / "validation.npy", lambda file: np.save(file, result.probabilities))
    save_member(member, num_features, folder)

    if recipe.digest != Recipe.from_dict(trial.user_attrs["recipe"]).digest:  # time cut it short
        trial.set_user_attr("recipe", recipe.to_dict())
        trial.set_user_attr("description", recipe.describe())
    if result.history:
        trial.set_user_attr("epochs", len(result.history))
    if result.best_epoch:
        trial.set_user_attr("best_epoch", result.best_epoch)
    for metric in bench.registry.metrics.values():
        with suppress(ValueError):
            trial.set_user_attr(metric.name, round(metric(labels, result.probabilities), 6))
    _upload(bench, trial, result)
    set_note(bench.study, trial, f"**{value:.4f}** {context.config.metric}: {recipe.describe()}")


def _upload(bench: Bench, trial: optuna.Trial, result: Result) -> None:
    """The learning curve, as a small table that Optuna Dashboard shows. Never weights: it has no way to delete."""
    if not result.history:
        return
    from optuna.artifacts import FileSystemArtifactStore, upload_artifact

    artifacts = bench.context.folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    names = list(result.history[0])
    lines = [",".join(names), *(",".join(f"{epoch[name]:.6g}" for name in names) for epoch in result.history)]
    table = bench.context.folder / "cache" / f"curve-{trial.number}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(lines) + "\n")
    upload_artifact(
        artifact_store=FileSystemArtifactStore(str(artifacts)), file_path=str(table), study_or_trial=trial,
        mimetype="text/csv", storage=bench.study._storage,
    )  # fmt: skip
    table.unlink()
