"""Split a backbone's torch.fx graph between its blocks.

Tracing stops at the blocks, each of which becomes one `call_module` node. The graph is cut where exactly one value
passes from one block to the next. That value is recorded as a feature level, is the output of a frozen prefix, and is
the input of the unfrozen suffix. A network that can't be traced, or can't be cut at a block, is used as a whole.
"""

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotl.backbones.base import Block, Preprocessing
from autotl.backbones.levels import Layout

__all__ = ["FeatureLevels", "GraphSplit", "Normalize"]


class GraphSplit:
    """A network and the places where its graph can be cut.

    Args:
        module: float images [N, 3, S, S] to features [N, F].
        blocks: the module's blocks, from input to output.
    """

    def __init__(self, module: nn.Module, blocks: list[Block]):
        self.module = module
        self.blocks = blocks
        self._block_numbers = {
            name: number for number, block in enumerate(blocks) for name in (*block.modules, *block.parameters)
        }

    @cached_property
    def graph(self) -> fx.Graph | None:
        """The network's graph with blocks as single nodes; None where it can't be traced."""
        leaves = {name for block in self.blocks for name in block.modules}
        ancestors = {name[:i] for name in leaves for i, char in enumerate(name) if char == "."} | {""}

        class Tracer(fx.Tracer):
            def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
                return module_qualified_name in leaves or module_qualified_name not in ancestors

        try:
            return Tracer().trace(self.module, concrete_args=_default_arguments(self.module))
        except Exception:  # tracing runs the network's own `forward` on proxies, which may raise anything
            return None

    @cached_property
    def input_node(self) -> fx.Node | None:
        """The placeholder of the images."""
        return next(iter(self.graph.nodes)) if self.graph else None

    @cached_property
    def _first_positions(self) -> dict[int, int]:
        """The position of each block's first node in the graph, by block number."""
        positions: dict[int, int] = {}
        for position, node in enumerate(self.graph.nodes if self.graph else ()):
            block = self._block_of(node)
            if block is not None:
                positions.setdefault(block, position)
        return positions

    def _block_of(self, node: fx.Node) -> int | None:
        """The number of the block that the node's module or parameter belongs to."""
        name = str(node.target) if node.op in ("call_module", "get_attr") else ""
        while name and name not in self._block_numbers:  # `forward` may call a block's submodules one by one
            name = name.rpartition(".")[0]
        return self._block_numbers.get(name)

    def _value_across(self, position: int) -> fx.Node | None:
        """The only value computed before `position` and used from there on; None where there are several, or none.

        Parameters and buffers (`get_attr`) don't count: each part of a split graph reads its own.
        """
        nodes = list(self.graph.nodes) if self.graph else []
        later = set(nodes[position:])
        values = [n for n in nodes[:position] if n.op not in ("get_attr", "placeholder") or n is self.input_node]
        across = [n for n in values if any(user in later for user in n.users)]
        return across[0] if len(across) == 1 else None

    def cut(self, block: int) -> fx.Node | None:
        """The node whose value enters block number `block`; None where the network can't be cut there."""
        if self.graph is None or block not in self._first_positions:
            return None
        start = self._first_positions[block]
        if any(self._first_positions.get(later, 0) < start for later in range(block + 1, len(self.blocks))):
            return None  # a later block runs before this one: no position separates the two sets of blocks
        return self._value_across(start)

    def prefix(self, block: int) -> nn.Module:
        """The blocks before number `block`: images to the value that enters it. Shares its modules with the network.

        Only where `cut(block)` isn't None.
        """
        end = self.cut(block)
        assert end is not None
        return self._subgraph(self.input_node, end)

    def suffix(self, block: int) -> nn.Module:
        """Block number `block` and all after it: the value that enters the block to features [N, F].

        Only where `cut(block)` isn't None. Shares its modules with the network; parameters keep their names.
        """
        start = self.cut(block)
        assert start is not None
        return self._subgraph(start, self._output)

    @cached_property
    def stage_depths(self) -> dict[fx.Node, int]:
        """The output of each block but the last, where the graph can be cut there, and the last map before pooling;
        with the number of blocks before it."""
        if self.graph is None:
            return {}
        cuts = [(self.cut(number), number) for number in range(1, len(self.blocks))]
        last = max((p for p, n in enumerate(self.graph.nodes) if self._block_of(n) is not None), default=-1)
        depths: dict[fx.Node, int] = {}
        for node, depth in [*cuts, (self._value_across(last + 1), len(self.blocks))]:
            if node is not None and node.op != "placeholder":
                depths.setdefault(node, depth)
        return depths

    def with_stage_outputs(self) -> nn.Module:
        """A module that maps images to (features, [the value of each of `stage_depths`])."""
        if self.graph is None:
            return _WithoutStages(self.module)
        return self._subgraph(self.input_node, (self._output, list(self.stage_depths)))

    def after_stage(self, number: int) -> nn.Module:
        """The value of number `number` of `stage_depths` to (features, [the values of the later stages])."""
        stages = list(self.stage_depths)
        return self._subgraph(stages[number], (self._output, stages[number + 1 :]))

    @property
    def _output(self) -> Any:
        """What the network returns, as nodes."""
        assert self.graph is not None
        return next(n for n in self.graph.nodes if n.op == "output").args[0]

    def _subgraph(self, start: fx.Node | None, result: Any) -> nn.Module:
        """A module with the nodes that compute `result` (nodes, nested in tuples and lists) from `start`."""
        assert self.graph is not None
        needed: set[fx.Node] = set()
        queue: list[fx.Node] = []
        fx.node.map_arg(result, queue.append)
        while queue:
            node = queue.pop()
            if node not in needed:
                needed.add(node)
                queue += [] if node is start else node.all_input_nodes
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            if node in needed:
                is_input = node is start or node is self.input_node
                copies[node] = graph.placeholder("x") if is_input else graph.node_copy(node, lambda n: copies[n])
        graph.output(fx.node.map_arg(result, lambda n: copies[n]))
        return fx.GraphModule(self.module, graph).train(self.module.training)


