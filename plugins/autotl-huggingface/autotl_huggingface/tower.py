"""A transformers image tower with a `forward` that torch.fx can trace: patches, layers, norm, pooled features.

transformers' own `forward` can't be traced. With this one, feature levels can be recorded after every layer, and
fine-tuning can start at any layer. The layers themselves are transformers' own.
"""

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MODELS", "Tower", "tower_of"]

MODELS = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "vit": "ViTModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
"""transformers' class by type of image tower."""


class Patches(nn.Module):
    """Images [N, 3, S, S] to tokens [N, L, C]: projected patches, class token, positions, register tokens."""

    def __init__(self, embeddings: Any, size: int, norm: nn.Module | None):
        super().__init__()
        # the attribute has one name in DINOv2 and ViT, another in CLIP and SigLIP
        patches = getattr(embeddings, "patch_embeddings", None)
        self.projection = patches.projection if patches is not None else embeddings.patch_embedding
        token = getattr(embeddings, "cls_token", getattr(embeddings, "class_embedding", None))
        self.token = None if token is None else nn.Parameter(token.detach().reshape(1, 1, -1))
        registers = getattr(embeddings, "register_tokens", None)
        self.registers = None if registers is None else nn.Parameter(registers.detach())
        self.positions = nn.Parameter(self._positions(embeddings, size))
        self.norm = norm

    @torch.no_grad()
    def _positions(self, embeddings: Any, size: int) -> Tensor:
        """Position embeddings for one image size, interpolated once by transformers rather than in each `forward`."""
        images = torch.zeros(1, 3, size, size)
        n = self.projection(images).flatten(2).shape[2] + (self.token is not None)
        width = self.projection.out_channels
        return embeddings.interpolate_pos_encoding(torch.zeros(1, n, width), size, size).detach().clone()

    def forward(self, images: Tensor) -> Tensor:
        x = self.projection(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.positions
        if self.registers is not None:
            x = torch.cat([x[:, :1], self.registers.expand(x.shape[0], -1, -1), x[:, 1:]], 1)
        return x if self.norm is None else self.norm(x)


class Layer(nn.Module):
    """A transformers layer, called without an attention mask."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens, None)


class Tower(nn.Module):
    """Images [N, 3, S, S] to features [N, C]: the class token after the norm, or the output of the pooling head."""

    def __init__(self, patches: Patches, layers: list[Layer], norm: nn.Module, head: nn.Module | None):
        super().__init__()
        self.patches = patches
        self.layers = nn.ModuleList(layers)
        self.norm = norm
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images)
        for layer in self.layers:
            tokens = layer(tokens)
        tokens = self.norm(tokens)
        return tokens[:, 0] if self.head is None else self.head(tokens)


def tower_of(model: Any, size: int) -> Tower:
    """A tower for images of `size` pixels that shares the modules of a transformers model."""
    encoder = getattr(model, "encoder", model)
    layers = getattr(encoder, "layers", None) or encoder.layer
    norm = getattr(model, "layernorm", None) or model.post_layernorm
    patches = Patches(model.embeddings, size, getattr(model, "pre_layrnorm", None))  # spelled so in transformers
    return Tower(patches, [Layer(layer) for layer in layers], norm, getattr(model, "head", None))
