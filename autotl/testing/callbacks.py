"""The requirements of a callback, tested with the events of a short search."""

import dataclasses
import re
import tempfile
from pathlib import Path

from autotl.events import Callback, EpochEnded, SearchFinished, SearchStarted, TrialFinished, TrialStarted
from autotl.testing.check import Checks, expect

__all__ = ["CALLBACK"]

CALLBACK = Checks("callback", Callback)

RESULT = {
    "study": "photos",
    "metric": "accuracy",
    "classes": ["cat", "dog"],
    "images": {"train": 60, "validation": 20, "test": 20, "skipped": 0},
    "trials": {"complete": 1, "pruned": 0, "failed": 1},
    "best": {"number": 0, "recipe": {}, "validation": 0.75},
    "test": {"accuracy": 0.7, "n": 20},
    "baseline": {"accuracy": 0.5, "n": 20},
    "seconds": 60.0,
    "versions": {},
    "leaderboard": [],
    "members": [],
}


@CALLBACK.requires(Callback)
def has_a_name_of_its_own(callback: Callback) -> None:
    """A callback's name consists of letters, digits, _, - and ., and is not the base class's."""
    name = callback.name
    expect(isinstance(name, str) and re.fullmatch(r"[\w.-]+", name), f"name is {name!r}")
    expect(name != Callback.name, f"name is {name!r}: give it one of its own")


@CALLBACK.requires(Callback)
def listens_to_a_whole_search(callback: Callback) -> None:
    """The methods accept the events of a search with a complete and a failed trial, in their order, and return True,
    False or None."""
    with tempfile.TemporaryDirectory() as folder:
        for method, event in _events(Path(folder)):
            answer = getattr(callback, method)(event)
            expect(answer is None or isinstance(answer, bool), f"{method} returned {answer!r}")


@CALLBACK.requires(Callback)
def listens_to_a_second_search(callback: Callback) -> None:
    """One callback object serves several searches in one process, one after the other."""
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            for method, event in _events(Path(folder)):
                getattr(callback, method)(event)


@CALLBACK.requires(Callback)
def leaves_events_unchanged(callback: Callback) -> None:
    """A callback does not change the mappings inside of an event, which other callbacks get too."""
    with tempfile.TemporaryDirectory() as folder:
        for method, event in _events(Path(folder)):
            before = dataclasses.asdict(event)  # a deep copy
            getattr(callback, method)(event)
            expect(dataclasses.asdict(event) == before, f"{method} changed its event")


def _events(
    folder: Path,
) -> list[tuple[str, SearchStarted | TrialStarted | EpochEnded | TrialFinished | SearchFinished]]:
    """The events of a short search, each with the method that it is passed to."""
    trial = ("fast_extraction", "resnet18", "linear", "resnet18 · fast_extraction · linear")
    strategy, backbone, head, description = trial
    complete = TrialFinished(
        number=0,
        state="complete",
        value=0.75,
        strategy=strategy,
        backbone=backbone,
        head=head,
        description=description,
        seconds=1.5,
        is_best=True,
    )
    return [
        (
            "on_search_started",
            SearchStarted(
                study="photos",
                folder=folder,
                data="photos/",
                classes=("cat", "dog"),
                images={"train": 60, "validation": 20, "test": 20, "skipped": 0},
                metric="accuracy",
                devices=("cpu:0",),
                backbones=("resnet18",),
            ),
        ),
        ("on_trial_started", TrialStarted(0, "cpu:0", *trial)),
        ("on_epoch_ended", EpochEnded(0, 0.5, 0.7)),
        ("on_trial_finished", complete),
        ("on_trial_started", TrialStarted(1, "cpu:0", *trial)),
        ("on_trial_finished", TrialFinished(number=1, state="failed", value=None, cause="RuntimeError: example")),
        ("on_search_finished", SearchFinished(RESULT | {"model": str(folder / "model")}, folder)),
    ]
