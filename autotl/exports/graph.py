"""The whole model as one torch module: from images of any size to probabilities."""

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from autotl.backbones.base import Preprocessing
from autotl.backbones.graph_split import Normalize
from autotl.data.device_augmentation import transpose
from autotl.exports.base import ExportedFamiliar, ExportedMember, ExportedModel
from autotl.exports.resize import Resize
from autotl.features.extractor import LARGEST_FEATURE
from autotl.heads.modules import head_module

__all__ = ["model_graph"]


def model_graph(model: ExportedModel, *, likeness: bool = False, in_float32: bool = False) -> nn.Module:
    """The whole model as one torch module that can be traced: uint8 images of any one size [N, height, width, 3] to
    probabilities, float32 [N, num_classes].

    Args:
        likeness: return a second tensor where the model can tell unknown images: how usual each is, float32 [N].
        in_float32: for a runtime that converts float64 to float32: resize as exactly without it.

    Raises:
        AutotlError: a head can't be computed with tensors, or images are resized by the nearest pixel.
    """
    return _ModelGraph(model, model.familiar if likeness else None, in_float32=in_float32).eval()


class _ModelGraph(nn.Module):
    def __init__(self, model: ExportedModel, familiar: ExportedFamiliar | None = None, *, in_float32: bool = False):
        super().__init__()
        preparations: list[Preprocessing] = []
        for network in model.networks:
            if network.backbone.preprocessing not in preparations:
                preparations.append(network.backbone.preprocessing)
        self.resizes = nn.ModuleList(Resize(prepared, in_float32=in_float32) for prepared in preparations)
        self.prepared_by = [preparations.index(network.backbone.preprocessing) for network in model.networks]
        self.networks = nn.ModuleList(Normalize(n.features, n.backbone.preprocessing) for n in model.networks)
        self.views: list[list[Image.Transpose | None]] = [
            list(dict.fromkeys(view for m in model.members if number in m.networks for view in m.transposes))
            for number in range(len(model.networks))
        ]
        self.members: list[ExportedMember] = list(model.members)
        total = sum(member.weight for member in model.members)
        self.shares = [member.weight / total for member in model.members]
        self.heads = nn.ModuleList(head_module(member.head, len(model.classes)) for member in model.members)
        self.likeness = None if familiar is None else _Likeness(familiar)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        prepared: dict[tuple[int, object], Tensor] = {}
        features: dict[tuple[int, object], Tensor] = {}
        for number, (by, views, network) in enumerate(zip(self.prepared_by, self.views, self.networks, strict=True)):
            for view in views:
                if (by, view) not in prepared:
                    drawn = images if view is None else transpose(images.permute(0, 3, 1, 2), view).permute(0, 2, 3, 1)
                    prepared[by, view] = self.resizes[by](drawn)
                features[number, view] = network(prepared[by, view]).clamp(-LARGEST_FEATURE, LARGEST_FEATURE)
        probabilities: Tensor | None = None
        for member, share, head in zip(self.members, self.shares, self.heads, strict=True):
            logits: Tensor | None = None
            for view in member.transposes:
                seen = [features[number, view][:, part.start : part.stop] for number, part in member.parts]
                answer = head(seen[0] if len(seen) == 1 else torch.cat(seen, 1))
                logits = answer if logits is None else logits + answer
            assert logits is not None
            part = share * (logits / (len(member.transposes) * member.temperature)).softmax(1)
            probabilities = part if probabilities is None else probabilities + part
        assert probabilities is not None
        if self.likeness is None:
            return probabilities
        views = self.views[self.likeness.network]
        recorded = features[self.likeness.network, None if None in views else views[0]]
        return probabilities, self.likeness(recorded)


class _Likeness(nn.Module):
    """`autotl.model.doubt.Familiar.likeness`."""

    def __init__(self, familiar: ExportedFamiliar):
        super().__init__()
        self.network = familiar.network
        self.samples: Tensor
        self.distances: Tensor
        self.register_buffer("samples", torch.from_numpy(familiar.samples.astype("float32")))
        self.register_buffer("distances", torch.from_numpy(familiar.distances.astype("float32")))
        self.neighbours = min(familiar.neighbours, len(familiar.samples))

    def forward(self, features: Tensor) -> Tensor:
        rows = normalize(features[:, : self.samples.shape[1]])
        squares = (rows**2).sum(1, keepdim=True) + (self.samples**2).sum(1) - 2 * rows @ self.samples.T
        nearest = squares.topk(self.neighbours, 1, largest=False).values
        far = nearest.amax(1, keepdim=True).clamp(min=0).sqrt()
        as_far = (self.distances >= far).sum(1)
        return (1 + as_far).float() / (1 + len(self.distances))
