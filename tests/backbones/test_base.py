"""The parts of the contract that the base class implements: counting parameters, and the layout of features."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from autotl.backbones.base import Backbone, Block, Preprocessing
from autotl.backbones.timm import TimmBackbone
from autotl.config import StudyConfig
from autotl.coordinator.choose_backbones import choose_backbones
from autotl.errors import AutotlError


class Network(nn.Module):
    """10 parameters: 2 x 4 weights and 2 biases."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)


class ReadsValues(Network):
    """Like some published networks, which compute drop path rates from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        rates = torch.zeros(3)  # transformers patches torch.linspace to ignore the meta device
        if rates.is_meta:
            raise NotImplementedError("a tensor on the meta device has no values")
        self.rates = rates.tolist()


class Raises(Network):
    def __init__(self) -> None:
        raise KeyError("layer9")


class Unstated(Backbone):
    """A backbone that states neither its number of parameters nor anything else."""

    name = "unstated"
    is_cached, digest = False, "0" * 16
    preprocessing = Preprocessing(32, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)

    def __init__(self, network: type[nn.Module] = Network) -> None:
        self.network = network
        self.builds: list[tuple[bool, str]] = []

    def build(self, *, pretrained: bool = True) -> nn.Module:
        self.builds.append((pretrained, torch.get_default_device().type))
        return self.network().eval()

    def blocks(self, module: nn.Module) -> list[Block]:
        return [Block("linear", ("linear",))]


def test_a_stated_number_of_parameters_needs_no_building() -> None:
    backbone = Unstated()
    backbone.num_params = 7
    assert (backbone.count_params(), backbone.builds) == (7, [])


def test_an_unstated_number_is_counted_once_on_the_meta_device_without_weights() -> None:
    backbone = Unstated()
    assert [backbone.count_params(), backbone.count_params()] == [10, 10]
    assert backbone.builds == [(False, "meta")]


def test_a_network_that_cannot_be_built_on_the_meta_device_is_counted_on_the_cpu() -> None:
    backbone = Unstated(ReadsValues)
    assert backbone.count_params() == 10
    assert backbone.builds == [(False, "meta"), (False, "cpu")]


def test_counting_does_not_advance_the_callers_random_generator() -> None:
    before = torch.random.get_rng_state()
    Unstated(ReadsValues).count_params()
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_network_that_cannot_be_built_is_an_error_that_names_backbone_and_cause() -> None:
    with pytest.raises(AutotlError, match=r"Backbone 'unstated' can't be built: KeyError: 'layer9'.*num_params"):
        Unstated(Raises).count_params()


def test_a_counted_number_is_pickled_with_the_backbone(tmp_path: Path) -> None:
    backbone = TimmBackbone(f"test_resnet@{tmp_path / 'missing.safetensors'}")
    count = backbone.count_params()
    copy: Any = pickle.loads(pickle.dumps(backbone))  # noqa: S301  # pickled here
    assert vars(copy)["_counted"][0] == count == 372_688


@pytest.mark.parametrize(
    ("name", "count"), [("resnet18", 11_176_512), ("resnet18@/no such/weights.pth", 11_176_512), ("test_vit", 306_240)]
)
def test_timm_models_are_counted_without_their_classifier_and_their_weights(name: str, count: int) -> None:
    assert TimmBackbone(name).count_params() == count


def test_choosing_among_registered_backbones_imports_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from autotl.coordinator.choose_backbones import choose_backbones\n"
        "from autotl.config import StudyConfig\n"
        "from autotl.registry import load_registry\n"
        f"config = StudyConfig(data='images', name='x', output={str(tmp_path)!r})\n"
        "chosen = choose_backbones(config, load_registry(), print)\n"
        "print(len(chosen) > 0, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split()[-2:] == ["True", "False"]


def test_a_missing_weights_file_is_not_said_to_be_downloaded(registry) -> None:
    config = StudyConfig(data="images", backbones=["resnet18@/nowhere/weights.safetensors"])
    lines: list[str] = []
    with pytest.raises(AutotlError, match=r"There is no weights file '/nowhere/weights\.safetensors'"):
        choose_backbones(config, registry, lines.append)
    assert lines == []
