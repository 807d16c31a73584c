"""OpenVINO's own format: two files for Intel's and ARM's processors."""

import warnings
from pathlib import Path

import numpy as np

from autotl.engines.openvino import load_openvino
from autotl.exports.base import ExportedModel, Exporter, Runtime
from autotl.exports.examples import script

__all__ = ["OpenVinoExporter"]

FILE = "model.xml"
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""By default OpenVINO computes in bf16 where the processor can, whose answers differ."""


class OpenVinoExporter(Exporter):
    """`model.xml` and `model.bin`, in fp32, with the same input and output as the ONNX export."""

    name = "openvino"
    requires = "openvino"

    def export(self, model: ExportedModel, folder: Path) -> None:
        import torch

        from autotl.exports.graph import model_graph

        openvino = load_openvino()
        example = torch.zeros(1, 97, 131, 3, dtype=torch.uint8)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of each Python branch; the export is checked afterwards
            converted = openvino.convert_model(model_graph(model), example_input=example, input=[-1, -1, -1, 3])
        converted.inputs[0].set_names({"images"})
        converted.outputs[0].set_names({"probabilities"})
        openvino.save_model(converted, folder / FILE, compress_to_fp16=False)

    def load(self, folder: Path) -> Runtime:
        openvino = load_openvino()
        compiled = openvino.Core().compile_model(folder / FILE, "CPU", PRECISION)
        return lambda images: np.array(compiled(images)[0])

    def example(self, model: ExportedModel, folder: Path) -> str:
        return script(
            requires=self.requires,
            hint=model.size_hint,
            imports="import openvino",
            load=f'model = openvino.compile_model(here / "{FILE}", "CPU", {PRECISION!r})'.replace("'", '"'),
            run="(probabilities,) = model(np.array(read(path))[None])[0]",
        )
