"""OpenVINO's own format: two files for Intel's and ARM's processors."""

import logging
import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from autotl.engines.openvino import load_openvino
from autotl.errors import AutotlError
from autotl.exports.base import ExportedModel, Exporter, Runtime
from autotl.exports.examples import script

__all__ = ["OpenVinoExporter"]

FILE = "model.xml"
NETWORK = re.compile(r"networks\.\d+\.features\.")
"""In the name of each operation of a network; see `autotl.exports.graph`."""
ATTENTION = ("Softmax", "ScaledDotProductAttention")
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}
"""By default OpenVINO computes in bf16 where the processor can, whose answers differ."""


class OpenVinoExporter(Exporter):
    """`model.xml` and `model.bin`, with the same input and output as the ONNX export."""

    name = "openvino"
    requires = "openvino"
    precisions = ("fp32", "fp16", "int8")

    def export(self, model: ExportedModel, folder: Path) -> None:
        import torch

        from autotl.exports.graph import model_graph

        openvino = load_openvino()
        example = torch.zeros(1, 97, 131, 3, dtype=torch.uint8)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # tracing warns of each Python branch; the export is checked afterwards
            converted = openvino.convert_model(
                model_graph(model, likeness=True, in_float32=True), example_input=example, input=[-1, -1, -1, 3]
            )
        converted.inputs[0].set_names({"images"})
        for output, name in zip(converted.outputs, ("probabilities", "likeness"), strict=False):
            output.set_names({name})
        openvino.save_model(converted, folder / FILE, compress_to_fp16=False)

    def load(self, folder: Path) -> Runtime:
        openvino = load_openvino()
        compiled = openvino.Core().compile_model(folder / FILE, "CPU", PRECISION)
        return lambda images: np.array(compiled(images)[0])

    def load_likeness(self, folder: Path) -> Runtime | None:
        compiled = load_openvino().Core().compile_model(folder / FILE, "CPU", PRECISION)
        return (lambda images: np.array(compiled(images)[1])) if len(compiled.outputs) > 1 else None

    def compress(self, exact: Path, folder: Path, precision: str, images: Sequence[np.ndarray]) -> None:
        openvino = load_openvino()
        model = openvino.Core().read_model(exact / FILE)
        if precision == "int8":
            model = _quantized(model, images)
        openvino.save_model(model, folder / FILE, compress_to_fp16=precision == "fp16")

    def example(self, model: ExportedModel, folder: Path) -> str:
        return script(
            requires=self.requires,
            hint=model.size_hint,
            imports="import openvino",
            load=f'model = openvino.compile_model(here / "{FILE}", "CPU", {PRECISION!r})'.replace("'", '"'),
            run="(probabilities,) = model(np.array(read(path))[None])[0]",
        )


def _quantized(model: Any, images: Sequence[np.ndarray]) -> Any:
    """The model with networks in int8, whose activations have the range that they have on the images."""
    if find_spec("nncf") is None:
        raise AutotlError("OpenVINO in int8 needs nncf. Type: pip install 'autotl[int8]'")
    import nncf

    operations = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    # a convolution that took in its batch norm has lost its name; there are none outside of networks
    kept = [name for name, kind in operations.items() if not NETWORK.search(name) and "Convolution" not in kind]
    attends = any(kind in ATTENTION and NETWORK.search(name) for name, kind in operations.items())
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: image[None]),
            subset_size=len(images),
            model_type=nncf.ModelType.TRANSFORMER if attends else None,
            ignored_scope=nncf.IgnoredScope(names=kept, validate=False),
        )
    finally:
        logger.setLevel(level)
