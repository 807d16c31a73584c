"""Downloads from a hub on loopback: slow, interrupted, damaged, gated, without room, without a network."""

import errno
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

sys.path.insert(0, str(Path(__file__).parents[1]))

from local_hub import LocalHub, local_hub  # noqa: F401  # a fixture

from autotl.atomic_io import DiskFull
from autotl.backbones import download as module
from autotl.backbones.download import reporting_to
from autotl.backbones.timm import autotl_find_backbone
from autotl.backbones.weights import fetch
from autotl.errors import AutotlError

REPOSITORY = "timm/test_vit.r160_in1k"
WEIGHTS = save({"weight": torch.arange(100_000, dtype=torch.float32)})


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:  # noqa: F811
    local_hub.add(REPOSITORY, WEIGHTS)
    return local_hub


def partials(hub: LocalHub) -> list[Path]:
    return list(hub.cache.rglob("*.incomplete"))


def test_a_file_arrives_whole_where_the_hubs_own_client_finds_it(hub: LocalHub) -> None:
    path = fetch(REPOSITORY)
    assert path.read_bytes() == WEIGHTS
    assert path.is_relative_to(hub.cache)
    before = len(hub.requests)
    assert fetch(REPOSITORY) == path
    assert len(hub.requests) == before  # what is here needs no network
    assert not partials(hub)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_efficientnet"])
def test_a_timm_network_is_built_from_what_the_hub_sends(name: str, hub: LocalHub) -> None:
    import timm

    network = timm.create_model(name)
    hub.add(str(network.pretrained_cfg["hf_hub_id"]), save(network.state_dict()))
    backbone = autotl_find_backbone(name)
    assert backbone is not None
    assert not backbone.is_cached
    built = backbone.build().state_dict()
    assert backbone.is_cached
    saved = network.state_dict()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in built.items())


