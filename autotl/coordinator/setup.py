"""What a search needs before its first trial: images, split, backbones, and a study that stays one space."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import optuna

from autotl._version import __version__
from autotl.atomic_io import read_json, write_atomically, write_json
from autotl.config import StudyConfig
from autotl.coordinator.choose_backbones import choose_backbones
from autotl.data.dataset import ImageDataset
from autotl.data.loading import load_dataset
from autotl.data.splits import Split, make_split
from autotl.devices import Slot
from autotl.errors import AutotlError
from autotl.registry import Registry
from autotl.study.space import Choices
from autotl.workers.messages import Context

__all__ = ["freeze_choices", "keep_config", "kept_config", "prepare", "record_versions"]

SUBSETS = ("train", "validation", "test")
CONFIG = "study.json"


def prepare(config: StudyConfig, registry: Registry, slots: list[Slot], say: Callable[[str], None]) -> Context:
    """Load and check the images, split them (or take the study's own split), and choose the backbones."""
    cores = sum(slot.threads for slot in slots)
    dataset = load_dataset(
        config.data,
        registry.datasets,
        test=None if config.test == "none" else config.test,
        strict=config.strict_images,
        threads=cores,
        cache=config.cache / "digests",
    )
    backbones = choose_backbones(config, registry, say)
    split = _split(config, dataset)
    choices = Choices(
        tuple(b.name for b in backbones),
        tuple(config.strategies or registry.strategies),
        tuple(config.heads or registry.heads),
        len(split.train),
        len(dataset.classes),
        any(slot.device_type != "cpu" for slot in slots),
    )
    trainable = tuple(s for s in choices.strategies if choices.heads_for(s, registry))
    if not trainable:
        raise AutotlError(
            f"None of the heads {', '.join(choices.heads)} takes {len(split.train):,} training images. "
            "Add one that does: --head linear --head logistic_regression"
        )
    choices = replace(choices, strategies=trainable)
    _write_skipped(config.folder, dataset)
    return Context(config, config.folder, dataset, split, choices, slots[0], cores)


def keep_config(config: StudyConfig) -> None:
    """What this search is told, once it is known that its study can go on with it."""
    write_atomically(config.folder / CONFIG, config.model_dump_json(indent=2).encode())


def kept_config(folder: Path) -> StudyConfig:
    """What the search in a study's folder was told."""
    try:
        config = StudyConfig.model_validate(read_json(folder / CONFIG))
    except (OSError, ValueError) as error:  # pydantic's is a ValueError too
        reason = " ".join(str(error).split("For further information")[0].split())
        raise AutotlError(
            f"{folder / CONFIG} can't be read by autotl {__version__}: {reason}. If another autotl wrote it, use that."
        ) from error
    return config.model_copy(update={"output": folder.parent, "name": folder.name})


def _split(config: StudyConfig, dataset: ImageDataset) -> Split:
    """The study's own, where it has one: a resumed search never sees its test images as training images."""
    page = config.folder / "split.json"
    if not page.exists():
        split = make_split(dataset, config.seed, "none" if config.test == "none" else "auto")
        digests = {subset: [dataset.digests[i] for i in getattr(split, subset)] for subset in SUBSETS}
        write_json(page, {"indices": split.to_dict(), "digests": digests})
        return split
    try:
        kept = read_json(page)
        split = Split.from_dict(kept["indices"])
        known = [kept["digests"][subset] for subset in SUBSETS]
        rows = np.concatenate([getattr(split, subset) for subset in SUBSETS])
        if rows.ndim != 1 or rows.min(initial=0) < 0 or len(np.unique(rows)) < len(rows):
            raise ValueError("an image is in two subsets")
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise AutotlError(
            f"{page} is damaged or was made by hand: {type(error).__name__}: {error}. Give the search another --name, "
            f"or delete {config.folder}."
        ) from error
    for subset, digests_then in zip(SUBSETS, known, strict=True):
        indices = getattr(split, subset)
        same = indices.max(initial=-1) < len(dataset) and digests_then == [dataset.digests[i] for i in indices]
        if not same:
            raise AutotlError(
                f"The images of study {config.name!r} have changed since it began, and its split with them. "
                f"Give the search another --name, or delete {config.folder}."
            )
    return split


def freeze_choices(study: optuna.Study, context: Context) -> None:
    """A study is one space: what it chooses from may not change when it is resumed."""
    now: dict = {
        **asdict(context.choices),
        "classes": context.dataset.classes,
        "metric": context.config.metric,
        "seed": context.config.seed,
    }
    now = json.loads(json.dumps(now))
    kept = study.user_attrs.get("choices")
    if kept is None:
        study.set_user_attr("choices", now)
        return
    differing = [f"{k}: was {kept[k]}, is {now[k]}" for k in now if kept.get(k) != now[k]]
    if differing:
        raise AutotlError(
            f"Study {context.config.name!r} can't be resumed with other choices ({'; '.join(differing)}). "
            "Give the search the choices it began with, or add --extend: a new study takes over the trials that fit. "
            "Another --name begins anew."
        )


def record_versions(study: optuna.Study, now: dict[str, str]) -> list[str]:
    """Note which plugins and libraries this search runs with, and say what has changed since the study last ran.

    The study's `versions` are the current ones; `earlier_versions` those before, each with the first trial that had
    others.
    """
    kept: dict[str, str] | None = study.user_attrs.get("versions")
    if kept == now:
        return []
    study.set_user_attr("versions", now)
    if kept is None:
        return []
    earlier = [*study.user_attrs.get("earlier_versions", []), {"until_trial": len(study.trials), "versions": kept}]
    study.set_user_attr("earlier_versions", earlier)
    changed = [
        *(
            f"{name} {kept[name]} is now {now[name]}"
            for name in sorted(kept.keys() & now.keys())
            if kept[name] != now[name]
        ),
        *(f"{name} {now[name]} is new" for name in sorted(now.keys() - kept.keys())),
        *(f"{name} {kept[name]} is gone" for name in sorted(kept.keys() - now.keys())),
    ]
    return [f"Since the study last ran: {'; '.join(changed)}. What a trial gives may change with it."]


def _write_skipped(folder: Path, dataset: ImageDataset) -> None:
    if not dataset.skipped:
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "reason"])
    writer.writerows([str(s.path), s.reason] for s in dataset.skipped)
    write_atomically(folder / "skipped.csv", text.getvalue().encode(errors="surrogateescape"))
