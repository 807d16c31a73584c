"""What a search needs before its first trial: images, split, backbones, and a study whose choices do not change."""

import csv
import io
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optuna

from autotl._version import __version__
from autotl.atomic_io import read_json, write_atomically, write_json
from autotl.backbones.joined import with_size
from autotl.config import StudyConfig, default_cache
from autotl.coordinator.choose_backbones import DownloadPolicy, choose_backbones
from autotl.coordinator.extend import take_over
from autotl.coordinator.joins import propose_joins
from autotl.data.dataset import ImageDataset, LabelledImage
from autotl.data.loading import load_dataset
from autotl.data.splits import Split, make_split
from autotl.devices import Slot
from autotl.errors import AutotlError, DataError
from autotl.escaping import csv_cell, escape
from autotl.folders import is_cache
from autotl.recipe import JOIN
from autotl.registry import Registry
from autotl.study.kept_database import keep_database, kept_database, study_exists
from autotl.study.space import Choices
from autotl.study.storage import Journal
from autotl.study.study import StudyAttribute, load_study, open_study
from autotl.workers.messages import Context

__all__ = ["ImagesChanged", "begin_study", "kept_config", "library_versions", "prepare", "study_split"]

SUBSETS = ("train", "validation", "test")
CONFIG_FILE = "study.json"
SPLIT_FILE = "split.json"
LIBRARIES = ("optuna", "torch", "timm", "scikit-learn")


class ImagesChanged(DataError):
    """The images of a study are not those that it began with."""


def prepare(
    config: StudyConfig,
    registry: Registry,
    slots: list[Slot],
    log: Callable[[str], None],
    images: Sequence[LabelledImage] | None = None,
    checking: Callable[[int, int], None] | None = None,
    policy: DownloadPolicy | None = None,
) -> Context:
    """Load and verify the images, split them (or take the study's own split), and choose the backbones.

    Args:
        log: shows a line to the user.
        images: the labelled images themselves, where `config.data` is only a name for them.
        checking: called with the number of images checked and the number of all.
        policy: whether weights may be downloaded; nothing is downloaded here.

    Raises:
        AutotlError: unusable images or labels, or no head that any strategy can train on so many images.
    """
    cores = sum(slot.threads for slot in slots)
    dataset = load_dataset(
        config.data,
        registry.datasets,
        images=None if images is None else list(images),
        test=None if config.test == "none" else config.test,
        strict=config.strict_images,
        threads=cores,
        cache=config.cache / "digests",
        progress=checking,
        confined=config.untrusted,
    )
    split = study_split(config, dataset)
    kept = _kept_backbones(config, registry, log)
    backbones = choose_backbones(
        config,
        registry,
        log,
        policy=policy,
        slots=slots,
        num_images=len(split.train) + len(split.validation),
        kept=kept and [name for name in kept if JOIN not in name or name in (config.backbones or ())],
    )
    names = [backbone.name for backbone in backbones]
    joins = propose_joins(config, backbones) if kept is None else [name for name in kept if JOIN in name]
    names = list(dict.fromkeys((*names, *joins)))
    choices = Choices(
        tuple(kept if kept is not None and set(kept) == set(names) else names),
        tuple(config.strategies or registry.strategies),
        tuple(config.heads or registry.heads),
        len(split.train),
        len(dataset.classes),
        any(slot.device_type != "cpu" for slot in slots),
        tuple(config.augmentations or registry.augmentations),
        tuple(config.losses or registry.losses),
        tuple(config.levels or registry.levels),
    )
    single = [name for name in choices.strategies if choices.backbones_for(name, registry)]
    if not single:
        raise AutotlError(
            f"{', '.join(choices.strategies)} can't train {', '.join(names)}, whose networks have no common gradient. "
            "Add a single backbone, or a strategy that reads recorded features: --strategy fast_extraction"
        )
    trainable = tuple(name for name in single if choices.heads_for(name, registry))
    if not trainable:
        raise AutotlError(
            f"None of the heads {', '.join(choices.heads)} takes {len(split.train):,} training images. "
            "Add one that does: --head linear --head logistic_regression"
        )
    choices = replace(choices, strategies=trainable)
    _write_skipped(config.folder, dataset)
    return Context(config, config.folder.absolute(), dataset, split, choices, slots[0], cores)


