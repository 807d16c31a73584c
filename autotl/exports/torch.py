"""PyTorch's own export format: a program that torch runs without the code that built the network."""

import warnings
from pathlib import Path

import numpy as np

from autotl.exports.base import ExportedModel, Exporter, Runtime
from autotl.exports.examples import script

__all__ = ["TorchExporter"]

FILE = "model.pt2"


class TorchExporter(Exporter):
    """`model.pt2`, for `torch.export.load`, in fp32, with the same input and output as the ONNX export."""

    name = "torch"
    requires = "torch"

    def export(self, model: ExportedModel, folder: Path) -> None:
        import torch

        from autotl.exports.graph import model_graph

        # two different odd sides: a dimension that equals another one, or 1, would be taken for a constant
        example = torch.zeros(2, 97, 131, 3, dtype=torch.uint8)
        dims = {0: torch.export.Dim("n"), 1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(model_graph(model), (example,), dynamic_shapes={"images": dims})
            torch.export.save(program, folder / FILE)

    def load(self, folder: Path) -> Runtime:
        import torch

        module = torch.export.load(folder / FILE).module()

        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return np.asarray(module(torch.from_numpy(images)).numpy())

        return run

    def example(self, model: ExportedModel, folder: Path) -> str:
        return script(
            requires=self.requires,
            hint=model.size_hint,
            imports="import torch",
            load=f'model = torch.export.load(here / "{FILE}").module()',
            run="with torch.inference_mode():\n"
            "    (probabilities,) = model(torch.from_numpy(np.array(read(path))[None])).numpy()",
        )
