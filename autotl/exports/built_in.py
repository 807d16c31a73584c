"""The built-in exporters, registered by one module: a module's name is a prefix of what it adds, and `timm:` and
`torch:` stand for backbones and engines."""

from typing import TYPE_CHECKING

from autotl.exports.onnx import OnnxExporter
from autotl.exports.openvino import OpenVinoExporter
from autotl.exports.timm import TimmExporter
from autotl.exports.torch import TorchExporter

if TYPE_CHECKING:
    from autotl.exports.base import Exporter
    from autotl.registration import Register

__all__: list[str] = []


def autotl_register_exporters(register: "Register[Exporter]") -> None:
    for exporter in (OnnxExporter(), OpenVinoExporter(), TimmExporter(), TorchExporter()):
        register(exporter)
