"""The conformance kit on the built-in exporters; test_export.py has ONNX, which takes the longest."""

import pytest

from autotl.exports.openvino import OpenVinoExporter
from autotl.exports.timm import TimmExporter
from autotl.exports.torch import TorchExporter
from autotl.testing import exporter_checks

pytestmark = pytest.mark.slow


@exporter_checks
@pytest.mark.parametrize("exporter", [OpenVinoExporter(), TimmExporter(), TorchExporter()], ids=lambda e: e.name)
def test_a_built_in_exporter_keeps_the_contract(exporter, check):
    check(exporter)
