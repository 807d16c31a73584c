"""The report of `make bench-accuracy`, from rows as its searches leave them."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent / "bench"))
from accuracy_report import plot, tables

sys.path.pop(0)


def row(name, seed, revision, accuracy, **fields):
    found = {
        "set": name, "seed": seed, "revision": revision, "accuracy": accuracy, "balanced_accuracy": accuracy,
        "log_loss": 1 - accuracy, "chosen": accuracy + 0.02, "seconds": 20.0, "curve": [[5.0, 0.5], [9.0, accuracy]],
    }  # fmt: skip
    return found | fields


@pytest.fixture
def rows():
    return [
        row("elpv", 0, "new", 0.8),
        row("elpv", 0, "old", 0.75),
        row("elpv", 1, "new", 0.9),
        row("elpv", 1, "old", 0.87),
        row("dtd-10", 0, "new", 0.7),
        row("dtd-10", 0, "old", 0.0, error="exit 3"),
    ]


def printed(rows, before):
    console = Console(width=150, record=True, file=io.StringIO())
    for table in tables(rows, "new", before):
        console.print(table)
    return console.export_text()


def test_differences_are_paired_and_have_a_standard_error(rows):
    text = printed(rows, "old")
    assert "+4.00 ± 1.00" in text  # of 5 and 3 points
    assert "2 of 2" in text
    assert "dtd-10 split 0, old: exit 3" in text


def test_without_another_revision_there_are_no_differences(rows):
    text = printed([some for some in rows if some["revision"] == "new"], None)
    assert "difference" not in text
    assert "80.00 ± 5.77" in text


def test_the_plot_has_a_line_for_each_search(rows):
    picture = plot(rows, "new", "old")
    assert picture.count("<polyline") == 5
    assert picture.startswith("<svg")
