"""`autotl cache`: what it shows of a real store, and what it removes."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from autotl.cli import app
from autotl.features.store import FeatureStore
from autotl.features.table import FeatureTable

DIGESTS = [f"{i:032x}" for i in range(100)]
SPEC = {
    "backbone": "4f1d" * 8,
    "view": "flip-2",
    "engine": "openvino",
    "precision": "bf16",
    "preprocessing": {"size": 224},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Commands on the cache in this test's folder, in a terminal of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("AUTOTL_CACHE", str(tmp_path / "cache"))
    return lambda *words: CliRunner().invoke(app, ["cache", *map(str, words)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def recorded(root: Path, view: str = "none", n: int = 100, width: int = 1280) -> FeatureTable:
    """Rows of `n` images under a spec of their own, still open."""
    rows = FeatureStore(root / "features").open({**SPEC, "view": view}, (width,), "float16", "lite0")
    rows.append(DIGESTS[:n], np.random.default_rng(0).standard_normal((n, width)).astype(np.float32))
    return rows


def test_it_shows_what_is_recorded(run: Callable[..., Result], root: Path) -> None:
    rows = recorded(root, "flip-2")
    shown = run()
    assert shown.exit_code == 0
    assert "lite0 · flip-2 · openvino bf16 · 224 px" in shown.output
    assert "259.2 kB" in shown.output  # 100 rows of 1,280 numbers of 2 bytes, and 32 of index for each
    assert "in use" in shown.output
    rows.close()
    assert "in use" not in run("show").output


def test_its_json_says_the_same(run: Callable[..., Result], root: Path) -> None:
    recorded(root, "flip-2").close()
    (entry,) = json.loads(run("show", "--json").output)["features"]
    assert (entry["label"], entry["images"], entry["bytes"], entry["in_use"]) == ("lite0", 100, 259_200, False)
    assert entry["spec"]["view"] == "flip-2"
    assert json.loads(run("--json").output)["features"] == [entry]


@pytest.mark.parametrize("command", [(), ("show",), ("verify",), ("prune", "1GB"), ("clear",)])
def test_an_empty_cache_is_no_error_and_no_folder_is_made(
    command: tuple[str, ...], run: Callable[..., Result], root: Path
) -> None:
    assert run(*command).exit_code == 0
    assert not root.exists()


def test_a_file_in_the_caches_place_is_refused(run: Callable[..., Result], root: Path) -> None:
    root.write_text("")
    refused = run("--cache", root)
    assert (refused.exit_code, "is no folder" in refused.output) == (1, True)


def test_verify_drops_damaged_rows_and_says_so(run: Callable[..., Result], root: Path) -> None:
    rows = recorded(root)
    rows.close()
    assert "100 rows checked" in run("verify").output
    with (rows.folder / "rows.bin").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    said = run("verify").output
    assert "1 damaged row dropped" in said
    assert "1 damaged" in said.splitlines()[-1]
    assert "all sound" in run("verify").output


def test_prune_takes_the_longest_unused_first(run: Callable[..., Result], root: Path) -> None:
    for view in ("old", "new"):
        recorded(root, view).close()
        time.sleep(0.02)
    said = run("prune", "300kB")
    assert "removed lite0 · old" in said.output
    assert "259.2 kB freed, 259.2 kB left" in said.output
    assert "new" in run().output


def test_prune_wants_a_size(run: Callable[..., Result]) -> None:
    refused = run("prune", "lots")
    assert (refused.exit_code, "is no size" in refused.output) == (2, True)


def test_clear_spares_what_a_search_uses(run: Callable[..., Result], root: Path) -> None:
    (root / "engines").mkdir(parents=True)
    (root / "engines" / "model.bin").write_bytes(b"x" * 1000)
    rows = recorded(root, "used")
    recorded(root, "unused").close()
    said = run("clear").output
    assert "1 set of features in use by a running search stay" in said
    assert rows.read(DIGESTS[:3]).shape == (3, 1280)
    assert (root / "engines").exists()
    rows.close()
    run("clear")
    assert not (root / "engines").exists()
    assert run("--json").exit_code == 0
    assert json.loads(run("--json").output)["features"] == []


def test_rows_of_another_format_are_named_and_not_read(run: Callable[..., Result], root: Path) -> None:
    rows = recorded(root)
    rows.close()
    page = rows.folder / "spec.json"
    page.write_text(json.dumps({**json.loads(page.read_text()), "format": 99}))
    said = run("verify").output
    assert "1 folder can't be read by this autotl" in said
    assert "0 rows checked" in said
