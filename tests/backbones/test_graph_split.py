"""A backbone cut between its blocks computes what the whole one does, and its levels hold its own output."""

import pytest
import timm
import torch
from torch import nn

from autotl.backbones.base import LEVELS, Block, Layout, Preprocessing
from autotl.backbones.graph_split import FeatureLevels, GraphSplit, Normalize
from autotl.backbones.timm import TimmBackbone

FAMILIES = ["test_resnet", "test_vit", "test_vit2", "test_vit3", "test_convnext", "test_efficientnet"]
SIZED = {
    "tf_efficientnet_lite0": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 1, 1)},
    "vit_tiny_patch16_224": {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "caformer_s18": {},  # calls its last block part by part
}


def trunk_of(name: str) -> tuple[GraphSplit, int]:
    """The network with random weights, norms' statistics included, and the size of its images."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name)
    arguments = SIZED.get(name)
    module = (
        backbone.build(pretrained=False) if arguments is None else timm.create_model(name, num_classes=0, **arguments)
    )
    for key, tensor in module.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    return GraphSplit(
        module.eval(), backbone.blocks(module)
    ), 64 if arguments is not None else backbone.preprocessing.size


@pytest.fixture(scope="module", params=FAMILIES + list(SIZED))
def whole(request: pytest.FixtureRequest) -> tuple[GraphSplit, torch.Tensor, torch.Tensor]:
    """A graph_split, two images, and what the whole network makes of them."""
    graph_split, size = trunk_of(request.param)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return graph_split, images, graph_split.module(images)


def test_every_block_can_be_cut_at(whole: tuple) -> None:
    graph_split = whole[0]
    assert None not in [graph_split.cut(block) for block in range(len(graph_split.blocks))]


def test_prefix_then_suffix_is_the_whole_network(whole: tuple) -> None:
    graph_split, images, expected = whole
    with torch.inference_mode():
        for block in range(len(graph_split.blocks)):
            assert torch.equal(graph_split.suffix(block)(graph_split.prefix(block)(images)), expected), (
                f"cut at block {block}"
            )


def test_a_suffix_holds_the_parameters_of_its_blocks_and_no_others(whole: tuple) -> None:
    graph_split = whole[0]
    for number in range(1, len(graph_split.blocks)):
        names = {name for name, _ in graph_split.suffix(number).named_parameters()}
        mine = tuple(f"{name}." for block in graph_split.blocks[number:] for name in block.modules)
        lone = {name for block in graph_split.blocks[number:] for name in block.parameters}
        assert names == {n for n, _ in graph_split.module.named_parameters() if n.startswith(mine) or n in lone}


def test_a_suffix_shares_its_tensors_with_the_whole(whole: tuple) -> None:
    graph_split = whole[0]
    own = dict(graph_split.module.named_parameters())
    assert all(own[name] is parameter for name, parameter in graph_split.suffix(1).named_parameters())


def test_the_last_tap_is_the_networks_own_output(whole: tuple) -> None:
    graph_split, images, expected = whole
    leveled = FeatureLevels(graph_split)
    with torch.inference_mode():
        rows = leveled(images)
    assert torch.equal(rows[:, leveled.layout(images.shape[-1]).features("last")], expected)


def test_the_layout_is_as_wide_as_the_rows(whole: tuple) -> None:
    graph_split, images, expected = whole
    leveled = FeatureLevels(graph_split)
    layout = leveled.layout(images.shape[-1])
    with torch.inference_mode():
        rows = leveled(images)
    assert rows.shape == (2, layout.width)
    widths = [rows[:, layout.features(levels)].shape[1] for levels in LEVELS]
    inner = 2 * layout.means or layout.output
    assert widths == [layout.output, layout.output + layout.means, inner, layout.width]
    assert layout.output == expected.shape[1]


def test_a_stage_is_recorded_with_its_average_and_its_maximum() -> None:
    graph_split, size = trunk_of("test_resnet")
    images = torch.rand(2, 3, size, size)
    leveled = FeatureLevels(graph_split)
    layout = leveled.layout(size)
    with torch.inference_mode():
        rows, third = (
            leveled(images),
            graph_split.prefix(4)(images),
        )  # what leaves layer3, the last stage before the last
        last = graph_split.module.forward_features(images)
    averages, maxima = rows[:, layout.features("inner+max")].chunk(2, 1)
    torch.testing.assert_close(averages[:, -third.shape[1] :], third.mean((2, 3)))
    torch.testing.assert_close(maxima[:, -third.shape[1] :], third.amax((2, 3)))
    torch.testing.assert_close(rows[:, -last.shape[1] :], last.amax((2, 3)))


def test_maps_with_their_channels_last_are_pooled_over_places() -> None:
    graph_split, size = trunk_of("swin_tiny_patch4_window7_224")
    with torch.inference_mode():
        first = graph_split.prefix(1)(torch.zeros(1, 3, size, size))
    assert first.shape[3] == 24
    assert FeatureLevels(graph_split).layout(size).means % 24 == 0


def test_layout_leaves_the_mode_as_it_was() -> None:
    graph_split, size = trunk_of("test_resnet")
    graph_split.module.train()
    leveled = FeatureLevels(graph_split)
    leveled.layout(size)
    assert graph_split.module.layer1.training
    assert leveled.training


class Branching(nn.Module):
    """Decides by what it sees: no graph says what it does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        if x.mean() > 100:
            x = x / 100
        return self.two(x).mean((2, 3))


class Skipping(nn.Module):
    """Two values cross between its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.two(self.one(x)) + x).mean((2, 3))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(x), x.mean((2, 3))


class Joining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 6)

    def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.linear(torch.cat([pair[0].mean((2, 3)), pair[1]], 1))


TWO = [Block("one", ("one",)), Block("two", ("two",))]


def test_a_network_that_cannot_be_traced_is_used_whole() -> None:
    graph_split = GraphSplit(Branching().eval(), TWO)
    images = torch.rand(2, 3, 16, 16)
    leveled = FeatureLevels(graph_split)
    assert graph_split.cut(1) is None
    assert leveled.layout(16) == Layout(output=5, means=0, last_maxima=0)
    with torch.inference_mode():
        assert torch.equal(leveled(images), graph_split.module(images))


def test_where_two_values_cross_there_is_no_cut() -> None:
    assert GraphSplit(Skipping().eval(), TWO).cut(1) is None


def test_where_a_later_block_runs_first_there_is_no_cut() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    assert GraphSplit(network, [Block("late", ("1",)), Block("early", ("0",))]).cut(0) is None


def test_tuples_between_blocks_are_not_tapped() -> None:
    network = nn.Sequential(Pair(), Joining()).eval()
    graph_split = GraphSplit(network, [Block("pair", ("0",)), Block("joining", ("1",))])
    leveled = FeatureLevels(graph_split)
    layout = leveled.layout(16)
    with torch.inference_mode():
        rows = leveled(torch.rand(2, 3, 16, 16))
    assert rows.shape == (2, layout.width)
    assert layout.output == 6


def test_images_are_normalised_as_the_backbone_was_trained_to_see_them() -> None:
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    seen = Normalize(nn.Identity(), Preprocessing(8, 1.0, "bicubic", mean, std))(images)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(seen, expected)


def test_a_vit_for_any_size_has_the_weights_that_it_was_saved_with(tiny) -> None:
    """Its blocks are to be cut at, so it is built for one size: no tensor may differ for that."""
    built = tiny("test_vit").build()
    torch.manual_seed(0)
    saved = timm.create_model("test_vit").eval()
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in built.state_dict().items())
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(built(images), saved.forward_head(saved.forward_features(images), pre_logits=True))
