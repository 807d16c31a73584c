"""Passes on GPUs: one thread queues them, in batches of few sizes. A stand-in on the CPU keeps the same rules."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from autotl.engines import micro_batch
from autotl.engines.passes import padded_size, queued, run_padded
from autotl.engines.torch import TorchEngine


def test_batches_have_few_sizes_and_large_images_come_in_smaller_ones():
    assert [padded_size(n, 224) for n in (1, 2, 8, 200, 256, 300)] == [1, 256, 256, 256, 256, 512]
    assert [padded_size(8, size) for size in (32, 224, 320, 448, 4000)] == [256, 256, 64, 64, 16]
    sizes = [padded_size(8, size) for size in range(32, 1200, 32)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 16


def test_padding_changes_no_feature():
    images = torch.arange(12.0).reshape(3, 4)
    seen = []

    def network(batch):
        seen.append(len(batch))
        return batch * 2

    assert torch.equal(run_padded(network, images, 8), images * 2)
    assert torch.equal(run_padded(network, images, 3), images * 2)
    assert torch.equal(run_padded(network, images, 1), images * 2)
    assert seen == [8, 3, 3]


def test_all_passes_are_queued_by_one_thread_and_errors_come_back():
    with ThreadPoolExecutor(4) as callers:
        names = set(callers.map(lambda _: queued(threading.get_ident, "cpu"), range(20)))
    assert len(names) == 1
    assert names != {threading.get_ident()}
    assert queued(lambda: queued(lambda: 3, "cpu"), "cpu") == 3
    with pytest.raises(ZeroDivisionError):
        queued(lambda: 1 // 0, "cpu")


class Counting(nn.Module):
    """Notes the size and the thread of each batch; more than `fits` images are out of memory."""

    def __init__(self, fits=1000):
        super().__init__()
        self.fits = fits
        self.seen = []

    def forward(self, images):
        self.seen.append((len(images), threading.get_ident()))
        if len(images) > self.fits:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return images.float().flatten(1).mean(1, keepdim=True)


@pytest.mark.parametrize("fits", [1000, 100])
def test_the_engine_pads_to_what_fits_and_queues_from_any_thread(fits, monkeypatch):
    monkeypatch.setattr("autotl.engines.passes.has_plans", lambda device: True)
    monkeypatch.setattr(micro_batch, "_fitting_sizes", {})
    network = Counting(fits)
    compiled = TorchEngine().compile(network, 8, "cpu", 1, "fp32", key=f"counting {fits}")
    images = np.random.default_rng(0).integers(0, 256, (300, 8, 8, 3), dtype=np.uint8)
    expected = images.reshape(300, -1).mean(1, keepdims=True)
    with ThreadPoolExecutor(3) as callers:
        for features, n in zip(
            callers.map(lambda n: compiled(images[:n]), (1, 8, 184, 256)), (1, 8, 184, 256), strict=True
        ):
            np.testing.assert_allclose(features, expected[:n], rtol=1e-2)
    fitting = {size for size, _ in network.seen if size <= fits}
    assert fitting == ({1, 256} if fits == 1000 else {1, 64})
    assert len({thread for _, thread in network.seen}) == 1
