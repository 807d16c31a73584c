"""The last thing of a search, if there is time: what lets `autotl predict` of its model start quickly."""

import traceback

import numpy as np

from autotl.model.exporting import write_quick_graph
from autotl.model.image_model import ImageModel
from autotl.trial.state import WorkerState
from autotl.workers.messages import Activity

__all__ = ["quick_start"]

SECONDS = 8.0
"""For a network: to trace it, convert it, and compare it with the model on a few images."""
CHECKED = 8
"""Images on which the graph is compared with the model."""


def quick_start(state: WorkerState, model: ImageModel, seconds: float) -> bool:
    """Write the graph of the saved model into the user's cache, if that takes no more than `seconds`. Whatever fails
    costs a start of `autotl predict` that is as slow as without it, and lines in the worker's log."""
    if seconds < SECONDS * len({key for member in model.members for key in member.network_keys}):
        return False
    state.send(Activity("preparing a quick start"))
    paths = state.context.dataset.paths
    chosen = np.random.default_rng(0).permutation(len(paths))[:CHECKED]
    try:
        return write_quick_graph(model, state.context.folder / "model", [paths[i] for i in chosen])
    except Exception:  # a library's exporter raises nearly any exception
        traceback.print_exc()
        return False
