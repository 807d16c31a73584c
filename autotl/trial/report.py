"""The report of a search, written by the worker that made the model. Whatever fails costs a line of the log."""

import traceback
from collections.abc import Mapping
from typing import Any

from autotl.clock import Deadline
from autotl.report.held_out import HeldOut, save_test
from autotl.report.record import SearchRecord
from autotl.report.write import write_report
from autotl.trial.results import TestPredictions
from autotl.trial.state import WorkerState
from autotl.workers.messages import Activity, Log

__all__ = ["report"]


def report(state: WorkerState, result: Mapping[str, Any], tested: TestPredictions | None, seconds: float) -> str | None:
    """Keep the predictions of the test images, and write `report.html`; returns its path, None where that failed.

    Args:
        result: what `result.json` holds, with the members.
        seconds: that it may take. It is late by what a section takes that does not look at the time; the coordinator
            ends a worker that is much too late, with the model saved.
    """
    context = state.context
    state.send(Activity("writing the report"))
    try:
        held_out = None
        if tested is not None:
            images = context.split.test[tested.rows]
            held_out = HeldOut(images, tested.probabilities, tested.features, tested.backbone)
            save_test(context.folder, held_out, context.dataset.digests)
        record = SearchRecord(
            context.folder,
            context.config,
            state.registry,
            state.study,
            result,
            context.dataset,
            context.split,
            held_out,
            Deadline(seconds, state.deadline.clock),
            cache=state.extractor.store.root.parent,
        )
        return str(write_report(record, lambda line: state.send(Log(line))))
    except Exception as error:
        traceback.print_exc()
        state.send(Log(f"The report could not be written: {type(error).__name__}: {error}"[:500]))
        return None
