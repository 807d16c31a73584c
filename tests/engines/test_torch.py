"""The PyTorch engines: `torch.compile` matches plain PyTorch, and is only used when it is chosen by name."""

import numpy as np
import pytest
import torch
import torch._inductor.config
from skimage import data
from torch import nn

from autotl.backbones.base import Preprocessing
from autotl.backbones.graph_split import Normalize
from autotl.engines.parity import engine_cosine, mean_cosine
from autotl.engines.torch import TorchCompileEngine, TorchEngine
from autotl.errors import AutotlError

IMAGES = np.stack([data.astronaut()[i : i + 64, i : i + 64] for i in (0, 100, 200, 300, 400)])
needs_compiler = pytest.mark.skipif(not TorchCompileEngine().usable("cpu"), reason="there is no C++ compiler")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return Normalize(layers, Preprocessing(64, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)).eval()


def compiled(module: nn.Module):
    engine = TorchCompileEngine(bf16=False)
    return engine.compile(module, 64, "cpu", 1, engine.precision("cpu"))


@pytest.mark.slow
@needs_compiler
def test_a_compiled_network_matches_pytorch_and_is_compiled_once_for_all_batches(network, monkeypatch) -> None:
    monkeypatch.setattr(
        torch._inductor.config, "cpp_cache_precompile_headers", False
    )  # slower for fewer than three graphs
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = compiled(network)
    features = run(IMAGES)
    assert engine_cosine(run, network, IMAGES) > 0.9999
    assert mean_cosine(run(IMAGES[:3]), features[:3]) > 0.9999
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # compiled, not just run


@pytest.mark.slow
def test_a_failed_compilation_is_an_error_that_names_another_engine(network: nn.Module, monkeypatch) -> None:
    from torch._inductor import compile_fx

    def fails(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(compile_fx, "compile_fx", fails)
    torch._dynamo.reset()
    with pytest.raises(AutotlError, match=r"No working C\+\+ compiler found.*--engine torch"):
        compiled(network)(IMAGES)


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "mps"])
def test_torch_compile_is_never_chosen_automatically(registry, device: str) -> None:
    assert registry.engine(None, device).name in ("openvino", TorchEngine.name)
    assert registry.engine("torch_compile", device).name == "torch_compile"
