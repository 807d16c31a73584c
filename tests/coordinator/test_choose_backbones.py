"""Which backbones a search opens: what is here, what was named, and what is worth its download on this machine."""

import sys
from pathlib import Path

import pytest

from autotl.backbones.base import Backbone
from autotl.backbones.catalog import CURATED
from autotl.config import StudyConfig
from autotl.coordinator.choose_backbones import DownloadPolicy, choose_backbones, worth_downloading
from autotl.devices import Slot
from autotl.errors import AutotlError
from autotl.registry import Registry, load_registry
from autotl.testing.scripted import VirtualClock

sys.path.insert(0, str(Path(__file__).parents[1]))
from local_hub import LocalHub, local_hub  # noqa: F401  # a fixture

LAPTOP = [Slot(f"cpu:{i}", "cpu", "cpu", 2) for i in range(2)]
H100 = [Slot("cuda:0", "cuda", "cuda:0", 16)]
NAMES = [entry.name for entry in CURATED]
RESNET = "resnet50.tv_in1k"


@pytest.fixture(autouse=True)
def empty_caches(local_hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


@pytest.fixture
def bare() -> Registry:
    """Without a backbone whose weights are on this machine."""
    return load_registry(["efficientnet_lite"])


@pytest.fixture
def lite() -> Registry:
    """With three of 4 million parameters."""
    return load_registry()


def config(**more: object) -> StudyConfig:
    return StudyConfig.model_validate({"data": "photos", **more})


def names(backbones: list[Backbone]) -> list[str]:
    return [backbone.name for backbone in backbones]


def opened(registry: Registry, slots: list[Slot], time: str | None, num_images: int, **more: bool) -> list[str]:
    limits = {"time": time} if time else {"trials": 20}
    return names(worth_downloading(config(**limits), registry, slots, num_images, **more))


def choose(registry: Registry, confirm: object = None, **more: object) -> tuple[list[str], list[str], list[str]]:
    """The chosen, those of them that are to be downloaded, and the lines that the user sees."""
    asked = config(**more)
    policy = DownloadPolicy(asked, confirm or (lambda question: False), VirtualClock())  # type: ignore[arg-type]
    lines: list[str] = []
    chosen = choose_backbones(asked, registry, lines.append, policy=policy, slots=H100, num_images=1000)
    return names(chosen), names(list(policy.missing)), lines


# the shelf


def test_a_laptop_with_a_minute_opens_the_three_smallest(bare: Registry) -> None:
    assert opened(bare, LAPTOP, "1m", 5000) == NAMES[:3]


def test_a_gpu_with_an_hour_opens_all_of_it(bare: Registry) -> None:
    assert opened(bare, H100, "1h", 12_000) == NAMES


def test_more_time_never_opens_less(bare: Registry) -> None:
    for slots in (LAPTOP, H100):
        numbers = [len(opened(bare, slots, time, 3000)) for time in ("30s", "2m", "10m", "1h", "6h")]
        assert numbers == sorted(numbers)
        assert numbers[0] < numbers[-1]


def test_more_images_never_open_more(bare: Registry) -> None:
    numbers = [len(opened(bare, H100, "10m", count)) for count in (100, 10_000, 100_000, 10**6)]
    assert numbers == sorted(numbers, reverse=True)
    assert numbers[0] > numbers[-1] == 3


def test_a_search_without_a_time_limit_opens_the_same_every_time(bare: Registry, lite: Registry) -> None:
    assert opened(bare, H100, None, 1000) == NAMES[:3]
    assert opened(lite, H100, None, 1000) == []


def test_where_weights_are_here_the_shelf_is_opened_on_a_gpu_or_where_the_user_wants_more(lite: Registry) -> None:
    assert opened(lite, LAPTOP, "1h", 500) == []
    assert len(opened(lite, LAPTOP, "1h", 500, more=True)) > 5
    assert opened(lite, H100, "1h", 500) == NAMES


def test_a_large_download_needs_time(bare: Registry) -> None:
    """Its pass of 1000 images takes 4 s, its download and those before it three minutes."""
    assert not set(opened(bare, H100, "2m", 1000)) & set(NAMES[-2:])
    assert set(opened(bare, H100, "10m", 1000)) >= set(NAMES[-2:])


# may they be downloaded?


def test_a_script_searches_what_is_here_and_says_what_it_could_have(lite: Registry) -> None:
    chosen, missing, lines = choose(lite)
    assert chosen == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]
    assert missing == []
    assert lines == [f"The weights of 14 backbones could be downloaded, 4.3 GB: {', '.join(NAMES)}. "
                     "--download always fetches them."]  # fmt: skip


def test_a_script_without_any_weights_is_told_what_to_type(bare: Registry) -> None:
    with pytest.raises(
        AutotlError, match=r"nobody has allowed the download.*--download always.*pip install autotl-eff"
    ):
        choose(bare)


