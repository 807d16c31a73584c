"""`autotl cache` on a real store: what it lists, checks and removes."""

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
    "engine_version": "openvino 2026.0.0",
    "precision": "bf16",
    "device_type": "cpu",
    "preprocessing": {"size": 224},
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs cache commands on a cache in the test's folder, in a terminal of 120 columns."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("AUTOTL_CACHE", str(tmp_path / "cache"))
    return lambda *words: CliRunner().invoke(app, ["cache", *map(str, words)])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def open_table(root: Path, view: str = "none", n: int = 100, width: int = 1280) -> FeatureTable:
    """A table of `n` images under its own spec, still open."""
    table = FeatureStore(root / "features").open({**SPEC, "view": view}, (width,), "float16", "lite0")
    table.append(DIGESTS[:n], np.random.default_rng(0).standard_normal((n, width)).astype(np.float32))
    return table


def test_show_lists_the_recorded_features(run: Callable[..., Result], root: Path) -> None:
    table = open_table(root, "flip-2")
    shown = run()
    assert shown.exit_code == 0
    assert "lite0 · flip-2 · openvino bf16 cpu · 224 px" in shown.output
    assert "259.2 kB" in shown.output  # 100 rows of 1,280 float16 features, with 32 bytes of index each
    assert "in use" in shown.output
    table.close()
    assert "in use" not in run("show").output


def test_json_lists_the_same(run: Callable[..., Result], root: Path) -> None:
    open_table(root, "flip-2").close()
    (entry,) = json.loads(run("show", "--json").output)["features"]
    assert (entry["label"], entry["images"], entry["bytes"], entry["in_use"]) == ("lite0", 100, 259_200, False)
    assert entry["spec"]["view"] == "flip-2"
    assert json.loads(run("--json").output)["features"] == [entry]


@pytest.mark.parametrize("command", [(), ("show",), ("verify",), ("prune", "1GB"), ("clear",)])
def test_an_empty_cache_is_not_an_error_and_no_folder_is_created(
    command: tuple[str, ...], run: Callable[..., Result], root: Path
) -> None:
    assert run(*command).exit_code == 0
    assert not root.exists()


def test_a_file_instead_of_a_folder_is_refused(run: Callable[..., Result], root: Path) -> None:
    root.write_text("")
    refused = run("--cache", root)
    assert (refused.exit_code, "is not a folder" in refused.output) == (1, True)


def test_verify_removes_and_reports_damaged_rows(run: Callable[..., Result], root: Path) -> None:
    table = open_table(root)
    table.close()
    assert "100 rows checked" in run("verify").output
    with (table.folder / "rows.bin").open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    output = run("verify").output
    assert "1 damaged row removed" in output
    assert output.splitlines()[-1].endswith(": 1 damaged")
    assert "none damaged" in run("verify").output


def test_verify_removes_and_reports_damaged_networks(run: Callable[..., Result], root: Path) -> None:
    from autotl.atomic_io import write_sealed
    from autotl.engines.conversions import CHECKSUMS, checksums

    sound, damaged = (root / "engines" / f"openvino-{name}" for name in ("sound", "damaged"))
    for folder in (sound, damaged):
        folder.mkdir(parents=True)
        (folder / "model.bin").write_bytes(b"x" * 1000)
        write_sealed(folder / CHECKSUMS, checksums(folder))
    (damaged / "model.bin").write_bytes(b"x" * 999 + b"y")
    assert "1 of 2 converted networks" in run("verify").output
    assert (sound.exists(), damaged.exists()) == (True, False)


def test_prune_removes_the_least_recently_used_first(run: Callable[..., Result], root: Path) -> None:
    for view in ("old", "new"):
        open_table(root, view).close()
        time.sleep(0.02)
    pruned = run("prune", "300kB")
    assert "removed lite0 · old" in pruned.output
    assert "259.2 kB freed, 259.2 kB left" in pruned.output
    assert "new" in run().output


def test_prune_refuses_what_is_not_a_size(run: Callable[..., Result]) -> None:
    refused = run("prune", "lots")
    assert (refused.exit_code, "is not a size" in refused.output) == (2, True)


def test_clear_keeps_what_a_search_uses(run: Callable[..., Result], root: Path) -> None:
    (root / "engines").mkdir(parents=True)
    (root / "engines" / "model.bin").write_bytes(b"x" * 1000)
    table = open_table(root, "used")
    open_table(root, "unused").close()
    assert "1 set of features kept: in use by a running search" in run("clear").output
    assert table.read(DIGESTS[:3]).shape == (3, 1280)
    assert (root / "engines").exists()
    table.close()
    run("clear")
    assert not (root / "engines").exists()
    assert run("--json").exit_code == 0
    assert json.loads(run("--json").output)["features"] == []


def test_tables_of_another_format_are_reported_and_not_read(run: Callable[..., Result], root: Path) -> None:
    table = open_table(root)
    table.close()
    spec_file = table.folder / "spec.json"
    spec_file.write_text(json.dumps({**json.loads(spec_file.read_text()), "format": 99}))
    output = run("verify").output
    assert "1 folder can't be read by this autotl" in output
    assert "0 rows checked" in output


def test_a_pool_without_objects_says_so_and_foreign_files_stay(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "01-cat.jpg").write_bytes(b"a photograph")
    result = run("pool", f"file://{tmp_path}/photos", "--remove")
    assert (result.exit_code, "No search has put features into" in result.output) == (0, True)
    assert (tmp_path / "photos" / "01-cat.jpg").exists()