def _default_arguments(module: nn.Module) -> dict[str, Any]:
    """The defaults of `forward`'s arguments other than the images: the tracer treats them as constants."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


class _WithoutStages(nn.Module):
    """A network that can't be traced, with the signature of `GraphSplit.with_stage_outputs`."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.module(x), []


class Normalize(nn.Module):
    """Normalises uint8 images [N, S, S, 3] to float [N, 3, S, S] by the preprocessing's mean and std, and runs
    `network` on them."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.network = network
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Any:
        return self.network((images.permute(0, 3, 1, 2).float() - self.mean) / self.std)


class FeatureLevels(nn.Module):
    """All feature levels of a network in one pass: float images [N, 3, S, S] to vectors [N, layout.width].

    `Layout` describes the order of the features in a vector.
    """

    def __init__(self, graph_split: GraphSplit):
        super().__init__()
        self.network = graph_split.with_stage_outputs()
        self.depths = list(graph_split.stage_depths.values())
        self.training = graph_split.module.training  # the submodules are shared with `graph_split.module`
        self.channels_last = "NHWC" in str(getattr(graph_split.module, "output_fmt", ""))

    def forward(self, x: Tensor) -> Tensor:
        features, maps = self.with_maps(x)
        means = [self._pool(m, Tensor.mean) for m in maps[:-1]]
        maxima = [self._pool(m, Tensor.amax) for m in maps]
        return torch.cat([features, *means, *maxima], 1)

    def with_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The network's output [N, F], and the map of each stage: [N, C, H, W], [N, H, W, C] or tokens [N, L, C]."""
        features, maps = self.network(x)
        return features, [m for m in maps if isinstance(m, Tensor)]  # some networks pass tuples between their blocks

    def _pool(self, x: Tensor, reduce: Any) -> Tensor:
        """Reduce the positions of a map [N, C, H, W] (or [N, H, W, C]) or of tokens [N, L, C] to [N, C]."""
        if x.ndim == 4:
            return reduce(x, (1, 2)) if self.channels_last else reduce(x, (2, 3))
        return reduce(x, 1) if x.ndim == 3 else x

    @torch.inference_mode()
    def layout(self, size: int) -> Layout:
        """The layout of the vectors, measured by running one black image of `size` pixels.

        It is measured because the widths that networks state (`num_features`, `feature_info`) are sometimes wrong.
        """
        was_training = self.training
        features, maps = self.eval().network(torch.zeros(1, 3, size, size))
        self.train(was_training)
        stages = [(d, m) for d, m in zip(self.depths, maps, strict=True) if isinstance(m, Tensor)]
        widths = [self._pool(m, Tensor.amax).shape[1] for _, m in stages]
        depths = tuple(depth for depth, _ in stages)
        return Layout(features.shape[1], sum(widths[:-1]), sum(widths[-1:]), tuple(widths[:-1]), depths[:-1])
