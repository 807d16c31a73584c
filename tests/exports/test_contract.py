"""The conformance kit on the built-in exporters."""

import pytest

from autotl.exports.onnx import OnnxExporter
from autotl.exports.openvino import OpenVinoExporter
from autotl.exports.timm import TimmExporter
from autotl.exports.torch import TorchExporter
from autotl.testing import exporter_checks

pytestmark = pytest.mark.slow


@exporter_checks
@pytest.mark.parametrize(
    "exporter", [OnnxExporter(), OpenVinoExporter(), TimmExporter(), TorchExporter()], ids=lambda e: e.name
)
def test_a_built_in_exporter_keeps_the_contract(exporter, check):
    check(exporter)
