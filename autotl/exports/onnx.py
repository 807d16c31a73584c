"""ONNX: one file for ONNX Runtime and whatever else reads the format."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from autotl.errors import AutotlError
from autotl.exports.base import ExportedModel, Exporter, Runtime
from autotl.exports.examples import script

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["OnnxExporter"]

FILE = "model.onnx"
OPSET = 18
MAX_BYTES = 1_900_000_000
"""Weights up to which they lie in the one file: protobuf holds 2 GB."""


class OnnxExporter(Exporter):
    """`model.onnx`: `images`, uint8 [N, height, width, 3], to `probabilities`, float32 [N, num_classes]."""

    name = "onnx"
    requires = "onnxruntime"
    precisions = ("fp32", "fp16", "int8")

    def export(self, model: ExportedModel, folder: Path) -> None:
        import torch

        from autotl.exports.graph import model_graph

        self._require()
        module = model_graph(model, likeness=True)
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
                output_names=["probabilities", *(["likeness"] if model.familiar else [])],
                opset_version=OPSET,
                external_data=size > MAX_BYTES,
            )

    def load(self, folder: Path) -> Runtime:
        session = self._session(folder)
        return lambda images: np.asarray(session.run(["probabilities"], {"images": images})[0])

    def load_likeness(self, folder: Path) -> Runtime | None:
        session = self._session(folder)
        if "likeness" not in [output.name for output in session.get_outputs()]:
            return None
        return lambda images: np.asarray(session.run(["likeness"], {"images": images})[0])

    def _session(self, folder: Path) -> "InferenceSession":
        self._require()
        import onnxruntime

        return onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

    def compress(self, exact: Path, folder: Path, precision: str, images: Sequence[np.ndarray]) -> None:
        self._require()
        from autotl.exports.onnx_precision import quantize, store_in_fp16

        if precision == "fp16":
            store_in_fp16(exact / FILE, folder / FILE)
        else:
            with _quiet():
                quantize(exact / FILE, folder / FILE, images)

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
    """Without what PyTorch's exporter and ONNX Runtime's quantizer print and warn of their own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", None)]
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
