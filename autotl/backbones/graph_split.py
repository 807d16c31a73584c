"""A backbone cut between its blocks: what its levels record, and where its frozen part ends.

torch.fx traces the network down to its blocks, each of which stays one whole module. Between two blocks the graph is
cut where exactly one value crosses: that value is what a tap records, what a frozen prefix leaves, and what the
unfrozen rest starts from. A network that can't be traced, or not cut at a block, is used whole.
"""

import inspect
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from autotl.backbones.base import Block, Layout, Preprocessing

__all__ = ["FeatureLevels", "GraphSplit", "Normalize"]


class GraphSplit:
    """`module` (float images [N, 3, S, S] to features [N, F]) and its blocks, from input to output."""

    def __init__(self, module: nn.Module, blocks: list[Block]):
        self.module = module
        self.blocks = blocks
        self.owners = {name: i for i, block in enumerate(blocks) for name in (*block.modules, *block.parameters)}

    @cached_property
    def graph(self) -> fx.Graph | None:
        """The network's graph with blocks as its nodes; None where it can't be traced."""
        whole = {name for block in self.blocks for name in block.modules}
        holding = {name[:i] for name in whole for i, c in enumerate(name) if c == "."} | {""}

        class Tracer(fx.Tracer):
            def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
                return module_qualified_name in whole or module_qualified_name not in holding

        try:
            return Tracer().trace(self.module, concrete_args=_options(self.module))
        except Exception:  # tracing runs the network's own code on stand-ins: anything may come out
            return None

    @cached_property
    def image(self) -> fx.Node | None:
        """The graph's input."""
        return next(iter(self.graph.nodes)) if self.graph else None

    @cached_property
    def _starts(self) -> dict[int, int]:
        """Where each block begins, as positions among the graph's nodes."""
        starts: dict[int, int] = {}
        for position, node in enumerate(self.graph.nodes if self.graph else ()):
            block = self._block_of(node)
            if block is not None:
                starts.setdefault(block, position)
        return starts

    def _block_of(self, node: fx.Node) -> int | None:
        name = str(node.target) if node.op in ("call_module", "get_attr") else ""
        while name and name not in self.owners:  # a network may call a block's parts one by one
            name = name.rpartition(".")[0]
        return self.owners.get(name)

    def _crossing(self, position: int) -> fx.Node | None:
        """The one value that is made before `position` and used from there on; None where there are several."""
        nodes = list(self.graph.nodes) if self.graph else []
        later = set(nodes[position:])
        made = [n for n in nodes[:position] if n.op not in ("get_attr", "placeholder") or n is self.image]
        crossing = [n for n in made if any(user in later for user in n.users)]
        return crossing[0] if len(crossing) == 1 else None

    def cut(self, block: int) -> fx.Node | None:
        """The value that enters block number `block`; None where the network can't be split there."""
        if self.graph is None or block not in self._starts:
            return None
        if any(self._starts.get(b, 0) < self._starts[block] for b in range(block + 1, len(self.blocks))):
            return None  # a later block runs earlier: nothing lies cleanly between the two
        return self._crossing(self._starts[block])

    def prefix(self, block: int) -> nn.Module:
        """The blocks before number `block`: images to what enters it. Shares its modules with the whole."""
        end = self.cut(block)
        assert end is not None
        return self._part(None, [end])

    def suffix(self, block: int) -> nn.Module:
        """Block number `block` and all after it: what enters it to features. Parameters keep their names."""
        start = self.cut(block)
        assert start is not None
        return self._part(start, None)

    @cached_property
    def stages(self) -> list[fx.Node]:
        """What leaves each block but the last, where it can be told, and the last map before the final pooling."""
        if self.graph is None:
            return []
        cuts = [self.cut(i) for i in range(1, len(self.blocks))]
        last = max((p for p, n in enumerate(self.graph.nodes) if self._block_of(n) is not None), default=-1)
        return list(
            dict.fromkeys(n for n in [*cuts, self._crossing(last + 1)] if n is not None and n.op != "placeholder")
        )

    def with_maps(self) -> nn.Module:
        """Images to (features, [the map at each of `stages`])."""
        if self.graph is None:
            return _Whole(self.module)
        output = next(n for n in self.graph.nodes if n.op == "output").args[0]
        return self._part(None, [(output, list(self.stages))])

    def _part(self, start: fx.Node | None, results: list[Any] | None) -> nn.Module:
        """A module of the nodes that `results` (the network's own, where None) need, beginning at `start`."""
        assert self.graph is not None
        output = next(n for n in self.graph.nodes if n.op == "output").args[0]
        wanted = output if results is None else results[0]
        needed: set[fx.Node] = set()
        queue: list[fx.Node] = []
        fx.node.map_arg(wanted, queue.append)
        while queue:
            node = queue.pop()
            if node not in needed:
                needed.add(node)
                queue += [] if node is start else node.all_input_nodes
        graph = fx.Graph()
        made: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            if node in needed:
                is_input = node is start or node is self.image
                made[node] = graph.placeholder("x") if is_input else graph.node_copy(node, lambda n: made[n])
        graph.output(fx.node.map_arg(wanted, lambda n: made[n]))
        return fx.GraphModule(self.module, graph).train(self.module.training)


def _options(module: nn.Module) -> dict[str, Any]:
    """What `forward` takes besides the images, at its defaults: they stay constants of the graph."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not p.empty}


class _Whole(nn.Module):
    """A network that can't be looked into."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return self.module(x), []


class Normalize(nn.Module):
    """uint8 images [N, S, S, 3] to what a network sees, float [N, 3, S, S], and through it."""

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
    """A graph_split and its levels in one pass: float images to rows [N, layout.width]."""

    def __init__(self, graph_split: GraphSplit):
        super().__init__()
        self.network = graph_split.with_maps()
        self.training = graph_split.module.training  # whose modules this one shares
        self.channels_last = "NHWC" in str(getattr(graph_split.module, "output_fmt", ""))

    def forward(self, x: Tensor) -> Tensor:
        features, maps = self._run(x)
        averages = [self._pool(m, Tensor.mean) for m in maps[:-1]]
        maxima = [self._pool(m, Tensor.amax) for m in maps]
        return torch.cat([features, *averages, *maxima], 1)

    def _run(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features, maps = self.network(x)
        return features, [m for m in maps if isinstance(m, Tensor)]  # some networks pass tuples between their blocks

    def _pool(self, x: Tensor, how: Any) -> Tensor:
        """Over the places of a map [N, C, H, W] (or [N, H, W, C]) or of tokens [N, L, C]."""
        if x.ndim == 4:
            return how(x, (1, 2)) if self.channels_last else how(x, (2, 3))
        return how(x, 1) if x.ndim == 3 else x

    @torch.inference_mode()
    def layout(self, size: int) -> Layout:
        """Found by running one image: what networks say about their widths isn't always what comes out."""
        was_training = self.training
        features, maps = self.eval()._run(torch.zeros(1, 3, size, size))
        self.train(was_training)
        widths = [self._pool(m, Tensor.amax).shape[1] for m in maps]
        return Layout(features.shape[1], sum(widths[:-1]), sum(widths[-1:]))
