"""A search on backbones that arrive while it runs."""

import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from optuna.trial import TrialState
from safetensors.torch import save

from autotl.api import search
from autotl.backbones.weights import fetch
from autotl.errors import AutotlError
from autotl.events import TrialFinished
from autotl.ui.progress import Progress

sys.path.insert(0, str(Path(__file__).parents[1]))
from local_hub import LocalHub, local_hub  # noqa: F401  # a fixture

pytestmark = pytest.mark.slow

FIRST, LATER = "test_resnet.r160_in1k", "test_vit.r160_in1k"
OPTIONS = {
    "strategies": ["fast_extraction"],
    "heads": ["logistic_regression", "linear"],
    "devices": "cpu",
    "engine": "torch",  # it converts nothing
    "test": "none",
}


class Recorder(Progress):
    """Keeps the lines, and when each came."""

    def __init__(self, last: str = "") -> None:
        self.last = last
        """A trial of this backbone ends the search."""
        self.lines: list[str] = []
        self.downloads: list[str] = []

    def on_trial_finished(self, event: TrialFinished) -> bool:
        return bool(self.last) and event.state == "complete" and event.description.startswith(self.last)

    def log(self, line: str) -> None:
        self.lines.append(line)

    def update(self, snapshot) -> None:
        self.downloads += [worker.activity for worker in snapshot.workers if worker.name == "download"]


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:  # noqa: F811
    for name in (FIRST, LATER):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            local_hub.add(f"timm/{name}", save(timm.create_model(name).state_dict()))
    return local_hub


def backbones_of(study) -> set[str]:
    return {trial.params["backbone"] for trial in study.trials if trial.state == TrialState.COMPLETE}


def test_a_backbone_joins_the_search_once_its_weights_are_here(hub: LocalHub, cells: Path, tmp_path: Path) -> None:
    fetch(f"timm/{FIRST}")
    entry = hub.entries[f"timm/{LATER}", "model.safetensors"]
    entry.bytes_per_second = len(entry.content) / 8
    progress = Recorder(last=LATER)
    result = search(str(cells), output=tmp_path, backbones=[LATER, FIRST], time=120, progress=progress, **OPTIONS)
    assert result.study.user_attrs["choices"]["backbones"] == [FIRST, LATER]
    assert backbones_of(result.study) == {FIRST, LATER}
    order = [trial.params["backbone"] for trial in result.study.trials if trial.params]
    assert order[0] == FIRST
    assert len(hub.downloads(f"timm/{LATER}")) == 1  # one process, for the search and all of its workers
    assert f"{LATER}: its weights have arrived" in progress.lines
    assert progress.downloads
    # the same command again: the weights are all here now, and the study goes on with its own order
    again = search(str(cells), output=tmp_path, backbones=[LATER, FIRST], trials=1, progress=progress, **OPTIONS)
    assert len(again.study.trials) > len(result.study.trials) - 1


def test_a_search_goes_on_without_a_backbone_that_cannot_be_had(hub: LocalHub, cells: Path, tmp_path: Path) -> None:
    fetch(f"timm/{FIRST}")
    hub.entries[f"timm/{LATER}", "model.safetensors"].damaged = True
    progress = Recorder()
    result = search(
        str(cells), output=tmp_path, backbones=[LATER, FIRST], time=120, trials=4, progress=progress, **OPTIONS
    )
    assert backbones_of(result.study) == {FIRST}
    assert not [trial for trial in result.study.trials if trial.state == TrialState.FAIL]
    (line,) = [line for line in progress.lines if "left out" in line]
    assert "the file that arrived is damaged" in line


def test_without_a_network_a_search_goes_on_with_what_is_here(hub: LocalHub, cells: Path, tmp_path: Path) -> None:
    fetch(f"timm/{FIRST}")
    hub.close()
    progress = Recorder()
    result = search(
        str(cells), output=tmp_path, backbones=[LATER, FIRST], time=120, trials=4, progress=progress, **OPTIONS
    )
    assert backbones_of(result.study) == {FIRST}
    (line,) = [line for line in progress.lines if "left out" in line]
    assert f"{hub.endpoint} can't be reached" in line


def test_a_search_that_may_download_nothing_and_has_nothing_ends_at_once(
    hub: LocalHub, cells: Path, tmp_path: Path
) -> None:
    began = time.monotonic()
    with pytest.raises(AutotlError, match="--download never forbids the download"):
        search(str(cells), output=tmp_path, backbones=[LATER], time=30, download="never", **OPTIONS)
    assert time.monotonic() - began < 20
    assert hub.requests == []
