"""`autotl report`: the report of a study's folder, also while its search runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from autotl.atomic_io import read_json, refuse_links_out
from autotl.clock import Deadline
from autotl.config import StudyConfig, study_config
from autotl.coordinator.join import search_runs
from autotl.coordinator.setup import SPLIT_FILE, kept_config, study_split
from autotl.data.dataset import ImageDataset
from autotl.data.loading import load_dataset
from autotl.data.splits import Split
from autotl.errors import AutotlError
from autotl.model.image_model import load
from autotl.model.manifest import read_member_manifest, read_model_manifest
from autotl.recipe import Recipe
from autotl.registry import Registry, load_registry
from autotl.report.heat import heat_maps_within
from autotl.report.held_out import load_test
from autotl.report.record import SearchRecord
from autotl.report.write import REPORT_FILE, write_report
from autotl.study.study import load_study

__all__ = ["record_of", "report_study"]

MAX_SECONDS = 60.0
"""What a report may take that was asked for: nobody waits for a model."""


def report_study(
    folder: Path, *, data: str | None = None, test: str | None = None, log: Callable[[str], None] = lambda line: None
) -> Path:
    """Write `report.html` of a study, and return its path.

    Args:
        data: where the study's images are now; None where they were.
        test: where its separate test images are now; None where they were.
        log: shows a line to the user.

    Raises:
        AutotlError: the study can't be read; or its images can't, and there is a report that has them.
    """
    record = record_of(folder, data=data, test=test, log=log)
    if record.dataset is None and not record.running and (folder / REPORT_FILE).is_file():
        raise AutotlError(
            f"The report that the search wrote is kept, since a new one would lack the images: {folder / REPORT_FILE}"
        )
    return write_report(record, log)


def record_of(
    folder: Path, *, data: str | None = None, test: str | None = None, log: Callable[[str], None] = lambda line: None
) -> SearchRecord:
    """What is known about a study, from its folder and its images. Raises AutotlError where the study can't be read."""
    refuse_links_out(folder)
    config = study_config(kept_config(folder), data=data, test=test)  # a place that was typed is trusted
    registry = load_registry(config.without_plugins, strict=config.strict_plugins)
    study = load_study(config.folder, config.seed)
    dataset, split = _images(config, registry, log)
    tested = None
    if dataset is not None and split is not None:
        tested = load_test(config.folder, dataset.digests, split.test, len(dataset.classes))
    deadline, running = Deadline(MAX_SECONDS), search_runs(folder)
    result = None if running else _result(config.folder)
    model = config.folder / "model"
    heat_maps = heat_maps_within(lambda: load(model, registry=registry), deadline) if result else None
    return SearchRecord(
        config.folder,
        config,
        registry,
        study,
        result,
        dataset,
        split,
        tested,
        deadline,
        running=running,
        heat_maps=heat_maps,
    )


def _images(
    config: StudyConfig, registry: Registry, log: Callable[[str], None]
) -> tuple[ImageDataset, Split] | tuple[None, None]:
    """The study's images and their split; (None, None) where they are gone or have changed, with a line."""
    if not (config.folder / SPLIT_FILE).is_file():
        return None, None
    try:
        dataset = load_dataset(
            config.data,
            registry.datasets,
            test=None if config.test == "none" else config.test,
            cache=config.cache / "digests",
            confined=config.untrusted,
        )
        return dataset, study_split(config, dataset)
    except AutotlError as error:
        log(f"{error} Where the images have moved: --data FOLDER")
        return None, None


def _result(folder: Path) -> dict[str, Any] | None:
    """What `result.json` holds, with the members of the model; None where there is no whole model."""
    try:
        result = read_json(folder / "result.json")
        manifest = read_model_manifest(folder / "model")
        pages = [read_member_manifest(folder / "model" / "members" / str(i)) for i in range(manifest.members)]
        members = [
            {
                "trial": page.trial,
                "weight": page.weight,
                "description": Recipe.from_dict(page.recipe.model_dump()).describe(),
            }
            for page in pages
        ]
        return {**result, "members": members}
    except (AutotlError, OSError, ValueError, TypeError):
        return None
