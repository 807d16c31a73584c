"""The renderables of a search: what they show, and their widths and heights."""

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from autotl.ui.progress import WorkerLine
from autotl.ui.rendering import Screen, format_clock, format_duration, headline_table, shorten, worker_text
from autotl.ui.summary import summary

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from example_search import FAILED, FINISHED, IDLE, PRUNED, RESULT, SCORES, SHORT, SNAPSHOT, STARTED, TRAINING


def drawn(renderable: RenderableType, width: int, height: int = 50) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize(
    "what", ["screen", "before the first trial", "headline", "summary", "summary without test images"]
)
def test_nothing_is_wider_than_the_console(what: str, width: int) -> None:
    early = replace(SNAPSHOT, time_left=None, trials_left=None, best=None, recent=(), images_per_second=None)
    renderable = {
        "screen": Screen(SNAPSHOT, "balanced_accuracy"),
        "before the first trial": Screen(early, "accuracy"),
        "headline": headline_table(STARTED, width),
        "summary": summary(RESULT, width),
        "summary without test images": summary(RESULT | {"test": None}, width),
    }[what]
    assert max(cell_len(line) for line in drawn(renderable, width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "text",
    [
        "2:29 left of 5:00",
        "66 left of 100",
        "21 finished · 12 pruned · 1 failed",
        "473 images/s",
        "0.8843",
        "trial 34",
        "epoch 2/8",
        "812/1574 images",
        "waiting",
        "#33",
        "extract_augment",
        "RuntimeError",
    ],
)
def test_the_screen_shows(text: str, width: int) -> None:
    assert text in drawn(Screen(SNAPSHOT, "accuracy"), width)


def test_the_screen_keeps_its_height_while_trials_come_and_go() -> None:
    later = replace(SNAPSHOT, seconds=152.0, images_per_second=None, recent=(FAILED, FINISHED, PRUNED), pruned=13)
    heights = {drawn(Screen(s, "accuracy"), 80).count("\n") for s in (SNAPSHOT, later)}
    assert len(heights) == 1


def test_the_screen_fits_a_low_terminal_with_many_workers() -> None:
    workers = tuple(WorkerLine(f"cuda:{i}", i, SHORT, "", 1.0) for i in range(16))
    recent = tuple(replace(PRUNED, number=i) for i in range(6))
    assert drawn(Screen(replace(SNAPSHOT, workers=workers, recent=recent), "accuracy"), 80, 24).count("\n") <= 24


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "text",
    [
        "63 trials in 4:57",
        "0.8743",
        "0.8765",
        "0.6891",
        "majority class",
        "3 trials combined",
        "autotl predict studies/cells/model IMAGES",
        "balanced accuracy",
        "dihedral",
    ],
)
def test_the_summary_shows(text: str, width: int) -> None:
    assert text in drawn(summary(RESULT, width), width)


@pytest.mark.parametrize(("n", "reason"), [(0, "There are no test images"), (9, "The test images were not predicted")])
def test_without_a_test_score_the_validation_score_is_called_optimistic(n: int, reason: str) -> None:
    untested = RESULT | {"test": None, "baseline": None, "images": {"test": n}}
    assert f"{reason}: the validation score is optimistic" in drawn(summary(untested, 120), 120)


def test_the_summary_shows_a_path_below_the_current_folder_as_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    below = drawn(summary(RESULT | {"model": str(tmp_path / "studies" / "cells" / "model")}, 120), 120)
    assert "autotl predict studies/cells/model IMAGES" in below
    assert "autotl predict /elsewhere/model IMAGES" in drawn(summary(RESULT | {"model": "/elsewhere/model"}, 120), 120)


def test_a_worker_that_is_too_long_loses_parameters_first_and_its_activity_last() -> None:
    worker = replace(TRAINING, description=SHORT)
    assert worker_text(worker, 200) == f"trial 37 · {SHORT} · epoch 2/8"
    assert worker_text(worker, 70) == "trial 37 · efficientnet_lite0 · fast_extraction · rbf_svm · epoch 2/8"
    assert worker_text(worker, 40).endswith("… · epoch 2/8")
    assert worker_text(IDLE, 40) == "waiting"
    assert shorten("a" * 50, 10, "b" * 8) == "a" * 9 + "…"


def test_separators_inside_of_names_move_no_column() -> None:
    odd = replace(PRUNED, number=40, backbone="my · net", strategy="fast · er", head="head · (v2)")
    lines = drawn(Screen(replace(SNAPSHOT, recent=(odd, replace(PRUNED, number=41))), "accuracy"), 100).splitlines()
    first, second = (next(line for line in lines if f"#{number}" in line) for number in (40, 41))
    assert first.index("fast · er") == second.index("fast_extraction")
    assert first.index("head · (v2)") == second.index("rbf_svm")


@pytest.mark.parametrize("width", [80, 120])
def test_markup_in_names_is_shown_and_not_interpreted(width: int) -> None:
    name = "[red]x[/red][/]"
    trial = replace(FINISHED, backbone=name, strategy=name, head=name, description=name)
    snapshot = replace(SNAPSHOT, best=trial, recent=(trial,), workers=(WorkerLine("w[/]", 1, name, name, 1.0),))
    started = replace(STARTED, study=name, metric=name, classes=(name,), backbones=(name,), devices=(name,))
    row = RESULT["leaderboard"][0] | {"backbone": name, "strategy": name, "head": name, "description": name}
    result = RESULT | {"study": name, "metric": "[b]f1", "leaderboard": [row], "test": SCORES | {"f[/]": 0.5}}
    for renderable in (Screen(snapshot, name), headline_table(replace(started, warnings=(name,))), summary(result)):
        assert "[/]" in drawn(renderable, width)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_clocks(seconds: float, text: str) -> None:
    assert format_clock(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1:00"), (750, "12:30")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
