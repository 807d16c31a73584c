"""The report of a search, written by the worker that made the model. Whatever fails costs a line of the log."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotl.clock import Deadline
from autotl.events import FinishedSearch
from autotl.model.image_model import ImageModel
from autotl.page.charts import standalone
from autotl.report.heat import heat_maps_within
from autotl.report.held_out import TEST_FILE, HeldOut, save_test
from autotl.report.record import SearchRecord
from autotl.report.write import study_pictures, write_report
from autotl.trial.results import TestPredictions
from autotl.trial.state import WorkerState
from autotl.workers.messages import Activity, Log

__all__ = ["report"]


def report(
    state: WorkerState,
    model: ImageModel,
    result: Mapping[str, Any],
    tested: TestPredictions | None,
    seconds: float,
) -> FinishedSearch:
    """Keep the predictions of the test images, and write `report.html` and the pictures for Optuna Dashboard.

    Args:
        model: of the search, for heat maps.
        result: what `result.json` holds, with the members.
        seconds: that it may take. It is late by what a section takes that does not look at the time; the coordinator
            ends a worker that is much too late, with the model saved.

    Returns:
        All that the search leaves, for plugins.
    """
    context = state.context
    state.send(Activity("writing the report"))
    held_out = None
    if tested is not None:
        images = context.split.test[tested.rows]
        held_out = HeldOut(images, tested.probabilities, tested.features, tested.backbone)
    deadline = Deadline(seconds, state.deadline.clock)
    record = SearchRecord(
        context.folder,
        context.config,
        state.registry,
        state.study,
        result,
        context.dataset,
        context.split,
        held_out,
        deadline,
        cache=state.extractor.store.root.parent,
        heat_maps=heat_maps_within(lambda: model, deadline),
    )
    file: Path | None = None
    try:
        if held_out is not None:
            save_test(context.folder, held_out, context.dataset.digests)
            state.publish(TEST_FILE)
        file = write_report(record, lambda line: state.send(Log(line)))
        state.publish(file.name)
        for name, figure in study_pictures(record).items():
            state.upload_picture(None, f"{name}.svg", standalone(figure.svg))
    except Exception as error:
        traceback.print_exc()
        state.send(Log(f"The report could not be written: {type(error).__name__}: {error}"[:500]))
    return FinishedSearch(
        context.folder,
        result,
        context.config.data,
        context.dataset,
        context.split,
        held_out,
        record.validated,
        file,
    )
