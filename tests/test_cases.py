"""Small inputs that users' reports came from: each script in `cases/` asks autotl for one thing and exits with 0 where
autotl behaves right, with 1 where it doesn't, and with 2 where the script itself couldn't be set up.

Those in FAST run with every test run; the others, with whole searches, with `make cases`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
SCRIPTS = {str(path.relative_to(CASES).with_suffix("")): path for path in sorted(CASES.glob("*/[0-9]*.py"))}
HYMENOPTERA = CASES.parents[1].parent / "shared" / "data" / "hymenoptera" / "train"
FAST = {
    "data_and_api/01-split-folders-training-testing",
    "data_and_api/03-names-with-brackets",
    "data_and_api/16-predict-csv-onto-folder",
    "data_and_api/19-many-workers",
    "data_and_api/30-split-column-by-another-name",
    "data_and_api/32b-auroc-select",
    "data_and_api/34-unicode-form-between-parts",
    "search_and_files/01-auroc-no-model",
    "search_and_files/06-plugin-prints",
    "search_and_files/20-dashboard-any-host",
}
"""They start no search, and take a second or two."""


@pytest.fixture(scope="session")
def run_case(tmp_path_factory, cache):
    """`run_case(name)`: run a script with this Python. What all scripts make goes into one temporary folder, which they
    share a small model in."""
    temporary = tmp_path_factory.mktemp("cases")

    def run(name):
        environment = {**os.environ, "TMPDIR": str(temporary), "AUTOTL_CACHE": str(cache), "AUTOTL_VENV": sys.prefix}
        done = subprocess.run(
            [sys.executable, SCRIPTS[name]], cwd=temporary, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run


def test_there_are_scripts_and_the_fast_ones_are_among_them():
    assert len(SCRIPTS) >= 40
    assert SCRIPTS.keys() > FAST


@pytest.mark.parametrize("name", sorted(FAST))
def test_a_fast_case_is_right(name, run_case):
    run_case(name)


@pytest.mark.cases
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - FAST))
def test_a_case_is_right(name, run_case):
    run_case(name)


@pytest.mark.cases
@pytest.mark.slow
def test_copies_are_found_and_never_torn_at_any_share(tmp_path):
    """On photographs of ants and bees."""
    if not HYMENOPTERA.is_dir():
        pytest.skip(f"{HYMENOPTERA} is not here")
    script = CASES / "data_and_api" / "near_duplicates.py"
    done = subprocess.run(
        [sys.executable, script, HYMENOPTERA], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
