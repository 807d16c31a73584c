"""timm's own folder, `local-dir:FOLDER`, which can be pushed to the Hub: a network with its fine-tuned weights, and the
classifier where the head is a linear function of the network's output."""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.errors import AutotlError
from autotl.exports.base import ExportedModel, ExportedNetwork, Exporter, Runtime
from autotl.exports.examples import script

if TYPE_CHECKING:
    from torch import Tensor, nn


__all__ = ["TimmExporter"]

SAMPLES = 64
"""Random features on which a head is compared with the linear function that it may be."""


class TimmExporter(Exporter):
    """`config.json` and `model.safetensors` for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    A model of one member whose head is linear in the network's output is written whole, as timm's classifier. Of any
    other model the networks are written without a classifier, each in a folder of its own where there are several.
    """

    name = "timm"
    requires = "timm"
    tolerance = 0.02  # timm's transforms resize with Pillow

    def export(self, model: ExportedModel, folder: Path) -> None:
        from timm.models import save_for_hf

        for network, place in zip(model.networks, _places(model, folder), strict=True):
            module = copy.deepcopy(network.module)
            if not hasattr(module, "pretrained_cfg"):
                raise AutotlError(
                    f"{network.backbone.name} is no model of timm, so timm can't read it. Type --to onnx, openvino or "
                    "torch."
                )
            config: dict[str, Any] = {"num_classes": 0}
            if (layer := _classifier(model)) is not None:
                _set_classifier(module, *layer)
                config = {"num_classes": len(model.classes), "label_names": list(model.classes)}
            prepared = network.backbone.preprocessing
            save_for_hf(
                module,
                str(place),
                model_config=config,
                safe_serialization=True,
                data_config={
                    "input_size": (3, prepared.size, prepared.size),
                    "interpolation": prepared.interpolation,
                    "mean": prepared.mean,
                    "std": prepared.std,
                    "crop_pct": prepared.crop,
                    "crop_mode": "squash" if prepared.squash else "center",
                },
            )

    def load(self, folder: Path) -> Runtime | None:
        import timm
        import torch
        from PIL import Image

        if not (folder / "config.json").is_file():
            return None
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        if model.num_classes == 0:
            return None
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))

        def run(images: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                batch = torch.stack([transform(Image.fromarray(image)) for image in images])
                return np.asarray(model(batch).softmax(1).numpy())

        return run

    def example(self, model: ExportedModel, folder: Path) -> str:
        place = _places(model, folder)[0].relative_to(folder)
        where = 'f"local-dir:{here}"' if place == Path() else f'f"local-dir:{{here}}/{place}"'
        load = (
            f"model = timm.create_model({where}, pretrained=True).eval()\n"
            "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        )
        if _classifier(model) is None:
            return FEATURES.format(load=load)
        return script(
            requires=self.requires,
            hint=model.size_hint,
            imports="import timm\nimport torch",
            load=load,
            run="with torch.inference_mode():\n"
            "    (probabilities,) = model(transform(read(path))[None]).softmax(1).numpy()",
        )


FEATURES = '''"""Features of images: python example.py photo.jpg … (pip install timm pillow)"""

import sys
from pathlib import Path

import timm
import torch
from PIL import Image

here = Path(__file__).parent
{load}
for path in sys.argv[1:]:
    with torch.inference_mode():
        (features,) = model(transform(Image.open(path).convert("RGB"))[None])
    print(path, *[f"{{value:.4f}}" for value in features[:8].tolist()], "…")
'''


def _places(model: ExportedModel, folder: Path) -> list[Path]:
    """The folder of each network."""
    if len(model.networks) == 1:
        return [folder]
    return [folder / f"network-{number}" for number in range(1, len(model.networks) + 1)]


def _classifier(model: ExportedModel) -> "tuple[Tensor, Tensor] | None":
    """The model's head as the weights [num_classes, num_features] and the bias of a linear layer on the network's
    output; None where it isn't one."""
    from autotl.heads.modules import head_module

    network = model.networks[0]
    if len(model.networks) > 1 or len(model.members) > 1:
        return None
    member, width = model.members[0], _width(network)
    if member.parts != ((0, slice(0, width)),) or member.transposes != (None,):
        return None

    return _as_linear(head_module(member.head, len(model.classes)), width, member.temperature)


def _width(network: ExportedNetwork) -> int:
    import torch

    size = network.backbone.preprocessing.size
    with torch.inference_mode():
        return int(network.module(torch.zeros(1, 3, size, size)).shape[1])


def _as_linear(head: "nn.Module", width: int, temperature: float) -> "tuple[Tensor, Tensor] | None":
    """The linear function that a head computes, measured on unit vectors; None where the head is not linear."""
    import torch

    from autotl.heads.inference import MISSING

    with torch.no_grad():
        bias = head(torch.zeros(1, width))[0]
        weights = (head(torch.eye(width)) - bias).T.contiguous()
        features = torch.randn((SAMPLES, width), generator=torch.Generator().manual_seed(0))
        known = bias > MISSING / 2  # beside a class without training images every difference is small
        answers, linear = head(features)[:, known], (features @ weights.T + bias)[:, known]
        if not torch.allclose(linear, answers, rtol=1e-3, atol=1e-3 * float(answers.abs().max())):
            return None
        return weights / temperature, bias / temperature


def _set_classifier(module: Any, weights: "Tensor", bias: "Tensor") -> None:
    from torch import nn

    module.reset_classifier(len(weights))
    layer = module.get_classifier()
    if not isinstance(layer, nn.Linear) or layer.weight.shape != weights.shape:
        raise AutotlError(
            f"timm's {type(module).__name__} has no linear classifier to put the head into. Type --to onnx, "
            "openvino or torch."
        )
    layer.weight, layer.bias = nn.Parameter(weights.contiguous()), nn.Parameter(bias.contiguous())
