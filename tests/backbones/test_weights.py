"""Finding, downloading and digesting weights."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

from autotl.backbones.base import Backbone
from autotl.backbones.weights import (
    cached_backbones,
    classifier_size,
    downloads_allowed,
    fetch,
    file_digest,
    forbidden_by,
    no_downloads,
    weights_in_folder,
)
from autotl.config import StudyConfig
from autotl.coordinator import join
from autotl.coordinator.run import run_search
from autotl.errors import AutotlError
from autotl.ui.progress import Progress

QUESTION = "from autotl.backbones.weights import downloads_allowed; print(downloads_allowed())"


@pytest.fixture(autouse=True)
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing forbids downloads."""
    monkeypatch.delenv("AUTOTL_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


# downloads


@pytest.mark.parametrize("before", [None, "0", "1", ""])
def test_no_downloads_restores_the_environment(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is not None:
        monkeypatch.setenv("AUTOTL_OFFLINE", before)
    with no_downloads():
        assert not downloads_allowed()
    assert os.environ.get("AUTOTL_OFFLINE") == before
    assert downloads_allowed() is (before != "1")


def test_no_downloads_restores_the_environment_after_an_error() -> None:
    with pytest.raises(KeyError), no_downloads():
        raise KeyError
    assert downloads_allowed()


def test_no_downloads_can_be_nested() -> None:
    with no_downloads():
        with no_downloads():
            assert not downloads_allowed()
        assert not downloads_allowed()
    assert downloads_allowed()


def test_no_downloads_holds_for_processes_that_start_inside() -> None:
    with no_downloads():
        run = subprocess.run([sys.executable, "-c", QUESTION], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("variable", ["AUTOTL_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "Yes", "ON"])
def test_a_variable_forbids_downloads(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, value)
    assert forbidden_by() == (f"{variable}={value}", f"Unset {variable}")


def test_an_option_that_forbids_downloads_is_named_and_no_variable_is_to_be_unset() -> None:
    with no_downloads(), pytest.raises(AutotlError, match=r"and --offline forbids the download\. Leave --offline out"):
        fetch("timm/no-such-network")


@pytest.mark.parametrize("value", ["", "0", "false", "no"])
def test_other_values_of_the_variable_allow_downloads(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTL_OFFLINE", value)
    assert downloads_allowed()


def test_after_a_search_that_failed_downloads_are_allowed_again_and_the_display_is_closed(tmp_path: Path) -> None:
    data = tmp_path / "missing"
    config = StudyConfig(data=str(data), name="offline", output=tmp_path / "studies", offline=True)
    with pytest.raises(AutotlError, match=str(data)):
        run_search(config, progress := create_autospec(Progress, instance=True))
    assert downloads_allowed()
    progress.close.assert_called_once_with()  # the error is printed below, and has to stay


def test_workers_that_join_with_offline_inherit_it_and_downloads_are_allowed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = []

    def start(*_: object) -> None:
        allowed.append(downloads_allowed())
        raise AutotlError("no worker starts in this test")

    monkeypatch.setattr(join, "search_runs", lambda folder: True)
    monkeypatch.setattr(join.Endpoint, "find", lambda folder: None)
    monkeypatch.setattr(join, "WorkerPool", start)
    config = StudyConfig(data=str(tmp_path), name="offline", output=tmp_path / "studies", offline=True)
    with pytest.raises(AutotlError, match="no worker starts"):
        join.join_search(config, create_autospec(Progress, instance=True))
    assert allowed == [False]
    assert downloads_allowed()


# caches and folders


@pytest.mark.slow
def test_the_folder_of_torchs_cache_is_found_without_importing_torch(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom autotl.backbones import weights\n"
        "names, found = ('TORCH_HOME', 'XDG_CACHE_HOME'), []\n"
        "def only(name):\n"
        "    [os.environ.pop(other, None) for other in names]\n"
        "    os.environ.update({name: sys.argv[1]} if name else {})\n"
        "for name in ('', *names):\n"
        "    only(name); found.append(str(weights._torch_hub())); weights.cached('https://host/weights.pth')\n"
        "light = 'torch' not in sys.modules\n"
        "import torch\n"
        "for name, folder in zip(('', *names), found):\n"
        "    only(name); print(folder == torch.hub.get_dir())\n"
        "print(light, len(set(found)))"
    )
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True", "True", "True", "3"]


def test_cached_backbones_are_those_with_weights_on_this_machine() -> None:
    backbones = {name: create_autospec(Backbone, instance=True) for name in ("cached", "missing")}
    for name, backbone in backbones.items():
        backbone.is_cached = name == "cached"
    assert cached_backbones(backbones) == ["cached"]


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (["other.safetensors", "pytorch_model.bin", "model.bin", "model.safetensors"], "model.safetensors"),
        (["other.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
        (["b.pth", "a.pth", "other.safetensors"], "other.safetensors"),
        (["config.json"], None),
    ],
)
def test_the_weights_of_a_folder_are_chosen_in_timms_order(
    files: list[str], chosen: str | None, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert weights_in_folder(tmp_path) == (tmp_path / chosen if chosen else None)


# files


def test_the_digest_of_a_file_follows_its_content(tmp_path: Path) -> None:
    file = tmp_path / "my own weights.bin"
    file.write_bytes(b"one")
    first = file_digest(file)
    file.write_bytes(b"other")
    assert file_digest(file) != first
    file.write_bytes(b"one")
    assert file_digest(file) == first


def test_the_digest_of_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AutotlError, match=r"no weights file .*gone\.pth"):
        file_digest(tmp_path / "gone.pth")


def test_the_classifier_size_is_its_number_of_outputs() -> None:
    tensors = {"fc.weight": torch.zeros(7, 3), "stem.weight": torch.zeros(5, 3)}
    assert classifier_size(tensors, ["head.fc", "fc"]) == 7
    assert classifier_size(tensors, ["head"]) == 0
