"""A network that is cut between its blocks computes the same features, and its levels include its own output."""

import pytest
import timm
import torch
from torch import nn

from autotl.backbones.base import Block, Preprocessing
from autotl.backbones.graph_split import FeatureLevels, GraphSplit, Normalize
from autotl.backbones.levels import BUILT_IN, Layout
from autotl.backbones.timm import TimmBackbone

FAMILIES = ["test_resnet", "test_vit", "test_vit2", "test_vit3", "test_convnext", "test_efficientnet"]
SIZED = {
    "tf_efficientnet_lite0": {},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (1, 1, 1, 1)},
    "vit_tiny_patch16_224": {"img_size": 64, "embed_dim": 48, "depth": 3, "num_heads": 3},
    "caformer_s18": {},  # calls its last block part by part
}


def split_network(name: str) -> tuple[GraphSplit, int]:
    """The network with random weights, running statistics included, and the size of its images."""
    torch.manual_seed(0)
    backbone = TimmBackbone(name)
    arguments = SIZED.get(name)
    module = (
        backbone.build(pretrained=False) if arguments is None else timm.create_model(name, num_classes=0, **arguments)
    )
    for key, tensor in module.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.5, 1.5)
    size = 64 if arguments is not None else backbone.preprocessing.size
    return GraphSplit(module.eval(), backbone.blocks(module)), size


@pytest.fixture(scope="module", params=FAMILIES + list(SIZED))
def whole(request: pytest.FixtureRequest) -> tuple[GraphSplit, torch.Tensor, torch.Tensor]:
    """A network that can be split, two images, and the features of the whole network."""
    graph_split, size = split_network(request.param)
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return graph_split, images, graph_split.module(images)


def test_the_graph_can_be_cut_at_every_block(whole: tuple) -> None:
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
        prefixes = tuple(f"{name}." for block in graph_split.blocks[number:] for name in block.modules)
        single = {name for block in graph_split.blocks[number:] for name in block.parameters}
        assert names == {n for n, _ in graph_split.module.named_parameters() if n.startswith(prefixes) or n in single}


def test_a_suffix_shares_its_parameters_with_the_network(whole: tuple) -> None:
    graph_split = whole[0]
    parameters = dict(graph_split.module.named_parameters())
    assert all(parameters[name] is parameter for name, parameter in graph_split.suffix(1).named_parameters())


def test_the_last_level_is_the_networks_own_output(whole: tuple) -> None:
    graph_split, images, expected = whole
    feature_levels = FeatureLevels(graph_split)
    with torch.inference_mode():
        vectors = feature_levels(images)
    (last,) = feature_levels.layout(images.shape[-1]).slices(BUILT_IN["last"])
    assert torch.equal(vectors[:, last], expected)


def test_the_layout_describes_the_vectors(whole: tuple) -> None:
    graph_split, images, expected = whole
    feature_levels = FeatureLevels(graph_split)
    layout = feature_levels.layout(images.shape[-1])
    with torch.inference_mode():
        vectors = feature_levels(images)
    assert vectors.shape == (2, layout.width)
    widths = [sum(vectors[:, part].shape[1] for part in layout.slices(levels)) for levels in BUILT_IN.values()]
    assert widths == [layout.num_features(levels) for levels in BUILT_IN.values()]
    inner = 2 * layout.means or layout.output
    assert widths == [layout.output, layout.output + layout.means, inner, layout.width]
    assert layout.output == expected.shape[1]


def test_a_stage_is_recorded_with_its_mean_and_its_maximum() -> None:
    graph_split, size = split_network("test_resnet")
    images = torch.rand(2, 3, size, size)
    feature_levels = FeatureLevels(graph_split)
    layout = feature_levels.layout(size)
    with torch.inference_mode():
        vectors = feature_levels(images)
        third = graph_split.prefix(4)(images)  # the output of layer3, the last but one stage
        last = graph_split.module.forward_features(images)
    means, maxima = vectors[:, layout.slices(BUILT_IN["inner+max"])[0]].chunk(2, 1)
    torch.testing.assert_close(means[:, -third.shape[1] :], third.mean((2, 3)))
    torch.testing.assert_close(maxima[:, -third.shape[1] :], third.amax((2, 3)))
    torch.testing.assert_close(vectors[:, -last.shape[1] :], last.amax((2, 3)))


def test_maps_with_channels_last_are_pooled_over_positions() -> None:
    graph_split, size = split_network("swin_tiny_patch4_window7_224")
    with torch.inference_mode():
        first = graph_split.prefix(1)(torch.zeros(1, 3, size, size))
    assert first.shape[3] == 24
    assert FeatureLevels(graph_split).layout(size).means % 24 == 0


def test_layout_restores_training_mode() -> None:
    graph_split, size = split_network("test_resnet")
    graph_split.module.train()
    feature_levels = FeatureLevels(graph_split)
    feature_levels.layout(size)
    assert graph_split.module.layer1.training
    assert feature_levels.training


class Branching(nn.Module):
    """Control flow that depends on the input: it can't be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.one(x)
        if x.mean() > 100:
            x = x / 100
        return self.two(x).mean((2, 3))


class Skipping(nn.Module):
    """Two values pass from the first block to the second."""

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
    feature_levels = FeatureLevels(graph_split)
    assert graph_split.cut(1) is None
    assert feature_levels.layout(16) == Layout(output=5, means=0, last_maxima=0)
    with torch.inference_mode():
        assert torch.equal(feature_levels(images), graph_split.module(images))


def test_the_graph_cannot_be_cut_where_two_values_cross() -> None:
    assert GraphSplit(Skipping().eval(), TWO).cut(1) is None


def test_the_graph_cannot_be_cut_where_a_later_block_runs_first() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    assert GraphSplit(network, [Block("late", ("1",)), Block("early", ("0",))]).cut(0) is None


def test_tuples_between_blocks_are_not_recorded() -> None:
    network = nn.Sequential(Pair(), Joining()).eval()
    graph_split = GraphSplit(network, [Block("pair", ("0",)), Block("joining", ("1",))])
    feature_levels = FeatureLevels(graph_split)
    layout = feature_levels.layout(16)
    with torch.inference_mode():
        vectors = feature_levels(torch.rand(2, 3, 16, 16))
    assert vectors.shape == (2, layout.width)
    assert layout.output == 6


def test_images_are_normalised_by_the_preprocessings_mean_and_std() -> None:
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    normalised = Normalize(nn.Identity(), Preprocessing(8, 1.0, "bicubic", mean, std))(images)
    expected = (images.permute(0, 3, 1, 2) / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalised, expected)


def test_a_vit_for_any_image_size_keeps_its_saved_weights(tiny) -> None:
    """It is built for one image size, so that it can be traced; that must not change a tensor."""
    built = tiny("test_vit").build()
    torch.manual_seed(0)
    saved = timm.create_model("test_vit").eval()
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in built.state_dict().items())
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(built(images), saved.forward_head(saved.forward_features(images), pre_logits=True))
