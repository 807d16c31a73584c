"""What a terminal, a notebook, a log and a script see of a search."""

import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from autotl.errors import AutotlError
from autotl.events import SearchFinished
from autotl.ui.picture import PictureReporter
from autotl.ui.progress import Progress
from autotl.ui.reporters import (
    JsonReporter,
    LiveReporter,
    NotebookReporter,
    PlainReporter,
    QuietReporter,
    choose_progress,
    default_progress,
)

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from example_search import FAILED, FINISHED, IDLE, LONG, RESULT, SNAPSHOT, STARTED


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


@pytest.mark.parametrize("has_picture", [False, True])
def test_what_is_printed_after_a_search_that_failed_is_not_erased(has_picture: bool, tmp_path: Path) -> None:
    file = io.StringIO()
    progress: Progress = LiveReporter(Console(file=file, width=80, height=40, force_terminal=True))
    progress = PictureReporter(progress, tmp_path / "run.svg") if has_picture else progress
    progress.on_search_started(STARTED)
    progress.update(SNAPSHOT)
    progress.close()
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back
    printed = len(file.getvalue())
    progress.close()  # as at the end of the program
    assert len(file.getvalue()) == printed


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


def test_a_picture_that_is_a_folder_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"it is a folder\. Name a file: .*search\.svg"):
        choose_progress(picture=tmp_path)


def test_a_picture_without_a_folder_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match="there is no folder"):
        choose_progress(picture=tmp_path / "nowhere" / "run.svg")


# while images are checked


class Clock:
    """`time.monotonic` of the reporters."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("autotl.ui.reporters.time.monotonic", lambda: self.now)


def check(progress: Progress, clock: Clock, seconds: float = 0.001, total: int = 12_000) -> None:
    for done in range(total):
        clock.now += seconds
        progress.checking(done, total)
    progress.checking(0, 0)


def test_a_log_has_a_line_every_few_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    check(PlainReporter(), clock)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[0:05\] checking images: (4,999|5,000) of 12,000", first)
    assert re.fullmatch(r"\[0:10\] checking images: (9,999|10,0\d\d) of 12,000", second)


def test_the_times_of_a_log_are_those_since_the_search_began(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    progress = PlainReporter()
    clock.now += 9.0  # workers start, images are checked
    progress.on_search_started(STARTED)
    progress.log("one")
    clock.now += 20.0
    progress.update(replace(SNAPSHOT, seconds=29.0, time_left=31.0))
    one, progressed = capsys.readouterr().out.splitlines()[-2:]
    assert one == "[0:09] one"
    assert progressed.startswith("[0:29] ")
    assert "0:31 left" in progressed


def test_json_has_an_event_each_second(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    check(JsonReporter(), clock, total=2_500)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == ["checking"] * 2
    assert [event["total"] for event in events] == [2_500] * 2


def test_a_terminal_shows_the_number_and_removes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = Clock(monkeypatch), io.StringIO()
    reporter = LiveReporter(Console(file=screen, force_terminal=True, width=80))
    check(reporter, clock)
    assert "checking images: 11," in screen.getvalue()
    assert reporter.live is None
    assert screen.getvalue().endswith("\x1b[?25h") or "\x1b[2K" in screen.getvalue()[-20:]


def test_a_notebook_shows_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pages = Clock(monkeypatch), []
    output = SimpleNamespace(update=lambda data, raw: pages.append(data["text/plain"]))
    reporter = NotebookReporter(lambda data, **_: pages.append(data["text/plain"]) or output)
    check(reporter, clock)
    assert "checking images: " in pages[0]
    assert "checking images: " not in pages[-1]


@pytest.mark.parametrize("reporter", [QuietReporter, Progress])
def test_quiet_displays_stay_quiet(
    reporter: type[Progress], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check(reporter(), Clock(monkeypatch))
    assert capsys.readouterr().out == ""


def test_a_picture_that_could_not_be_written_is_an_error_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotl.ui.picture.os.access", lambda path, mode: False)
    with pytest.raises(AutotlError, match="no file can be made in"):
        PictureReporter(Progress(), tmp_path / "picture.svg")


class Keyboard(io.StringIO):
    """Standard input that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "answer"), [("y\n", True), ("n\n", False), ("\n", True), ("what\nn\n", False), ("", False)]
)
def test_a_user_at_a_terminal_answers_a_question(typed: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Keyboard(typed))
    screen = io.StringIO()
    live = LiveReporter(Console(file=screen, force_terminal=True, width=100, color_system=None))
    assert PictureReporter(live, Path("picture.svg")).confirm("87 MB [of weights]. Download them?") is answer
    assert "87 MB [of weights]. Download them? [y/n] (y)" in screen.getvalue()


def test_where_nobody_can_answer_the_answer_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))  # a pipe
    live = LiveReporter(Console(file=io.StringIO(), force_terminal=True))
    assert not live.confirm("Download them?")
    assert not any(reporter.confirm("Download them?") for reporter in (PlainReporter(), QuietReporter(), Progress()))
