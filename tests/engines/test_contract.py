"""The conformance kit on the built-in engines, and on PyTorch in each precision."""

import pytest

from autotl.engines.openvino import OpenVinoEngine
from autotl.engines.torch import TorchCompileEngine, TorchEngine
from autotl.testing import engine_checks

pytestmark = pytest.mark.slow


@engine_checks
@pytest.mark.parametrize(
    "engine",
    [TorchEngine(), TorchEngine(bf16=False), TorchCompileEngine(), OpenVinoEngine()],
    ids=["torch", "torch_fp32", "torch_compile", "openvino"],
)
def test_a_built_in_engine_keeps_the_contract(engine, check):
    check(engine)
