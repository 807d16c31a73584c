"""The torch modules of dense heads: batch normalisation and dropout."""

import pytest
import torch

from autotl.heads.dense import MLP
from autotl.heads.layers import BatchNorm, Dropout, seeded


@pytest.mark.parametrize("normalization", ["batch", "layer", "none"])
def test_a_training_batch_of_one_sample_leaves_the_running_statistics_unchanged(normalization):
    with seeded(0):
        head = MLP().build({**MLP().defaults(), "normalization": normalization}, 12, 3, seed=0).train()
        head(torch.randn(8, 12))
        before = {name: buffer.clone() for name, buffer in head.named_buffers()}
        assert torch.isfinite(head(torch.randn(1, 12))).all()
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in head.named_buffers())


def test_a_training_batch_is_normalised_as_by_torch():
    x = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    assert torch.allclose(BatchNorm(5).train()(x), torch.nn.BatchNorm1d(5).train()(x))


def test_running_statistics_are_the_average_of_the_first_batches():
    norm = BatchNorm(5, affine=False).train()
    batches = torch.randn(3, 16, 5, generator=torch.Generator().manual_seed(0)) * 4 + 2
    for batch in batches:
        norm(batch)
    torch.testing.assert_close(norm.running_mean, batches.mean(1).mean(0))
    torch.testing.assert_close(norm.running_var, batches.var(1).mean(0))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.7, 1.0])
def test_dropout_drops_the_fraction_p_and_keeps_the_mean(p):
    dropout, x = Dropout(p).train(), torch.ones(301, 203, requires_grad=True)  # the size is not a multiple of eight
    with seeded(0):
        y = dropout(x)
    y.sum().backward()
    y, dropped = y.detach(), (y == 0).float()
    assert torch.equal(x.grad, y)  # inputs are 1: forward and backward scale or drop the same values
    assert len(y.unique()) == (1 if p in (0, 1) else 2)
    assert float(dropped.mean()) == pytest.approx(p, abs=0.01)
    assert float(y.mean()) == pytest.approx(0 if p == 1 else 1, abs=0.02)
    for dim in (0, 1):  # evenly over samples and features
        assert dropped.mean(dim).sub(p).abs().max() < 0.15
    assert torch.equal(dropout.eval()(x), x)


def test_seeded_restores_the_global_generator():
    before = torch.random.get_rng_state()
    with seeded(5):
        torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
