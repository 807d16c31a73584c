"""The bench on one tiny row: it measures, tells, writes what it promises, and its exit says whether all holds."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

BENCH = Path(__file__).parent / "bench" / "bench.py"


def in_process(*arguments: str) -> int:
    """The exit code. Most of what a process of its own takes is the import of torch."""
    sys.path.insert(0, str(BENCH.parent))
    try:
        return importlib.import_module("bench").main(list(arguments))
    finally:
        sys.path.remove(str(BENCH.parent))


def bench(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(BENCH), *arguments], capture_output=True, text=True, check=False)


def test_a_row_is_measured_printed_and_written(tiny, tmp_path: Path) -> None:
    backbone = tiny("test_resnet")
    page = tmp_path / "bench.json"
    kept = {"work": "earlier", "naive": None, "autotl": 1.0, "unit": "s", "ratio": None, "target": "≤ 2", "holds": True}
    page.write_text(json.dumps([kept]))
    run = bench("new-images", "--images", "24", "--backbone", backbone.name, "--out", str(page), "--threads", "1")
    assert run.returncode == 0, run.stderr
    assert "10 new images among 24" in run.stdout
    measured = {
        "work": "10 new images among 24: forward passes", "naive": 24, "autotl": 10, "unit": "passes", "ratio": 2.4,
        "target": "exactly 10", "holds": True,
    }  # fmt: skip
    assert json.loads(page.read_text()) == [kept, measured]


def test_a_work_that_fails_is_named_and_the_next_one_runs(tiny, tmp_path: Path, capfd) -> None:
    page = tmp_path / "bench.json"
    code = in_process(
        "extraction-clothing", "new-images", "--images", "24", "--backbone", tiny("test_resnet").name,
        "--out", str(page), "--threads", "1", "--clothing", str(tmp_path / "nowhere"),
    )  # fmt: skip
    output = capfd.readouterr()
    assert code == 1
    assert "Failed: extraction-clothing." in output.out
    assert "nowhere" in output.err
    assert [row["work"] for row in json.loads(page.read_text())] == ["10 new images among 24: forward passes"]


def test_the_peak_of_an_extraction_is_measured(tmp_path: Path, capfd) -> None:
    page = tmp_path / "bench.json"
    assert in_process("memory", "--images", "24", "--out", str(page), "--threads", "1") == 0
    assert "extracting 24 images beyond 24" in capfd.readouterr().out
    assert abs(json.loads(page.read_text())[0]["autotl"]) < 100  # two processes that do the same


def test_work_that_is_not_there_names_what_is(capfd) -> None:
    assert in_process("extractoin-elpv") == 2
    output = capfd.readouterr().out
    assert "no work extractoin-elpv" in output
    assert "extraction-elpv" in output


@pytest.mark.parametrize(("ours", "holds"), [(20.0, True), (19.9, False)])
def test_a_ratio_below_its_target_does_not_hold(monkeypatch, ours: float, holds: bool) -> None:
    monkeypatch.syspath_prepend(str(BENCH.parent))
    import rows

    row = rows.at_least("work", 2.0, ours, "images/s", 10)
    assert (row.ratio, row.target, row.holds) == (ours / 2, "≥ 10 ×", holds)
    assert rows.at_most("work", ours, "extractions", 19.95).holds is not holds
