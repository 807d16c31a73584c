"""The precision of training: measured once per machine where the chip multiplies bf16, and recorded in the recipe."""

import pytest
import torch
from torch import nn

from autotl.engines.torch import TorchEngine
from autotl.recipe import Recipe
from autotl.strategies import precision
from autotl.strategies.fine_tuning import FineTuning


@pytest.fixture(autouse=True)
def new_process(monkeypatch):
    """Forget this process's verdicts, at the start of a test and whenever the test calls it."""

    def forget():
        monkeypatch.setattr(precision, "_verdicts", {})

    forget()
    return forget


@pytest.fixture
def step_seconds(monkeypatch):
    """`step_seconds(fp32=…, bf16=…)`: what a step takes on a chip with bf16. Returns the list of measurements."""

    def pretend(**seconds):
        measured = []
        monkeypatch.setattr(TorchEngine, "precision", lambda self, device: "bf16")
        monkeypatch.setattr(precision, "_step_seconds", lambda *args: measured.append(args[-1]) or seconds[args[-1]])
        return measured

    return pretend


def choose(device="cpu", key="a linear layer", verdicts=None):
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    return precision.faster_precision(nn.Linear(3, 2), x, y, device, key, verdicts)


@pytest.mark.parametrize(("fp32", "bf16", "chosen"), [(2.0, 1.0, "bf16"), (1.0, 2.0, "fp32")])
def test_the_faster_precision_is_measured_once_per_process(fp32, bf16, chosen, step_seconds):
    measured = step_seconds(fp32=fp32, bf16=bf16)
    assert (choose(), choose()) == (chosen, chosen)
    assert sorted(measured) == ["bf16", "fp32"]


def test_a_second_process_takes_the_first_ones_verdict_whatever_it_would_measure(step_seconds, new_process, tmp_path):
    step_seconds(fp32=2.0, bf16=1.0)
    assert choose(verdicts=tmp_path) == "bf16"
    new_process()
    measured = step_seconds(fp32=1.0, bf16=2.0)
    assert choose(verdicts=tmp_path) == "bf16"
    assert not measured
    assert choose(key="another layer", verdicts=tmp_path) == "fp32"


def test_a_verdict_of_another_torch_version_does_not_count(step_seconds, new_process, tmp_path, monkeypatch):
    step_seconds(fp32=2.0, bf16=1.0)
    choose(verdicts=tmp_path)
    new_process()
    monkeypatch.setattr(torch, "__version__", "99.0")
    step_seconds(fp32=1.0, bf16=2.0)
    assert choose(verdicts=tmp_path) == "fp32"


@pytest.mark.parametrize("content", [b"", b"bf", b"\xff\xfe"])
def test_a_damaged_verdict_is_measured_again(content, step_seconds, new_process, tmp_path):
    step_seconds(fp32=2.0, bf16=1.0)
    choose(verdicts=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    new_process()
    measured = step_seconds(fp32=2.0, bf16=1.0)
    assert choose(verdicts=tmp_path) == "bf16"
    assert measured


def test_a_verdict_that_cannot_be_kept_is_used_all_the_same(step_seconds, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    step_seconds(fp32=2.0, bf16=1.0)
    assert choose(verdicts=tmp_path / "file") == "bf16"


def test_a_repeated_search_trains_the_same_recipe(step_seconds, new_process, tiny, task, tmp_path):
    backbone = tiny("test_resnet")
    problem = task(backbone, "linear", verdicts=tmp_path)
    params = {**FineTuning().defaults(problem.head), "epochs": 1}
    recipe = Recipe(backbone.name, "fine_tuning", "linear", 3, params, {"dropout": 0.2})
    executed = []
    for seconds in ({"fp32": 2.0, "bf16": 1.0}, {"fp32": 1.0, "bf16": 2.0}):
        new_process()
        step_seconds(**seconds)
        executed.append(FineTuning().fit(recipe, problem, "cpu", lambda fraction, score: None).recipe)
    assert executed[0].strategy_params["precision"] == "bf16"
    assert executed[0] == executed[1]


def test_a_chip_that_does_not_multiply_bf16_trains_in_fp32(step_seconds, monkeypatch):
    measured = step_seconds()
    monkeypatch.setattr(TorchEngine, "precision", lambda self, device: "fp32")
    assert choose() == "fp32"
    assert not measured


def test_nothing_is_measured_on_a_gpu(step_seconds):
    measured = step_seconds()
    assert choose("cuda:0") == "bf16"
    assert not measured


def test_measuring_leaves_the_network_and_the_global_generators_unchanged(monkeypatch):
    monkeypatch.setattr(TorchEngine, "precision", lambda self, device: "bf16")
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x, y = torch.rand(4, 3), torch.tensor([0, 1, 0, 1])
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert precision.faster_precision(network, x, y, "cpu", "x") in ("fp32", "bf16")
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_training_in_bf16_learns_and_is_recorded_in_the_recipe(tiny, task):
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


@pytest.mark.parametrize(("groups", "chosen"), [(1, "bf16"), (4, "fp32")])
def test_a_repeatable_search_measures_nothing(groups, chosen, step_seconds):
    measured = step_seconds(fp32=1.0, bf16=2.0)
    convolution = nn.Conv2d(4, 4, 3, groups=groups)
    assert precision.likely_precision(nn.Sequential(convolution), "cpu") == chosen
    assert precision.likely_precision(nn.Sequential(convolution), "cuda:0") == "bf16"
    assert precision.likely_precision(nn.Sequential(convolution.requires_grad_(requires_grad=False)), "cpu") == "bf16"
    assert not measured
