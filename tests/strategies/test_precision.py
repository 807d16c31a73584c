"""Which precision trains: asked of the chip, measured once, and part of what was trained."""

import pytest
import torch
from torch import nn

from autotl.engines.torch import TorchEngine
from autotl.recipe import Recipe
from autotl.strategies import precision
from autotl.strategies.fine_tuning import FineTuning


@pytest.fixture
def seconds(monkeypatch):
    """`seconds(fp32=…, bf16=…)`: what a step takes on a chip that multiplies bf16. Returns what is measured."""

    def pretend(**taken):
        measured = []
        monkeypatch.setattr(TorchEngine, "precision", lambda self, device: "bf16")
        monkeypatch.setattr(precision, "_measured", {})
        monkeypatch.setattr(precision, "_step", lambda *args: measured.append(args[-1]) or taken[args[-1]])
        return measured

    return pretend


def _faster(device="cpu"):
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    return precision.faster(nn.Linear(3, 2), x, y, device, "a linear layer")


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(2.0, 1.0, "bf16"), (1.0, 2.0, "fp32")])
def test_the_faster_one_is_measured_once(fp32, bf16, chosen, seconds):
    measured = seconds(fp32=fp32, bf16=bf16)
    assert (_faster(), _faster()) == (chosen, chosen)
    assert sorted(measured) == ["bf16", "fp32"]


def test_a_chip_that_does_not_multiply_bf16_trains_in_fp32(seconds, monkeypatch):
    measured = seconds()
    monkeypatch.setattr(TorchEngine, "precision", lambda self, device: "fp32")
    assert _faster() == "fp32"
    assert not measured


def test_nothing_is_measured_on_a_gpu(seconds):
    measured = seconds()
    assert _faster("cuda:0") == "bf16"
    assert not measured


def test_measuring_leaves_network_and_random_numbers_alone(monkeypatch):
    monkeypatch.setattr(TorchEngine, "precision", lambda self, device: "bf16")
    monkeypatch.setattr(precision, "_measured", {})
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert precision.faster(network, x, y, "cpu", "x") in ("fp32", "bf16")
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_training_in_bf16_learns_and_the_recipe_says_so(tiny, task):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear")
    params = {**FineTuning().defaults(problem.head), "epochs": 4, "lr": 1e-3, "precision": "bf16"}
    recipe = Recipe(backbone.name, "fine_tuning", "linear", 3, params, {"dropout": 0.2})
    result = FineTuning().fit(recipe, problem, "cpu", lambda fraction, score: None)
    assert result.recipe.strategy_params["precision"] == "bf16"
    assert problem.metric(problem.validation_labels, result.probabilities) >= 0.75
    exact = FineTuning().fit(
        Recipe(backbone.name, "fine_tuning", "linear", 3, {**params, "precision": "fp32"}, {"dropout": 0.2}),
        problem, "cpu", lambda fraction, score: None,
    )  # fmt: skip
    assert exact.history[0]["loss"] == pytest.approx(result.history[0]["loss"], rel=0.05)
    assert exact.history[0]["loss"] != result.history[0]["loss"]
