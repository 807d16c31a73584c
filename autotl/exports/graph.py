"""The whole model as one torch module: from images of any size to probabilities."""

import torch
from PIL import Image
from torch import Tensor, nn

from autotl.backbones.base import Preprocessing
from autotl.backbones.graph_split import Normalize
from autotl.data.device_augmentation import transpose
from autotl.exports.base import ExportedMember, ExportedModel, ExportedNetwork
from autotl.exports.resize import Resize
from autotl.heads.modules import head_module

__all__ = ["model_graph"]


def model_graph(model: ExportedModel) -> nn.Module:
    """The whole model as one torch module that can be traced: uint8 images of any one size [N, height, width, 3] to
    probabilities, float32 [N, num_classes].

    Raises:
        AutotlError: a head can't be computed with tensors, or images are resized by the nearest pixel.
    """
    return _ModelGraph(model).eval()


class _ModelGraph(nn.Module):
    def __init__(self, model: ExportedModel):
        super().__init__()
        preparations: list[Preprocessing] = []
        for network in model.networks:
            if network.backbone.preprocessing not in preparations:
                preparations.append(network.backbone.preprocessing)
        self.resizes = nn.ModuleList(map(Resize, preparations))
        self.prepared_by = [preparations.index(network.backbone.preprocessing) for network in model.networks]
        total = sum(member.weight for network in model.networks for member in network.members)
        self.networks = nn.ModuleList(_Network(network, len(model.classes), total) for network in model.networks)
        self.views = [_views(network) for network in model.networks]

    def forward(self, images: Tensor) -> Tensor:
        prepared: dict[tuple[int, object], Tensor] = {}
        probabilities: Tensor | None = None
        for number, views, network in zip(self.prepared_by, self.views, self.networks, strict=True):
            for view in views:
                if (number, view) not in prepared:
                    drawn = images if view is None else transpose(images.permute(0, 3, 1, 2), view).permute(0, 2, 3, 1)
                    prepared[number, view] = self.resizes[number](drawn)
            part = network([prepared[number, view] for view in views])
            probabilities = part if probabilities is None else probabilities + part
        assert probabilities is not None
        return probabilities


class _Network(nn.Module):
    """Prepared images, [N, size, size, 3] for each view, to the share of its members in the probabilities."""

    def __init__(self, network: ExportedNetwork, num_classes: int, total_weight: float):
        super().__init__()
        self.views = _views(network)
        self.features = Normalize(network.features, network.backbone.preprocessing)
        self.members: list[ExportedMember] = list(network.members)
        self.shares = [member.weight / total_weight for member in network.members]
        self.heads = nn.ModuleList(head_module(member.head, num_classes) for member in network.members)

    def forward(self, images: list[Tensor]) -> Tensor:
        features = [_as_recorded(self.features(view)) for view in images]
        probabilities: Tensor | None = None
        for member, share, head in zip(self.members, self.shares, self.heads, strict=True):
            logits: Tensor | None = None
            for view in member.transposes:
                whole = features[self.views.index(view)]
                seen = [whole[:, part.start : part.stop] for part in member.parts]
                answer = head(seen[0] if len(seen) == 1 else torch.cat(seen, 1))
                logits = answer if logits is None else logits + answer
            assert logits is not None
            part = share * (logits / (len(member.transposes) * member.temperature)).softmax(1)
            probabilities = part if probabilities is None else probabilities + part
        assert probabilities is not None
        return probabilities


def _views(network: ExportedNetwork) -> list[Image.Transpose | None]:
    return list(dict.fromkeys(view for member in network.members for view in member.transposes))


def _as_recorded(features: Tensor) -> Tensor:
    """Rounded to the 11 bits of float16, as recorded features are, on which the heads were trained.

    In float32 arithmetic (Dekker, A floating-point technique for extending the available precision, 1971, section 4):
    runtimes remove a conversion to float16 and back.
    """
    features = features.clamp(-65504.0, 65504.0)
    shifted = features * 8193.0  # 2^13 + 1
    normal = shifted - (shifted - features)
    return torch.where(features.abs() < 2.0**-14, (features * 2.0**24).round() / 2.0**24, normal)