def test_always_downloads_without_a_question(lite: Registry) -> None:
    chosen, missing, lines = choose(lite, download="always")
    assert chosen == ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", *NAMES]
    assert (missing, lines) == (NAMES, [])


@pytest.mark.parametrize("answer", [True, False])
def test_a_user_at_a_terminal_is_asked_once_with_names_and_size(answer: bool, lite: Registry) -> None:
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return answer

    chosen, missing, _ = choose(lite, confirm)
    (question,) = questions
    assert question.startswith("The weights of 14 backbones could be downloaded, 4.3 GB: mobilenetv4")
    assert question.endswith("Download them?")
    assert (len(chosen), len(missing)) == ((17, 14) if answer else (3, 0))


def test_the_time_that_a_user_takes_to_answer_is_known(lite: Registry) -> None:
    clock = VirtualClock()
    policy = DownloadPolicy(config(), lambda question: clock.sleep(7) is None, clock)
    choose_backbones(config(), lite, print, policy=policy, slots=H100, num_images=10)
    assert policy.seconds_asked == 7


def test_named_backbones_are_downloaded_without_a_question(lite: Registry) -> None:
    chosen, missing, _ = choose(lite, backbones=[RESNET, "efficientnet_lite2"])
    assert chosen == ["efficientnet_lite2", RESNET]  # what is here comes first
    assert missing == [RESNET]


def test_named_backbones_are_asked_for_where_the_user_wants_it(lite: Registry) -> None:
    with pytest.raises(AutotlError, match=f"{RESNET}: its weights are not on this machine, and nobody has allowed"):
        choose(lite, backbones=[RESNET], download="ask")
    assert choose(lite, lambda question: True, backbones=[RESNET], download="ask")[1] == [RESNET]


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"offline": True}, "--offline forbids"), ({"download": "never"}, "--download never forbids")],
)
def test_what_the_user_has_forbidden_is_named(options: dict[str, object], reason: str, lite: Registry) -> None:
    with pytest.raises(AutotlError, match=rf"{reason} the download\. Leave it out, or give a file") as failure:
        choose(lite, backbones=[RESNET], **options)
    assert "AUTOTL_OFFLINE" not in str(failure.value)
    assert choose(lite, **options) == (["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"], [], [])


def test_a_variable_forbids_downloads_whatever_is_asked_for(lite: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert choose(lite, download="always")[1] == []
    with pytest.raises(AutotlError, match=r"HF_HUB_OFFLINE=1 forbids the download\. Unset HF_HUB_OFFLINE"):
        choose(lite, backbones=[RESNET], download="always")


def test_offline_and_always_exclude_each_other() -> None:
    from autotl.config import study_config

    with pytest.raises(AutotlError, match=r"--download: download = \"always\" is invalid: offline is set"):
        study_config("photos", offline=True, download="always")


def test_a_backbone_that_has_nothing_to_download_is_an_error_of_its_own(lite: Registry, tmp_path: Path) -> None:
    with pytest.raises(
        AutotlError, match=r"There is no weights file .*mine\.pth.*on this machine: efficientnet_lite0,"
    ):
        choose(lite, backbones=[f"resnet18@{tmp_path}/mine.pth"])


def test_a_resumed_study_keeps_its_backbones_and_their_order(lite: Registry) -> None:
    kept = [RESNET, "efficientnet_lite1"]
    policy = DownloadPolicy(config())
    lines: list[str] = []
    chosen = choose_backbones(config(), lite, lines.append, policy=policy, slots=H100, kept=kept)
    assert names(chosen) == kept
    assert lines == [f"Without their weights: {RESNET}. Nothing is downloaded."]
    named = config(backbones=kept[::-1])
    assert names(choose_backbones(named, lite, print, policy=DownloadPolicy(named), kept=kept)) == kept


# limits


def test_backbones_beyond_a_limit_are_left_out_with_one_line(lite: Registry) -> None:
    chosen, _, lines = choose(lite, backbones=["efficientnet_lite0", "efficientnet_lite2"], max_parameters="4M")
    assert chosen == ["efficientnet_lite0"]
    assert lines == ["Left out by --max-parameters 4M: efficientnet_lite2 (4.81M parameters)"]


def test_where_no_backbone_is_within_the_limits_the_error_says_what_to_type(lite: Registry) -> None:
    with pytest.raises(AutotlError, match=r"No backbone is within --max-size 5MB\. The smallest, .*--max-size 14MB"):
        choose(lite, backbones=["efficientnet_lite0"], max_size="5MB")


def test_a_resumed_study_keeps_its_choices_whatever_the_limits(lite: Registry) -> None:
    kept = ["efficientnet_lite0", "efficientnet_lite2"]
    chosen = choose_backbones(config(backbones=kept, max_parameters="4M"), lite, lambda line: None, kept=kept)
    assert names(chosen) == kept
