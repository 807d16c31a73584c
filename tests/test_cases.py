"""Small inputs that users' reports came from: each script in `cases/` asks autotl for one thing, and exits with 0 where
autotl behaves right."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
SCRIPTS = sorted(script for script in CASES.glob("*/[0-9]*.py"))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: f"{script.parent.name}-{script.stem}")
def test_a_reported_case_is_right(script, tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # whatever the script makes goes with the test
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
