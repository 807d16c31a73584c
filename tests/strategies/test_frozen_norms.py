"""The faster backward pass of frozen batch norms gives the usual gradients. It runs on CPUs here too."""

from copy import deepcopy

import pytest
import timm
import torch
from torch import nn

from autotl.strategies import frozen_norms
from autotl.strategies.frozen_norms import speed_up_frozen_norms


@pytest.fixture(autouse=True)
def _everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    class Anywhere(frozen_norms._Forward):
        def __call__(self, x):
            module = self.module
            if module.training or not torch.is_grad_enabled():
                return self.usual(x)
            statistics = module.running_mean, module.running_var
            y = frozen_norms._FrozenNorm.apply(x, module.weight, module.bias, *statistics, module.eps)
            return y if type(module) is nn.BatchNorm2d else module.act(module.drop(y))

    monkeypatch.setattr(frozen_norms, "_Forward", Anywhere)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_gradients_are_the_usual_ones(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=3).double()
    x, labels = torch.randn(4, 3, 96, 96, dtype=torch.double), torch.tensor([0, 1, 2, 0])
    network.train()(x)  # statistics other than 0 and 1
    network.eval()
    faster = deepcopy(network)
    speed_up_frozen_norms(faster.modules())
    for one in (network, faster):
        nn.functional.cross_entropy(one(x), labels).backward()
    for (name, expected), parameter in zip(network.named_parameters(), faster.parameters(), strict=True):
        assert torch.allclose(parameter.grad, expected.grad, rtol=1e-5, atol=1e-8), name


def test_a_frozen_weight_gets_no_gradient_and_a_norm_in_training_mode_learns_statistics() -> None:
    norm = nn.BatchNorm2d(2)
    speed_up_frozen_norms([norm])
    norm.eval().requires_grad_(requires_grad=False)
    x = torch.randn(3, 2, 4, 4, requires_grad=True)
    norm(x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None
    norm.train()(x)
    assert norm.num_batches_tracked == 1


def test_other_norms_keep_their_forward() -> None:
    norms = [nn.LayerNorm(2), nn.BatchNorm1d(2), nn.BatchNorm2d(2, affine=False)]
    before = [norm.forward for norm in norms]
    speed_up_frozen_norms(norms)
    assert [norm.forward for norm in norms] == before
