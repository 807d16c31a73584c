"""Features of an image with one window after another hidden, from one forward pass of the network.

Recorded features are poolings of maps: means and maxima over positions. Without the positions of a window they are
poolings of the other positions, so no image is covered and the network runs once. The network's own output is computed
again from its last map, whose hidden positions get the mean of the others; where the output doesn't depend on single
positions of that map (a class token of a transformer), from the input of the last block, and where a network can't be
cut at all, from the image.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

from autotl.backbones.base import Backbone
from autotl.backbones.graph_split import FeatureLevels, GraphSplit

__all__ = ["HidingNetwork", "windows"]

CELLS = 14
"""Cells along a side of an image."""
WINDOW = 4
"""Cells along a side of a window, which overlaps the image by at least half."""
STEP = 2
"""Cells between the beginnings of two windows."""
BATCH = 32
"""Maps with hidden windows that are run at a time."""


def windows() -> np.ndarray:
    """bool [number of windows, CELLS, CELLS]: the cells that each window hides."""
    starts = np.arange(-(WINDOW // 2), CELLS - WINDOW // 2 + 1, STEP)
    inside = (np.arange(CELLS) >= starts[:, None]) & (np.arange(CELLS) < starts[:, None] + WINDOW)
    return (inside[:, None, :, None] & inside[None, :, None, :]).reshape(-1, CELLS, CELLS)


class HidingNetwork:
    """A network in fp32 that answers to an image with hidden windows.

    Args:
        module: the network, in eval mode, on the CPU. It is moved to `device`.
        backbone: its backbone.
        device: a torch device.
    """

    def __init__(self, module: nn.Module, backbone: Backbone, device: str):
        module = module.to(device).eval()
        self.split = GraphSplit(module, backbone.blocks(module))
        self.levels = FeatureLevels(self.split).eval()
        self.channels_last = self.levels.channels_last
        self.device, preprocessing = device, backbone.preprocessing
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1) * 255
        self.visible = torch.from_numpy(~windows()).float().to(device)
        self._place: int | None = None
        """Where hiding changes the output: the number of a stage, or -1 for the image. None before the first image."""
        self._tails: dict[int, nn.Module] = {-1: self.split.with_stage_outputs().eval()}

    @torch.inference_mode()
    def features(self, pixels: np.ndarray) -> np.ndarray:
        """The recorded features of an image [size, size, 3], uint8: float32 [1 + number of windows, width of the
        layout]. The first row is the whole image."""
        images = torch.from_numpy(pixels[None]).to(self.device).permute(0, 3, 1, 2).float()
        images = (images - self.mean) / self.std
        output, maps = self.levels.with_maps(images)
        grids = [self._grid(stage) for stage in maps if stage.ndim > 2]
        vectors = [stage for stage in maps if stage.ndim == 2]  # pooled already
        outputs, *pooled = self._hidden_outputs(maps, images, [output, *vectors])
        means = [_hidden_means(grid, tokens, self.visible) for grid, tokens in grids] + pooled
        maxima = [_hidden_maxima(grid, tokens, self.visible) for grid, tokens in grids] + pooled
        return torch.cat([outputs, *means[:-1], *maxima], 1).float().cpu().numpy()

    def _hidden_outputs(self, maps: list[Tensor], images: Tensor, whole: list[Tensor]) -> list[Tensor]:
        """The network's output and its vectors, each [1 + number of windows, F]. `whole` are those of the image."""
        complete = len(maps) == len(self.split.stage_depths)  # else maps and stages have other numbers
        places = [number for number, stage in enumerate(maps) if stage.ndim > 2][:-3:-1] if complete else []
        for place in [*places, -1] if self._place is None else [self._place]:
            hidden = self._run_hidden(images if place < 0 else maps[place], place)
            rows = [torch.cat([one, others]) for one, others in zip(whole, hidden, strict=True)]
            if place < 0 or _differs(rows[0]):
                self._place = place
                return rows
        raise AssertionError("the image is the last place")

    def _run_hidden(self, source: Tensor, place: int) -> list[Tensor]:
        """The output and the vectors of the network, from the value of a place with one window after another hidden."""
        if place not in self._tails:
            self._tails[place] = self.split.after_stage(place).eval()
        is_image = place < 0
        grid, tokens = (source[0], source.new_zeros(source.shape[1], 0)) if is_image else self._grid(source)
        parts = []
        for visible in torch.split(_shrunk(self.visible, grid), BATCH):
            means = (visible * grid).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
            hidden = visible * grid + (1 - visible) * means
            stage = hidden if is_image else self._as_stage(hidden, tokens, source)
            output, later = self._tails[place](stage)
            parts.append([output, *(value for value in later if isinstance(value, Tensor) and value.ndim == 2)])
        return [torch.cat(values) for values in zip(*parts, strict=True)]

    def _grid(self, stage: Tensor) -> tuple[Tensor, Tensor]:
        """A stage's map as [C, H, W], and the tokens [C, n] in front of it that have no position."""
        if stage.ndim == 4:
            grid = stage[0].permute(2, 0, 1) if self.channels_last else stage[0]
            return grid, grid.new_zeros(len(grid), 0)
        tokens = stage[0].T
        side = math.isqrt(tokens.shape[1])
        first = tokens.shape[1] - side * side
        return tokens[:, first:].reshape(-1, side, side), tokens[:, :first]

    def _as_stage(self, grids: Tensor, tokens: Tensor, stage: Tensor) -> Tensor:
        """Grids [n, C, H, W] in the form of `stage`."""
        if stage.ndim == 4:
            return grids.permute(0, 2, 3, 1) if self.channels_last else grids
        return torch.cat([tokens.expand(len(grids), -1, -1), grids.flatten(2)], 2).transpose(1, 2)


def _shrunk(visible: Tensor, grid: Tensor) -> Tensor:
    """The visible share of each position of a map [C, H, W]: [number of windows, 1, H, W]."""
    return adaptive_avg_pool2d(visible[:, None], (grid.shape[1], grid.shape[2]))


def _differs(rows: Tensor) -> bool:
    """Whether hiding changes the output at all."""
    return bool((rows[1:] - rows[:1]).abs().max() > 1e-5 * rows[:1].abs().max())


def _hidden_means(grid: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
    """The mean of a map [C, H, W] and its tokens [C, n], and without each window: [1 + number of windows, C]."""
    weights = _shrunk(visible, grid).flatten(1)
    weights = torch.cat([torch.ones_like(weights[:1]), weights])
    sums = weights @ grid.flatten(1).T + tokens.sum(1)
    return sums / (weights.sum(1, keepdim=True) + tokens.shape[1])


def _hidden_maxima(grid: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
    """As `_hidden_means`, of the maxima."""
    height, width = (min(side, CELLS) for side in grid.shape[1:])
    cells = adaptive_max_pool2d(grid, (height, width)).flatten(1)
    shown = adaptive_avg_pool2d(visible[:, None], (height, width))[:, 0].flatten(1) >= 0.5
    rest = tokens.amax(1) if tokens.shape[1] else cells.new_full((len(cells),), -torch.inf)
    rows = [cells.amax(1), *(cells[:, one].amax(1) for one in shown)]
    return torch.maximum(torch.stack(rows), rest)