def _kept_backbones(config: StudyConfig, registry: Registry, log: Callable[[str], None]) -> list[str] | None:
    """The names that a study began with, in their order; None for a new study, for one that chose otherwise (by name,
    where this configuration names none, or the other way round), and where one of them is gone."""
    if not study_exists(config.folder):
        return None
    _repair_journal(config.folder, log)
    try:
        choices = load_study(config.folder).user_attrs[StudyAttribute.CHOICES]
        kept = list(choices["backbones"])
        named = read_json(config.folder / CONFIG_FILE).get("backbones")
    except (AutotlError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None  # `begin_study` says what is wrong with it
    known = registry.backbones.keys() | {part for name in named or () for part in name.split(JOIN)}
    parts = {part for name in kept for part in name.split(JOIN)}
    unknown = [part for part in parts - known if not ((sized := with_size(part)) and sized[0] in known)]
    return None if unknown or (named is None) != (config.backbones is None) else kept


def _repair_journal(folder: Path, log: Callable[[str], None]) -> None:
    if (folder / "journal.log").exists() and Journal(folder).repair():
        log("the journal ended in a torn line, which was cut; the journal as it was is beside it: journal.log.torn")


def begin_study(
    config: StudyConfig, context: Context, registry: Registry, extends: Path | None, log: Callable[[str], None]
) -> optuna.Study:
    """Open the study, or create it, and record what this search was asked and which versions it runs with.

    Args:
        extends: folder of the study whose trials a new one takes over.

    Raises:
        AutotlError: an unreadable journal, or other choices than the study began with.
    """
    _repair_journal(config.folder, log)
    journal = config.folder / "journal.log"
    if config.storage:
        _use_database(config)
    is_resumed = journal.exists() and journal.stat().st_size > 0
    study = open_study(config.folder, config.name, registry.metric(config.metric).direction, config.seed, config.limits)
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([config.metric])  # the name of Optuna Dashboard's axes
    if is_resumed and StudyAttribute.CHOICES not in study.user_attrs:
        log(f"The study in {config.folder} was deleted from its journal: a new one begins.")
    _freeze_choices(study, context)
    write_atomically(config.folder / CONFIG_FILE, config.model_dump_json(indent=2).encode())
    for line in _record_versions(study, library_versions(registry)):
        log(line)
    if extends:
        log(take_over(extends, study, context, registry))
    return study


def _use_database(config: StudyConfig) -> None:
    """Let a new study be in the database that `config` names. Raises AutotlError where it is, or can be, no new one."""
    url = str(config.storage)
    kept = kept_database(config.folder)
    if kept == (url, config.name) or (kept and kept[0] == url):
        return
    if kept or study_exists(config.folder):
        where = kept[0] if kept else config.folder / "journal.log"
        raise AutotlError(f"Study {config.name!r} is in {where}, not in {url}. Leave out --storage, or give a --name.")
    from autotl.study.database import open_database

    if any(study.study_name == config.name for study in open_database(url).get_all_studies()):
        raise AutotlError(
            f"{url} has a study called {config.name!r}, whose folder is not {config.folder}. Give a --name of its own, "
            "or --output with the folder that holds its files."
        )
    keep_database(config.folder, url, config.name)


def library_versions(registry: Registry) -> dict[str, str]:
    """Versions of the libraries that results depend on and of all plugins, by distribution."""
    return {**{name: version(name) for name in LIBRARIES}, **registry.versions()}


def kept_config(folder: Path) -> StudyConfig:
    """The configuration of the last search in a study's folder. Raises AutotlError where it can't be read."""
    try:
        config = StudyConfig.model_validate(read_json(folder / CONFIG_FILE))
    except FileNotFoundError:
        raise AutotlError(
            f"{folder} has no {CONFIG_FILE}, which says what was searched. Put the file back, or copy the whole "
            "study again."
        ) from None
    except (OSError, ValueError) as error:  # a ValidationError is a ValueError
        reason = " ".join(str(error).split("For further information")[0].split())
        raise AutotlError(
            f"{folder / CONFIG_FILE} can't be read by autotl {__version__}: {reason}. Use the autotl that wrote it."
        ) from error
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - "." gets its name, and links are kept
    # a stranger's study would have features written to any folder: its cache is used only where it is one
    cache = config.cache if is_cache(config.cache) else default_cache()
    places = {"output": folder.parent, "name": folder.name, "cache": cache}
    return config.model_copy(update=places).from_stranger("data", "test")


def study_split(config: StudyConfig, dataset: ImageDataset) -> Split:
    """The study's own split where it has one: a resumed search never trains on its test images."""
    file = config.folder / SPLIT_FILE
    if not file.exists():
        split = make_split(dataset, config.seed, "none" if config.test == "none" else "auto")
        digests = {subset: [dataset.digests[i] for i in getattr(split, subset)] for subset in SUBSETS}
        write_json(file, {"indices": split.to_dict(), "digests": digests})
        return split
    try:
        kept = read_json(file)
        split = Split.from_dict(kept["indices"])
        known = [kept["digests"][subset] for subset in SUBSETS]
        rows = np.concatenate([getattr(split, subset) for subset in SUBSETS])
        if rows.ndim != 1 or rows.min(initial=0) < 0 or len(np.unique(rows)) < len(rows):
            raise ValueError("an image is in two subsets")
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise AutotlError(
            f"{file} is damaged or was made by hand: {type(error).__name__}: {error}. Give the search another --name, "
            f"or delete {config.folder}."
        ) from error
    for subset, digests_then in zip(SUBSETS, known, strict=True):
        indices = getattr(split, subset)
        same = indices.max(initial=-1) < len(dataset) and digests_then == [dataset.digests[i] for i in indices]
        if not same:
            raise ImagesChanged(
                f"The images of study {config.name!r} have changed since it began, and its split with them. "
                f"Give the search another --name, or delete {config.folder}."
            )
    return split


def _freeze_choices(study: optuna.Study, context: Context) -> None:
    """Raises AutotlError where a resumed study would choose from something else than it began with."""
    now: dict = {
        **asdict(context.choices),
        "classes": context.dataset.classes,
        "metric": context.config.metric,
        "seed": context.config.seed,
    }
    now = json.loads(json.dumps(now))
    kept = study.user_attrs.get(StudyAttribute.CHOICES)
    if kept is None:
        study.set_user_attr(StudyAttribute.CHOICES, now)
        return
    differing = [f"{k}: was {escape(kept.get(k))}, is {now[k]}" for k in now if kept.get(k) != now[k]]
    if differing:
        raise AutotlError(
            f"Study {context.config.name!r} can't be resumed with other choices ({'; '.join(differing)}). "
            "Give the search the choices it began with, or add --extend: a new study takes over the trials that fit. "
            "Another --name begins anew."
        )


def _record_versions(study: optuna.Study, now: dict[str, str]) -> list[str]:
    """Record the versions of libraries and plugins; returns a warning where they changed since the study last ran.

    The study's attribute `versions` holds the current ones, `earlier_versions` each former set with the number of the
    first trial that did not run with it.
    """
    kept: dict[str, str] | None = study.user_attrs.get(StudyAttribute.VERSIONS)
    if kept == now:
        return []
    study.set_user_attr(StudyAttribute.VERSIONS, now)
    if kept is None:
        return []
    earlier = study.user_attrs.get(StudyAttribute.EARLIER_VERSIONS, [])
    former = {"until_trial": len(study.trials), "versions": kept}
    study.set_user_attr(StudyAttribute.EARLIER_VERSIONS, [*earlier, former])
    changed = [
        *(
            f"{name} {escape(kept[name])} is now {now[name]}"
            for name in sorted(kept.keys() & now.keys())
            if kept[name] != now[name]
        ),
        *(f"{name} {now[name]} is new" for name in sorted(now.keys() - kept.keys())),
        *(f"{escape(f'{name} {kept[name]}')} is gone" for name in sorted(kept.keys() - now.keys())),
    ]
    return [f"Since the study last ran: {'; '.join(changed)}. The results of trials may change with them."]


def _write_skipped(folder: Path, dataset: ImageDataset) -> None:
    if not dataset.skipped:
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["path", "reason"])
    writer.writerows([csv_cell(str(s.path)), csv_cell(s.reason)] for s in dataset.skipped)
    write_atomically(folder / "skipped.csv", text.getvalue().encode(errors="surrogateescape"))
