"""What a terminal, a notebook, a log and a script see of a search."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from autotl.errors import AutotlError
from autotl.events import SearchFinished, SearchStarted, TrialFinished
from autotl.ui.progress import Progress, Snapshot, WorkerLine
from autotl.ui.rendering import Screen, format_clock, format_duration, headline_table, shorten, summary, worker_text
from autotl.ui.reporters import (
    JsonReporter,
    LiveReporter,
    NotebookReporter,
    PictureReporter,
    PlainReporter,
    QuietReporter,
    choose_progress,
    default_progress,
)

LONG = (
    "vit_base_patch16_clip_224.laion2b_ft_in12k_in1k · extract_augment (policy dihedral, views 8, levels stages_max, "
    "mixup 0.2) · hist_gradient_boosting (learning_rate 0.1, iterations 200, leaves 31, l2 0.001)"
)
SHORT = "efficientnet_lite0 · fast_extraction (levels last) · rbf_svm (C 12.3)"
FINISHED = TrialFinished(
    number=34,
    state="complete",
    value=0.8843,
    strategy="extract_augment",
    backbone="vit_base_patch16_clip_224.laion2b_ft_in12k_in1k",
    head="hist_gradient_boosting",
    description=LONG,
    seconds=64.0,
    is_best=True,
)
FAILED = TrialFinished(
    number=33,
    state="failed",
    value=None,
    strategy="fast_extraction",
    backbone="efficientnet_lite0",
    head="rbf_svm",
    description=SHORT,
    seconds=1.0,
    cause="RuntimeError: out of memory: tried to allocate 12 GiB\nand more",
)
PRUNED = replace(FAILED, number=32, state="pruned", seconds=11.0, cause="")
TRAINING = WorkerLine("cpu:0", 37, LONG, "epoch 2/8", 12.3)
EXTRACTING = WorkerLine("cuda:1", 38, SHORT, "efficientnet_lite0: 812/1574 images", 3.1)
IDLE = WorkerLine("cuda:2", None, "", "waiting", 1.0)
SNAPSHOT = Snapshot(
    seconds=151.0,
    time_left=149.0,
    complete=21,
    pruned=12,
    failed=1,
    trials_left=66,
    workers=(TRAINING, EXTRACTING, IDLE),
    best=FINISHED,
    recent=(PRUNED, FAILED, FINISHED),
    images_per_second=473.2,
)
STARTED = SearchStarted(
    study="太陽電池",
    folder=Path("studies/cells"),
    data="cells",
    classes=tuple(f"class number {i}" for i in range(40)),
    images={"train": 1574, "validation": 394, "test": 656, "skipped": 2},
    metric="balanced_accuracy",
    devices=("cpu:0", "cuda:1"),
    backbones=("efficientnet_lite0",),
    warnings=("3 images lie in both train and test (same bytes): the copies in train were left out",),
)
SCORES = {"accuracy": 0.8765, "balanced_accuracy": 0.86, "macro_f1": 0.85, "log_loss": 0.31, "n": 656}
RESULT: dict[str, Any] = {
    "study": "cells",
    "metric": "balanced_accuracy",
    "classes": list(STARTED.classes),
    "images": dict(STARTED.images),
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
            "backbone": FINISHED.backbone,
            "strategy": FINISHED.strategy,
            "head": FINISHED.head,
            "description": LONG,
            "seconds": 64.0,
        }
        for rank in range(1, 20)
    ],
    "members": [34, 31, 12],
    "model": "studies/cells/model",
}


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


def test_a_worker_that_is_too_long_loses_parameters_first_and_its_activity_last() -> None:
    worker = replace(TRAINING, description=SHORT)
    assert worker_text(worker, 200) == f"trial 37 · {SHORT} · epoch 2/8"
    assert worker_text(worker, 70) == "trial 37 · efficientnet_lite0 · fast_extraction · rbf_svm · epoch 2/8"
    assert worker_text(worker, 40).endswith("… · epoch 2/8")
    assert worker_text(IDLE, 40) == "waiting"
    assert shorten("a" * 50, 10, "b" * 8) == "a" * 9 + "…"


@pytest.mark.parametrize("width", [80, 120])
def test_text_between_separators_in_names_moves_no_column(width: int) -> None:
    odd = replace(PRUNED, number=40, backbone="my · net", strategy="fast · er", head="head · (v2)", description="d")
    lines = drawn(Screen(replace(SNAPSHOT, recent=(odd,)), "accuracy"), width).splitlines()
    (line,) = [line for line in lines if "#40" in line]
    assert ("my · net" in line and "head · (v2)" in line) if width == 80 else "d" in line


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


def replay(progress: Progress, result: dict[str, Any] = RESULT) -> None:
    """The calls of a short search."""
    progress.on_search_started(STARTED)
    progress.update(SNAPSHOT)
    progress.on_trial_finished(FINISHED)
    progress.on_trial_finished(FAILED)
    progress.log("stopped by Ctrl-C")
    progress.on_search_finished(SearchFinished(result, Path("studies/cells")))


def test_json_is_one_object_a_line_without_nan(capsys: pytest.CaptureFixture[str]) -> None:
    replay(JsonReporter(), RESULT | {"best": {"number": 34, "recipe": {}, "validation": float("nan")}})
    lines = [
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
        for line in capsys.readouterr().out.splitlines()
    ]
    assert [line["event"] for line in lines] == [
        *("search_started", "progress", "trial_finished", "trial_finished", "log", "search_finished")
    ]
    assert lines[0]["study"] == "太陽電池"
    assert lines[0]["folder"] == "studies/cells"
    assert lines[1]["workers"][2] == {
        **{"name": "cuda:2", "trial": None, "description": "", "activity": "waiting", "seconds": 1.0}
    }
    assert lines[1]["time_left"] == 149.0
    assert lines[2] == {
        "event": "trial_finished",
        "number": 34,
        "state": "complete",
        "value": 0.8843,
        "strategy": "extract_augment",
        "backbone": FINISHED.backbone,
        "head": "hist_gradient_boosting",
        "description": LONG,
        "seconds": 64.0,
        "cause": "",
        "is_best": True,
    }
    assert lines[4] == {"event": "log", "text": "stopped by Ctrl-C"}
    assert lines[-1]["best"]["validation"] is None


def test_json_shows_progress_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    progress = JsonReporter()
    for _ in range(5):
        progress.update(SNAPSHOT)
    assert capsys.readouterr().out.count("\n") == 1


def test_json_is_ascii_so_that_any_terminal_can_encode_it(capsys: pytest.CaptureFixture[str]) -> None:
    JsonReporter().on_search_started(replace(STARTED, data="fotos/mañana \udcff"))
    assert capsys.readouterr().out.isascii()


def test_quiet_prints_the_models_folder_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    replay(QuietReporter())
    assert capsys.readouterr().out == "studies/cells/model\n"


def test_a_log_has_no_control_codes_and_every_trial(capsys: pytest.CaptureFixture[str]) -> None:
    replay(PlainReporter())
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "trial 34: balanced_accuracy 0.8843 (best so far) in 1:04" in out
    assert "trial 33: failed in 1.0 s" in out
    assert "RuntimeError: out of memory" in out
    assert "stopped by Ctrl-C" in out


def test_a_log_has_a_line_of_progress_every_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = PlainReporter()
    progress.on_search_started(STARTED)
    capsys.readouterr()
    progress.update(SNAPSHOT)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "interval", 0.0)
    progress.update(SNAPSHOT)
    assert "21 finished · 12 pruned · 1 failed · best 0.8843 (trial 34) · 2:29 left" in capsys.readouterr().out


def test_live_leaves_the_summary_and_the_cursor() -> None:
    file = io.StringIO()
    replay(LiveReporter(Console(file=file, width=80, height=40, force_terminal=True)))
    out = file.getvalue()
    assert "autotl predict" in out
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l"), "the cursor is hidden and not shown again"


def test_live_keeps_a_failures_cause_on_the_screen() -> None:
    file = io.StringIO()
    replay(LiveReporter(Console(file=file, width=80, height=40, force_terminal=True, color_system=None)))
    assert "trial 33 failed: RuntimeError: out of memory" in file.getvalue()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quiet": True}, QuietReporter),
        ({"as_json": True}, JsonReporter),
        ({"console": Console(file=io.StringIO())}, PlainReporter),
        ({"console": Console(file=io.StringIO(), force_terminal=True)}, LiveReporter),
    ],
)
def test_the_console_decides_what_is_shown(
    options: dict[str, Any], expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert type(choose_progress(**options)) is expected


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(choose_progress(console=Console(file=io.StringIO(), force_terminal=True)), PlainReporter)


class FakeOutput:
    """Stands for IPython.display.display and for the handle that it returns."""

    def __init__(self) -> None:
        self.pages: list[dict[str, str]] = []
        self.outputs = 0

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "FakeOutput":
        assert raw
        assert display_id
        self.outputs += 1
        self.pages.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.pages.append(data)


def fake_ipython(monkeypatch: pytest.MonkeyPatch, shell: object) -> FakeOutput:
    output = FakeOutput()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "IPython.display", output)  # type: ignore[arg-type]
    return output


def test_a_notebook_shows_progress_in_one_output_that_is_redrawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = fake_ipython(monkeypatch, SimpleNamespace(kernel=object()))
    progress = default_progress()
    assert isinstance(progress, NotebookReporter)
    monkeypatch.setattr(progress, "interval", 0.0)
    replay(progress)
    assert output.outputs == 1
    assert len(output.pages) == 5  # started, update, failure, log line, finished
    assert "太陽電池" in output.pages[0]["text/html"]
    assert "epoch 2/8" in output.pages[1]["text/plain"]
    assert "trial 33 failed: RuntimeError" in output.pages[-1]["text/html"]
    assert "autotl predict studies/cells/model IMAGES" in output.pages[-1]["text/html"]
    assert "epoch 2/8" not in output.pages[-1]["text/html"]
    assert capsys.readouterr().out == ""


def test_a_notebook_is_redrawn_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    output = fake_ipython(monkeypatch, SimpleNamespace(kernel=object()))
    progress = default_progress()
    progress.on_search_started(STARTED)
    for _ in range(10):
        progress.update(SNAPSHOT)
    assert len(output.pages) == 1


@pytest.mark.parametrize("shell", [None, SimpleNamespace()], ids=["no shell", "ipython in a terminal"])
def test_a_script_shows_and_prints_nothing(
    shell: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_ipython(monkeypatch, shell)
    progress = default_progress()
    assert type(progress) is Progress
    replay(progress)
    assert capsys.readouterr() == ("", "")


def test_without_ipython_there_is_no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert type(default_progress()) is Progress


def test_a_picture_shows_the_last_busy_moment_and_the_summary(tmp_path: Path) -> None:
    picture = PictureReporter(QuietReporter(), tmp_path / "run.svg")
    picture.on_search_started(STARTED)
    picture.update(SNAPSHOT)
    picture.update(replace(SNAPSHOT, workers=(IDLE,)))
    picture.on_search_finished(SearchFinished(RESULT))
    text = (tmp_path / "run.svg").read_text().replace("&#160;", " ")
    assert text.startswith("<svg")
    assert "epoch 2/8" in text
    assert "autotl predict studies/cells/model IMAGES" in text


def test_a_picture_without_a_folder_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="there is no folder"):
        choose_progress(picture=tmp_path / "nowhere" / "run.svg")


@pytest.mark.parametrize(("seconds", "text"), [(0.42, "0.4 s"), (9.96, "10 s"), (59.6, "1:00"), (750, "12:30")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
