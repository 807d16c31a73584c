"""Downloads beside a search: one process at a time, from a hub on loopback."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import timm
from safetensors.torch import save

from autotl.atomic_io import DiskFull
from autotl.backbones.base import Backbone
from autotl.backbones.timm import autotl_find_backbone
from autotl.coordinator.fetching import Fetching
from autotl.errors import AutotlError

sys.path.insert(0, str(Path(__file__).parents[1]))
from local_hub import LocalHub, local_hub  # noqa: F401  # a fixture

pytestmark = pytest.mark.slow

NAMES = ("test_vit.r160_in1k", "test_resnet.r160_in1k", "test_convnext.r160_in1k")
Until = Callable[[Callable[[], object], float], None]


@pytest.fixture
def hub(local_hub: LocalHub) -> LocalHub:  # noqa: F811
    for name in NAMES:
        local_hub.add(f"timm/{name}", save(timm.create_model(name).state_dict()))
    return local_hub


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def fetching(hub: LocalHub, lines: list[str]) -> Iterator[Fetching]:
    started = Fetching([found(name) for name in NAMES], lines.append)
    yield started
    started.close()


def found(name: str) -> Backbone:
    backbone = autotl_find_backbone(name)
    assert backbone is not None
    return backbone


def always(name: str, seconds: float) -> bool:
    return True


def advanced(fetching: Fetching, until: Until, num: int) -> list[str]:
    """The names that arrive, until there are `num` arrivals and failures."""
    arrived: list[str] = []

    def more() -> bool:
        arrived.extend(fetching.advance(always))
        return len(arrived) + len(fetching.failures) == num

    until(more, 60)
    return arrived


def test_backbones_arrive_one_after_the_other(fetching: Fetching, lines: list[str], until: Until) -> None:
    backbones = list(fetching.missing)
    assert advanced(fetching, until, 3) == list(NAMES)
    assert all(backbone.is_cached for backbone in backbones)
    assert lines[:2] == [
        "test_vit.r160_in1k: downloading its weights from timm/test_vit.r160_in1k on the Hugging Face hub, about 1 MB",
        "test_vit.r160_in1k: its weights have arrived",
    ]
    assert fetching.lines() == ()


def test_a_backbone_that_cannot_be_had_is_left_out_with_a_line(
    fetching: Fetching, hub: LocalHub, lines: list[str], until: Until
) -> None:
    hub.entries[f"timm/{NAMES[0]}", "model.safetensors"].damaged = True
    hub.add(f"timm/{NAMES[1]}", b"", status=403, error_code="GatedRepo")
    assert advanced(fetching, until, 3) == [NAMES[2]]
    left_out = [line for line in lines if "left out" in line]
    assert len(left_out) == 2
    assert left_out[0].startswith(f"{NAMES[0]} is left out: The weights timm/{NAMES[0]} are not on this machine, and")
    assert "damaged" in left_out[0]
    assert "hf auth login" in left_out[1]


def test_only_what_there_is_time_for_is_downloaded(fetching: Fetching, hub: LocalHub, until: Until) -> None:
    assert fetching.advance(lambda name, seconds: False) == []
    assert hub.requests == []
    until(lambda: fetching.advance(lambda name, seconds: name == NAMES[1]), 60)
    assert [backbone.name for backbone in fetching.missing] == [NAMES[0], NAMES[2]]


def test_the_display_shows_how_much_has_arrived(fetching: Fetching, hub: LocalHub, until: Until) -> None:
    entry = hub.entries[f"timm/{NAMES[0]}", "model.safetensors"]
    entry.bytes_per_second = len(entry.content) / 3
    seen: list[str] = []

    def arrived() -> bool:
        has_arrived = bool(fetching.advance(always))
        seen.extend(line.activity for line in fetching.lines() if line.description == NAMES[0])
        return has_arrived

    until(arrived, 60)
    assert "connecting" in seen
    assert [text for text in seen if re.fullmatch(r"[\d.]+ [kM]B of 1\.5 MB, [\d.]+ kB/s", text)], seen[::20]


def test_a_search_that_ends_keeps_what_has_arrived_for_the_next(
    fetching: Fetching, hub: LocalHub, lines: list[str], until: Until
) -> None:
    entry = hub.entries[f"timm/{NAMES[0]}", "model.safetensors"]
    entry.bytes_per_second = len(entry.content) / 20
    fetching.advance(always)
    until(lambda: any(path.stat().st_size > 50_000 for path in hub.cache.rglob("*.incomplete")), 30)
    fetching.close()
    (partial,) = hub.cache.rglob("*.incomplete")
    here = partial.stat().st_size
    entry.bytes_per_second = float("inf")
    following = Fetching([found(NAMES[0])], lines.append)
    assert advanced(following, until, 1) == [NAMES[0]]
    assert hub.downloads(f"timm/{NAMES[0]}")[-1] == f"bytes={here}-"


def test_where_nothing_is_here_the_first_is_waited_for(fetching: Fetching, hub: LocalHub) -> None:
    backbones = list(fetching.missing)
    hub.entries[f"timm/{NAMES[0]}", "model.safetensors"].damaged = True
    fetching.fetch_first(backbones, all_of_them=False, required=False)
    assert [backbone.is_cached for backbone in backbones] == [False, True, False]
    assert [backbone.name for backbone in fetching.missing] == [NAMES[2]]


def test_a_repeatable_search_waits_for_all(fetching: Fetching) -> None:
    backbones = list(fetching.missing)
    fetching.fetch_first(backbones, all_of_them=True, required=True)
    assert all(backbone.is_cached for backbone in backbones)


def test_what_a_repeatable_search_names_has_to_arrive(fetching: Fetching, hub: LocalHub) -> None:
    backbones = list(fetching.missing)
    hub.entries[f"timm/{NAMES[0]}", "model.safetensors"].damaged = True
    with pytest.raises(AutotlError, match=f"{NAMES[0]}: The weights .* is damaged"):
        fetching.fetch_first(backbones, all_of_them=True, required=True)


def test_without_a_network_and_without_weights_the_search_ends_after_one_try(
    fetching: Fetching, hub: LocalHub, lines: list[str]
) -> None:
    hub.close()
    with pytest.raises(AutotlError, match=f"{NAMES[0]}: .*can't be reached"):
        fetching.fetch_first(list(fetching.missing), all_of_them=False, required=False)
    said = [line.split(": ")[0] for line in lines if not line.endswith("connecting")]
    assert said == [NAMES[0], f"{NAMES[0]} is left out", "So are"]


def test_a_full_disk_is_reported_as_such(fetching: Fetching) -> None:
    resource = pytest.importorskip("resource", reason="a limit on the size of files stands in for a full disk")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the process that downloads inherits it
    try:
        with pytest.raises(DiskFull, match="There is no room on the disk"):
            fetching.fetch_first(list(fetching.missing), all_of_them=False, required=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_process_that_knows_where_the_weights_are_imports_neither_timm_nor_torch(hub: LocalHub) -> None:
    code = (
        "import sys; from autotl.coordinator.fetch_process import main; "
        f'main(\'{{"location": "timm/{NAMES[0]}"}}\'); '
        "sys.exit(bool({'timm', 'torch'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        *_, last = process.stdout  # the process ends where its standard input does
        assert last == '{"error": null}\n'
        assert process.wait() == 0
