"""What a terminal, a log and a script see of a search."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from autotl.errors import AutotlError
from autotl.ui.progress import Snapshot, TrialLine, WorkerLine
from autotl.ui.rendering import Screen, clock, headline_table, shorten, summary, took
from autotl.ui.reporters import (
    JsonProgress,
    LiveProgress,
    Picture,
    PlainProgress,
    QuietProgress,
    choose_progress,
)

LONG = (
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k · extract_augment (policy dihedral, views 8, levels stages_max, "
    "mixup 0.2) · hist_gradient_boosting (learning_rate 0.1, iterations 200, leaves 31, l2 0.001)"
)
SHORT = "efficientnet_lite0 · fast_extraction (levels last) · rbf_svm (C 12.3)"
FINISHED = TrialLine(34, "complete", 0.8843, LONG, 64.0)
FAILED = TrialLine(33, "failed", None, SHORT, 1.0, "RuntimeError: out of memory: tried to allocate 12 GiB\nand more")
PRUNED = TrialLine(32, "pruned", None, SHORT, 11.0)
SNAPSHOT = Snapshot(
    seconds=151.0,
    seconds_left=149.0,
    complete=21,
    pruned=12,
    failed=1,
    trials_left=66,
    workers=(
        WorkerLine("cpu:0", f"trial 37 · {LONG} · epoch 2/8", 12.3),
        WorkerLine("cuda:1", "trial 38 · efficientnet_lite2 · recording features 812/1,574", 3.1),
    ),
    best=FINISHED,
    recent=(PRUNED, FAILED, FINISHED),
    images_per_second=473.2,
)
HEADLINE: dict[str, Any] = {
    "study": "太陽電池",
    "folder": "studies/cells",
    "data": "cells",
    "classes": [f"class number {i}" for i in range(40)],
    "images": {"train": 1574, "validation": 394, "test": 656, "skipped": 2},
    "metric": "balanced_accuracy",
    "devices": ["cpu:0", "cuda:1"],
    "backbones": ["efficientnet_lite0"],
    "warnings": ["3 images lie in both train and test (same bytes): the copies in train were left out"],
}
SCORES = {"accuracy": 0.8765, "balanced_accuracy": 0.86, "macro_f1": 0.85, "log_loss": 0.31, "n": 656}
RESULT: dict[str, Any] = {
    "study": "cells",
    "metric": "balanced_accuracy",
    "classes": HEADLINE["classes"],
    "images": HEADLINE["images"],
    "trials": {"complete": 41, "pruned": 20, "failed": 2},
    "best": {"number": 34, "recipe": {}, "validation": 0.8843},
    "test": SCORES,
    "baseline": SCORES | {"accuracy": 0.6891},
    "seconds": 297.4,
    "versions": {},
    "leaderboard": [
        {
            "rank": rank,
            "trial": 33 + rank,
            "value": 0.8843 - rank / 100,
            "backbone": LONG.split(" · ")[0],
            "strategy": "extract_augment",
            "head": "hist_gradient_boosting",
            "description": LONG,
            "seconds": 64.0,
        }
        for rank in range(1, 20)
    ],
    "members": [34, 31, 12],
    "model": "studies/cells/model",
    "predict": "autotl predict studies/cells/model IMAGES",
}


def drawn(thing: RenderableType, width: int, height: int = 50) -> str:
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize(
    "what", ["screen", "before the first trial", "headline", "summary", "summary without test images"]
)
def test_nothing_is_wider_than_the_console(what: str, width: int) -> None:
    early = replace(SNAPSHOT, seconds_left=None, trials_left=None, best=None, recent=(), images_per_second=None)
    thing = {
        "screen": Screen(SNAPSHOT, "balanced_accuracy"),
        "before the first trial": Screen(early, "accuracy"),
        "headline": headline_table(HEADLINE, width),
        "summary": summary(RESULT, width),
        "summary without test images": summary(RESULT | {"test": None}, width),
    }[what]
    assert max(cell_len(line) for line in drawn(thing, width).splitlines()) <= width


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "said",
    [
        "2:29 left of 5:00",
        "66 left of 100",
        "21 finished · 12 pruned · 1 failed",
        "473 images/s",
        "0.8843",
        "trial 34",
        "epoch 2/8",
        "812/1,574",
        "#33",
        "extract_augment",
        "RuntimeError",
    ],
)
def test_the_screen_says(said: str, width: int) -> None:
    assert said in drawn(Screen(SNAPSHOT, "accuracy"), width)


def test_the_screen_keeps_its_height_while_trials_come_and_go() -> None:
    later = replace(SNAPSHOT, seconds=152.0, images_per_second=None, recent=(FAILED, FINISHED, PRUNED), pruned=13)
    heights = {drawn(Screen(s, "accuracy"), 80).count("\n") for s in (SNAPSHOT, later)}
    assert len(heights) == 1


def test_the_screen_fits_a_low_terminal_with_many_workers() -> None:
    workers = tuple(WorkerLine(f"cuda:{i}", f"trial {i}", 1.0) for i in range(16))
    recent = tuple(replace(PRUNED, number=i) for i in range(6))
    assert drawn(Screen(replace(SNAPSHOT, workers=workers, recent=recent), "accuracy"), 80, 24).count("\n") <= 24


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "said",
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
def test_the_summary_says(said: str, width: int) -> None:
    assert said in drawn(summary(RESULT, width), width)


@pytest.mark.parametrize(("n", "why"), [(0, "There are no test images"), (9, "The test images weren't looked at")])
def test_without_a_test_score_the_validation_score_is_called_optimistic(n: int, why: str) -> None:
    untested = RESULT | {"test": None, "baseline": None, "images": {"test": n}}
    assert f"{why}: the validation score is optimistic" in drawn(summary(untested, 120), 120)


def test_what_is_too_long_loses_its_parameters_first_and_its_end_never() -> None:
    doing = f"trial 37 · {SHORT} · epoch 2/8"
    assert shorten(doing, 200) == doing
    assert shorten(doing, 70) == "trial 37 · efficientnet_lite0 · fast_extraction · rbf_svm · epoch 2/8"
    assert shorten(doing, 40).endswith("… · epoch 2/8")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_the_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def told(progress: Any) -> None:
    progress.begin(HEADLINE)
    progress.update(SNAPSHOT)
    progress.trial(FINISHED, True)
    progress.trial(FAILED, False)
    progress.say("stopped by Ctrl-C")
    progress.end(RESULT | {"best": {"number": 34, "recipe": {}, "validation": float("nan")}})


def test_json_is_one_object_a_line_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    told(JsonProgress())
    lines = [
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
        for line in capsys.readouterr().out.splitlines()
    ]
    assert [line["event"] for line in lines] == ["begin", "progress", "trial", "trial", "message", "end"]
    assert lines[2] == {
        "event": "trial",
        "number": 34,
        "state": "complete",
        "value": 0.8843,
        "description": LONG,
        "seconds": 64.0,
        "note": "",
        "best": True,
    }
    assert lines[-1]["best"]["validation"] is None


def test_json_tells_progress_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    progress = JsonProgress()
    for _ in range(5):
        progress.update(SNAPSHOT)
    assert capsys.readouterr().out.count("\n") == 1


def test_quiet_prints_the_model_alone(capsys: pytest.CaptureFixture[str]) -> None:
    told(QuietProgress())
    assert capsys.readouterr().out == "studies/cells/model\n"


def test_a_log_has_no_control_codes_and_every_trial(capsys: pytest.CaptureFixture[str]) -> None:
    told(PlainProgress())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "trial 34: balanced_accuracy 0.8843 (best so far) in 1:04" in out
    assert "trial 33: failed in 1.0 s" in out
    assert "RuntimeError: out of memory" in out
    assert "stopped by Ctrl-C" in out


def test_a_log_tells_how_it_stands_every_while_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = PlainProgress()
    progress.begin(HEADLINE)
    capsys.readouterr()
    progress.update(SNAPSHOT)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "every", 0.0)
    progress.update(SNAPSHOT)
    assert "21 finished · 12 pruned · 1 failed · best 0.8843 (trial 34) · 2:29 left" in capsys.readouterr().out


def test_live_leaves_the_summary_and_the_cursor() -> None:
    file = io.StringIO()
    told(LiveProgress(Console(file=file, width=80, height=40, force_terminal=True)))
    out = file.getvalue()
    assert "autotl predict" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l"), "the cursor is hidden and not shown again"


def test_live_keeps_a_failures_cause_on_the_screen() -> None:
    file = io.StringIO()
    told(LiveProgress(Console(file=file, width=80, height=40, force_terminal=True, color_system=None)))
    assert "trial 33 failed: RuntimeError: out of memory" in file.getvalue()


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ({"quiet": True}, QuietProgress),
        ({"as_json": True}, JsonProgress),
        ({"console": Console(file=io.StringIO())}, PlainProgress),
        ({"console": Console(file=io.StringIO(), force_terminal=True)}, LiveProgress),
    ],
)
def test_the_console_decides_what_is_shown(how: dict[str, Any], kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert type(choose_progress(**how)) is kind


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_progress(console=Console(file=io.StringIO(), force_terminal=True)), PlainProgress)


def test_a_picture_shows_the_last_busy_moment_and_the_summary(tmp_path: Path) -> None:
    picture = Picture(QuietProgress(), tmp_path / "run.svg")
    picture.begin(HEADLINE)
    picture.update(SNAPSHOT)
    picture.update(replace(SNAPSHOT, workers=(WorkerLine("cpu:0", "idle", 1.0),)))
    picture.end(RESULT)
    text = (tmp_path / "run.svg").read_text().replace("&#160;", " ")
    assert text.startswith("<svg")
    assert "epoch 2/8" in text
    assert "autotl predict studies/cells/model IMAGES" in text


def test_a_picture_without_a_folder_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="there is no folder"):
        choose_progress(picture=tmp_path / "nowhere" / "run.svg")


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1:00"), (750, "12:30")])
def test_what_a_trial_took(seconds: float, text: str) -> None:
    assert took(seconds) == text
