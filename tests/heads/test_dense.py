import pytest
import torch

from autotl.heads.dense import MLP, Linear
from autotl.heads.layers import BatchNorm, Dropout, seeded


@pytest.fixture(params=[Linear(), MLP()], ids=lambda spec: spec.name)
def spec(request):
    return request.param


def flat(head):
    return torch.cat([p.detach().flatten() for p in head.parameters()])


def test_weights_follow_the_seed(spec):
    one, same, other = (flat(spec.build(spec.defaults(), 12, 3, seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_building_leaves_the_global_generator_as_it_was(spec):
    before = torch.random.get_rng_state()
    spec.build(spec.defaults(), 12, 3, seed=5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_design_follows_the_parameters():
    params = {"depth": 3, "width": 20, "dropout": 0.1, "normalization": "layer", "activation": "silu"}
    head = MLP().build(params, 12, 4, seed=0)
    widths = [(m.in_features, m.out_features) for m in head if isinstance(m, torch.nn.Linear)]
    assert widths == [(12, 20), (20, 20), (20, 20), (20, 4)]
    assert sum(isinstance(m, torch.nn.LayerNorm) for m in head) == 3
    assert sum(isinstance(m, torch.nn.SiLU) for m in head) == 3


@pytest.mark.parametrize("normalization", ["batch", "layer", "none"])
def test_a_training_batch_may_have_one_row(normalization):
    head = MLP().build({**MLP().defaults(), "normalization": normalization}, 12, 3, seed=0).train()
    head(torch.randn(8, 12))
    before = {name: buffer.clone() for name, buffer in head.named_buffers()}
    assert torch.isfinite(head(torch.randn(1, 12))).all()
    assert all(torch.equal(buffer, before[name]) for name, buffer in head.named_buffers())


def test_features_of_any_scale_come_in_white(spec):
    features = torch.randn(500, 6) * torch.tensor([0.01, 0.1, 1, 10, 100, 1000]) + 3
    head = spec.build(spec.defaults(), 6, 2, seed=0)
    white = head[0].train()(features)
    assert white.std(0).sub(1).abs().max() < 0.1
    assert white.mean(0).abs().max() < 1e-3


def test_normalises_a_training_batch_as_torch_does():
    x = torch.randn(16, 5) * 3 + 1
    assert torch.allclose(BatchNorm(5).train()(x), torch.nn.BatchNorm1d(5).train()(x))


def test_running_statistics_are_the_first_batches_own():
    norm = BatchNorm(5, affine=False).train()
    batches = torch.randn(3, 16, 5) * 4 + 2
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean(1).mean(0))
    torch.testing.assert_close(norm.running_var, batches.var(1).mean(0))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_dropout_drops_its_share_and_keeps_the_mean(p):
    dropout, x = Dropout(p).train(), torch.ones(301, 203, requires_grad=True)  # no multiple of eight
    with seeded(0):
        y = dropout(x)
    y.sum().backward()
    y, dropped = y.detach(), (y == 0).float()
    assert torch.equal(x.grad, y)  # of ones: a value is scaled or gone, in both directions
    assert len(y.unique()) == (1 if p in (0, 1) else 2)
    assert float(dropped.mean()) == pytest.approx(p, abs=0.01)
    assert float(y.mean()) == pytest.approx(0 if p == 1 else 1, abs=0.02)
    for dim in (0, 1):  # nor is one row or column dropped more than another
        assert dropped.mean(dim).sub(p).abs().max() < 0.15
    assert torch.equal(dropout.eval()(x), x)