def test_a_download_reports_how_much_is_here(hub: LocalHub) -> None:
    reports: list[tuple[int, int | None]] = []
    with reporting_to(lambda done, total: reports.append((done, total))):
        fetch(REPOSITORY)
    assert reports[0] == (0, len(WEIGHTS))
    assert reports[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


@pytest.mark.slow
def test_a_connection_that_is_cut_is_continued(hub: LocalHub) -> None:
    hub.entries[REPOSITORY, "model.safetensors"].cuts = [100_000, 250_000]
    assert fetch(REPOSITORY).read_bytes() == WEIGHTS
    assert hub.downloads(REPOSITORY) == [None, "bytes=100000-", "bytes=250000-"]


def test_a_download_that_was_killed_is_continued_by_the_next_process(hub: LocalHub, until: object) -> None:
    entry = hub.entries[REPOSITORY, "model.safetensors"]
    entry.bytes_per_second = 200_000
    script = f"from autotl.backbones.weights import fetch; fetch({REPOSITORY!r})"
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        until(lambda: any(p.stat().st_size > 50_000 for p in partials(hub)), 30)  # type: ignore[operator]
    finally:
        process.kill()
        process.wait()
    (partial,) = partials(hub)
    here = partial.stat().st_size
    entry.bytes_per_second = float("inf")
    assert fetch(REPOSITORY).read_bytes() == WEIGHTS
    assert hub.downloads(REPOSITORY)[-1] == f"bytes={here}-"
    assert not partials(hub)


@pytest.mark.slow
def test_two_processes_download_a_file_once(hub: LocalHub) -> None:
    hub.entries[REPOSITORY, "model.safetensors"].bytes_per_second = 400_000
    script = f"from autotl.backbones.weights import fetch; fetch({REPOSITORY!r})"
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(hub.downloads(REPOSITORY)) == 1


def test_a_damaged_file_is_refused_and_removed(hub: LocalHub) -> None:
    entry = hub.entries[REPOSITORY, "model.safetensors"]
    entry.damaged = True
    with pytest.raises(AutotlError, match=r"download failed: the file that arrived is damaged: its SHA-256 is"):
        fetch(REPOSITORY)
    assert not [path for path in hub.cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]
    entry.damaged = False
    assert fetch(REPOSITORY).read_bytes() == WEIGHTS


def test_a_file_that_is_no_safetensors_file_is_refused_where_the_hub_states_no_digest(hub: LocalHub) -> None:
    hub.add(REPOSITORY, b"<html>Sign in to this network</html>", states_digest=False)
    with pytest.raises(AutotlError, match=r"the file that arrived holds no weights \(.*\)\. It was removed"):
        fetch(REPOSITORY)
    assert not partials(hub)


def test_a_page_in_the_files_place_is_refused(hub: LocalHub) -> None:
    hub.entries[REPOSITORY, "model.safetensors"].page = b"<html>Sign in to this network</html>"
    with pytest.raises(AutotlError, match=r"download failed: 36 bytes arrived of a file of 400,0"):
        fetch(REPOSITORY)


def test_a_connection_that_brings_nothing_any_more_is_given_up(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    hub.entries[REPOSITORY, "model.safetensors"].cuts = [50_000] * 20
    with pytest.raises(AutotlError, match="download failed: RemoteProtocolError"):
        fetch(REPOSITORY)
    assert len(hub.downloads(REPOSITORY)) == 1 + module.MAX_ATTEMPTS - 1


def test_a_gated_repository_says_what_to_type(hub: LocalHub) -> None:
    hub.add(REPOSITORY, WEIGHTS, status=403, error_code="GatedRepo")
    with pytest.raises(AutotlError, match=rf"accepts their terms, on {hub.endpoint}/{REPOSITORY}.*hf auth login"):
        fetch(REPOSITORY)


@pytest.mark.parametrize("status", [401, 403])
def test_a_private_repository_says_what_to_type(status: int, hub: LocalHub) -> None:
    hub.add(REPOSITORY, WEIGHTS, status=status)
    with pytest.raises(AutotlError, match=rf"wants to know who asks \({status}\)\. Type: hf auth login"):
        fetch(REPOSITORY)


def test_the_users_token_is_sent_to_the_hub_alone(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    fetch(REPOSITORY)
    with_token = {request.path.startswith("/cdn/"): request.has_token for request in hub.requests}
    assert with_token == {False: True, True: False}


def test_old_weights_that_are_no_safetensors_file_are_taken(hub: LocalHub, tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "weights.bin")
    hub.entries.clear()
    hub.add(REPOSITORY, tmp_path / "weights.bin", "pytorch_model.bin")
    assert fetch(REPOSITORY).name == "pytorch_model.bin"


def test_without_room_nothing_is_downloaded(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(hub.cache.parent)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull, match=r"no room on the disk for .*: it needs 400\.1 kB more, and 1\.0 kB are free"):
        fetch(REPOSITORY)
    assert hub.downloads(REPOSITORY) == []


def test_a_disk_that_fills_up_is_reported_as_such_and_the_download_is_continued(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = module._receive

    def write_some(url: str, stated: object, file: object, here: int) -> None:
        file.write(WEIGHTS[:50_000])  # type: ignore[attr-defined]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_receive", write_some)
    with pytest.raises(DiskFull, match="There is no room on the disk"):
        fetch(REPOSITORY)
    monkeypatch.setattr(module, "_receive", receive)
    assert fetch(REPOSITORY).read_bytes() == WEIGHTS
    assert hub.downloads(REPOSITORY) == ["bytes=50000-"]


def test_without_a_network_the_error_comes_quickly(hub: LocalHub) -> None:
    hub.close()
    began = time.monotonic()
    with pytest.raises(AutotlError, match=rf"{hub.endpoint} can't be reached \(ConnectError.*Check the network"):
        fetch(REPOSITORY)
    assert time.monotonic() - began < 3


def test_a_slow_hub_is_waited_for(hub: LocalHub) -> None:
    hub.entries[REPOSITORY, "model.safetensors"].bytes_per_second = 500_000
    seen: list[int] = []
    thread = threading.Thread(target=fetch, args=(REPOSITORY,))
    with reporting_to(lambda done, total: seen.append(done)):
        thread.start()
        thread.join(30)
    assert not thread.is_alive()
    assert len(set(seen)) > 2
