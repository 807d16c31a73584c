"""Dense heads: their architecture and their seed."""

import pytest
import torch

from autotl.heads.dense import MLP, Linear


@pytest.fixture(params=[Linear(), MLP()], ids=lambda spec: spec.name)
def spec(request):
    return request.param


def flat(head):
    return torch.cat([p.detach().flatten() for p in head.parameters()])


def test_the_seed_decides_the_initial_weights(spec):
    one, same, other = (flat(spec.build(spec.defaults(), 12, 3, seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_leaves_the_global_generator_unchanged(spec):
    before = torch.random.get_rng_state()
    spec.build(spec.defaults(), 12, 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_architecture_follows_the_parameters():
    params = {"depth": 3, "width": 20, "dropout": 0.1, "normalization": "layer", "activation": "silu"}
    head = MLP().build(params, 12, 4, seed=0)
    widths = [(m.in_features, m.out_features) for m in head if isinstance(m, torch.nn.Linear)]
    assert widths == [(12, 20), (20, 20), (20, 20), (20, 4)]
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in head) == 3
    assert sum(isinstance(m, torch.nn.SiLU) for m in head) == 3


def test_features_of_any_scale_are_normalised(spec):
    noise = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    features = noise * torch.tensor([0.01, 0.1, 1, 10, 100, 1000]) + 3
    head = spec.build(spec.defaults(), 6, 2, seed=0)
    normalised = head[0].train()(features)
    assert normalised.std(0).sub(1).abs().max() < 0.1
    assert normalised.mean(0).abs().max() < 1e-3
