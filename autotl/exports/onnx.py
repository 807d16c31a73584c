"""ONNX: one file for ONNX Runtime and whatever else reads the format."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from autotl.errors import AutotlError
from autotl.exports.base import ExportedModel, Exporter, Runtime
from autotl.exports.examples import script

__all__ = ["OnnxExporter"]

FILE = "model.onnx"
OPSET = 18
MAX_BYTES = 1_900_000_000
"""Weights up to which they lie in the one file: protobuf holds 2 GB."""


class OnnxExporter(Exporter):
    """`model.onnx`, in fp32: `images`, uint8 [N, height, width, 3], to `probabilities`, float32 [N, num_classes]."""

    name = "onnx"
    requires = "onnxruntime"

    def export(self, model: ExportedModel, folder: Path) -> None:
        import torch

        from autotl.exports.graph import model_graph

        self._require()
        module = model_graph(model)
        # two different odd sides: a dimension that equals another one, or 1, would be taken for a constant
        example = torch.zeros(2, 97, 131, 3, dtype=torch.uint8)
        dims = {0: torch.export.Dim("n"), 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
        size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
        with _quiet(), torch.no_grad():
            torch.onnx.export(
                module,
                (example,),
                folder / FILE,
                dynamo=True,
                dynamic_shapes={"images": dims},
                input_names=["images"],
                output_names=["probabilities"],
                opset_version=OPSET,
                external_data=size > MAX_BYTES,
            )

    def load(self, folder: Path) -> Runtime:
        self._require()
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
        return lambda images: np.asarray(session.run(None, {"images": images})[0])

    def example(self, model: ExportedModel, folder: Path) -> str:
        return script(
            requires=self.requires,
            hint=model.size_hint,
            imports="import onnxruntime",
            load=f'session = onnxruntime.InferenceSession(here / "{FILE}")',
            run='(probabilities,) = session.run(None, {"images": np.array(read(path))[None]})[0]',
        )

    def _require(self) -> None:
        missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name) is None]
        if missing:
            raise AutotlError(f"The export to ONNX needs {', '.join(missing)}. Type: pip install 'autotl[onnx]'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PyTorch's exporter prints and warns of its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
