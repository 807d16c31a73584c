"""A real search with an accuracy to reach: the smallest study file, from the command line, on all solar cells."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_small_study_reaches_its_accuracy(tmp_path):
    command = [sys.executable, "-m", "autotl", "search", str(ROOT / "studies" / "small.toml")]
    subprocess.run([*command, "--output", str(tmp_path), "--quiet"], check=True, timeout=400)
    result = json.loads((tmp_path / "small" / "result.json").read_text())
    assert result["images"] == {"train": 1575, "validation": 393, "test": 656, "skipped": 0}
    assert result["trials"]["failed"] == 0
    assert sum(result["trials"].values()) == 4
    assert result["test"]["accuracy"] >= 0.83  # the majority class has 0.69, random weights about 0.75
