"""Fine-tuning, in five steps: add a new head to the pretrained base; freeze the base; train the head; unfreeze the
last blocks of the base; train both jointly.

What is frozen computes the same for an image in every epoch, so it runs once for each image and view: its output at
the freeze boundary is recorded, and training starts there.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.backbones.base import Backbone, Block
from autotl.data.augmentation import ORIGINAL, POLICIES, views_of
from autotl.heads.base import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.base import Fitted, Report, Result, Rows, Strategy, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from autotl.registration import Register

__all__ = ["FineTuning"]

BATCH = 32
CPU_BLOCKS = 3
"""On a CPU deeper fine-tuning takes hours for what the last blocks give in minutes."""
HEAD_LR = 5.0
"""The new head may learn this much faster than the pretrained block before it."""


class FineTuning(Strategy):
    """The last blocks of the backbone learn too. The further the images are from the ones that it was trained on,
    the more of its last blocks want retraining."""

    name = "fine_tuning"
    head_types = ("dense",)
    recorded = ("unfrozen_blocks", "policy", "views")

    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        deepest = backbone.num_blocks if space.accelerator else min(CPU_BLOCKS, backbone.num_blocks)
        return {
            "unfrozen_blocks": space.int("unfrozen_blocks", 1, deepest),
            "policy": space.categorical("policy", ("none", *POLICIES)),
            "views": space.int("views", 1, 7),
            "tta": space.categorical("tta", (True, False)),
            "lr": space.float("lr", 3e-5, 3e-3, log=True),
            "lr_decay": space.float("lr_decay", 0.4, 1.0),
            "weight_decay": space.float("weight_decay", 1e-4, 0.3, log=True),
            "epochs": space.int("epochs", 3, 20, log=True),
            "label_smoothing": space.float("label_smoothing", 0.0, 0.2),
            "mixup": space.categorical("mixup", (0.0, 0.2, 0.8)),
            "balanced": space.categorical("balanced", (False, True)),
            "ema": space.categorical("ema", (0.0, 0.99)),
            "norms": space.categorical("norms", ("frozen", "trained")),
        }

    def defaults(self, head: Head) -> Params:
        return {
            "unfrozen_blocks": 1,
            "policy": "none",
            "views": 1,
            "tta": False,
            "lr": 5e-4,
            "lr_decay": 0.7,
            "weight_decay": 0.02,
            "epochs": 4,
            "label_smoothing": 0.1,
            "mixup": 0.0,
            "balanced": False,
            "ema": 0.0,
            "norms": "frozen",
        }

    def expensive_defaults(self, head: Head, passes: int) -> list[Params]:
        """Of the plain images: with several views each epoch sees others, and the few that there is time for aren't
        enough."""
        return [{**self.defaults(head), "unfrozen_blocks": 2, "epochs": 8}] if passes > 0 else []

    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        net = add_head(task, recipe, device)
        net.freeze_base()
        net.train_head()
        net.unfreeze_last(int(recipe.strategy_params["unfrozen_blocks"] or 1))
        trained = net.train_jointly(report)
        fitted = Fitted("last", net.head, net.unfrozen_state(), net.looked_at)
        done = trained.carried_out(recipe)
        return Result(done, trained.probabilities, fitted, trained.history, trained.best_epoch)


def add_head(task: Task, recipe: Recipe, device: str) -> "_Net":
    """The pretrained base with a new head on its features."""
    return _Net(task, recipe, device)


class _Net:
    """A base and its new head on the way through the five steps."""

    def __init__(self, task: Task, recipe: Recipe, device: str):
        from autotl.backbones.graph_split import GraphSplit

        self.task, self.recipe, self.device = task, recipe, device
        self.params = recipe.strategy_params
        self.base = task.backbone.build().to(device)
        self.blocks = task.backbone.blocks(self.base)
        self.graph_split = GraphSplit(self.base, self.blocks)
        self.features = task.features.levels("train", "last")
        self.head = task.head.build(recipe.head_params, self.features.shape[1], task.num_classes, recipe.seed).to(
            device
        )
        policy = str(self.params["policy"])
        views = int(self.params["views"] or 1)
        self.views = views_of(policy, views)
        self.looked_at = tuple(self.views) if self.params.get("tta") else (ORIGINAL,)
        self.unfrozen: list[Block] = []

    def freeze_base(self) -> None:
        """No gradients, and norms in eval mode: `requires_grad` alone lets their statistics drift."""
        self.base.requires_grad_(False).eval()

    def train_head(self) -> None:
        """On recorded features, where it takes a moment: a random head would shake the base."""
        from autotl.strategies.head_training import head_training_defaults, train_head

        params = {**head_training_defaults(self.task.head), "stop_after": None}
        validation = [self.task.features.levels("validation", "last")]
        task = self.task
        if task.refit_epochs:  # they are those of the joint training
            task = replace(task, refit_epochs=int(params["epochs"] or 0))
        train_head(
            self.head, self.features, task.train_labels, validation, params, task, self.device, _no_report,
            self.recipe.seed,
        )  # fmt: skip

    def unfreeze_last(self, n: int) -> None:
        """The last `n` blocks; all where there are fewer."""
        self.unfrozen = self.blocks[max(0, len(self.blocks) - n) :]
        for module in self._unfrozen_modules():
            module.requires_grad_(True)
        lone = {name for block in self.unfrozen for name in block.parameters}
        for name, parameter in self.base.named_parameters():
            parameter.requires_grad_(parameter.requires_grad or name in lone)

    def _unfrozen_modules(self) -> "list[nn.Module]":
        return [self.base.get_submodule(name) for block in self.unfrozen for name in block.modules]

    def train_jointly(self, report: Report) -> Any:
        """Base and head, from the freeze boundary on."""
        import torch

        from autotl.engines.micro_batch import MicroBatch
        from autotl.heads.inference import probabilities
        from autotl.strategies.precision import faster
        from autotl.strategies.training_loop import TrainingConfig, train

        start, train_rows, validation = self._boundary()
        network = self._network(start)
        labels = torch.from_numpy(self.task.train_labels)
        batch = min(BATCH, len(labels))
        micro = MicroBatch(self.task.backbone.name, self.device, self.task.log)
        scoring = MicroBatch(f"{self.task.backbone.name} without gradients", self.device, self.task.log)

        def batches(epoch: int, generator: "torch.Generator") -> "Iterator[tuple[Tensor, Tensor]]":
            rows = train_rows[(epoch - 1) % len(train_rows)]
            order = torch.randperm(len(labels), generator=generator)
            for chosen in order[: len(order) // batch * batch].split(batch):
                yield self._tensor(rows[chosen.numpy()]), labels[chosen].to(self.device)

        def logits(scored: "nn.Module", rows: Rows) -> np.ndarray:
            with torch.inference_mode():
                parts = scoring.forward(len(rows), lambda chosen: scored(self._tensor(rows[chosen])), 64)
            return torch.cat(parts).cpu().double().numpy()  # MPS has no float64

        def measured() -> str:
            x, y = next(batches(1, torch.Generator()))
            part = (
                f"{self.task.backbone.name} from {start}, {len(self.unfrozen)} unfrozen, {self.params['norms']} norms"
            )
            return micro.forward(len(x), lambda rows: faster(network, x[rows], y[rows], self.device, part))[0]

        precision = self.params.get("precision") or measured()  # a replay's recipe says it
        trained = train(
            network, self._groups(), batches, len(labels) // batch,
            lambda scored: probabilities(logits(scored, validation[0]), 1.0),
            TrainingConfig.from_params({**self.params, "precision": precision}, patience=4), self.task, report, self.recipe.seed,
            fit_epochs="stop_after" not in self.params, micro=micro,
        )  # fmt: skip
        if len(validation) > 1:  # epochs are compared by the plain images, which is cheaper
            trained.probabilities = probabilities(np.mean([logits(network, rows) for rows in validation], axis=0), 1.0)
        return trained

    def _boundary(self) -> tuple[int, list[Rows], list[Rows]]:
        """Where training starts, and what is recorded there: for each view of the training images, and for each that
        the model will look at of the validation images, the plain one first. The images themselves where the base
        can't be split at its first unfrozen block."""
        first = len(self.blocks) - len(self.unfrozen)
        boundary = self.task.features.boundary
        for start in (first, 0):
            if boundary("validation", start) is not None:
                train_rows = [boundary("train", start, view) for view in self.views]
                validation = [boundary("validation", start, view) for view in self.looked_at]
                return start, [r for r in train_rows if r is not None], [r for r in validation if r is not None]
            self.task.log(
                f"{self.task.backbone.name}: what enters block {first} can't be recorded: it runs whole in every epoch"
            )
        raise AssertionError("block 0, the images, can always be had")

    def _network(self, start: int) -> "nn.Module":
        from autotl.backbones.graph_split import Normalize

        rest = self.graph_split.suffix(start) if start else Normalize(self.base, self.task.backbone.preprocessing)
        return _joint(rest, self.head, self._kept_in_eval()).to(self.device)

    def _kept_in_eval(self) -> "list[nn.Module]":
        """What is frozen, and norms where the recipe freezes them."""
        learning = {id(m) for unfrozen in self._unfrozen_modules() for m in unfrozen.modules()}
        frozen = [m for m in self.base.modules() if id(m) not in learning]
        if self.params["norms"] == "frozen":
            frozen += [m for unfrozen in self._unfrozen_modules() for m in unfrozen.modules() if _keeps_statistics(m)]
        return frozen

    def _groups(self) -> list[dict[str, Any]]:
        """Discriminative learning rates: the earlier a block, the smaller (Howard & Ruder, ACL 2018)."""
        lr, decay = float(self.params["lr"] or 0), float(self.params["lr_decay"] or 1)
        common = {"weight_decay": self.params["weight_decay"]}
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "lr": lr * HEAD_LR, **common}]
        for depth, block in enumerate(reversed(self.unfrozen)):
            mine = [p for name in block.modules for p in self.base.get_submodule(name).parameters()]
            mine += [self.base.get_parameter(name) for name in block.parameters]
            groups.append({"params": mine, "lr": lr * decay**depth, **common})
        return groups

    def _tensor(self, rows: np.ndarray) -> "Tensor":
        import torch

        x = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        if x.dtype == torch.uint8:
            return x
        x = x.float()
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def unfrozen_state(self) -> "dict[str, Tensor]":
        """What differs from the pretrained base: parameters and buffers of the unfrozen blocks."""
        names = tuple(f"{name}." for block in self.unfrozen for name in block.modules)
        lone = {name for block in self.unfrozen for name in block.parameters}
        state = self.base.state_dict()
        return {k: v.cpu().clone() for k, v in state.items() if k in lone or k.startswith(names)}


def _keeps_statistics(module: "nn.Module") -> bool:
    return getattr(module, "running_mean", None) is not None


def _joint(rest: "nn.Module", head: "nn.Module", kept_in_eval: "list[nn.Module]") -> "nn.Module":
    import torch
    from torch import nn

    class Joint(nn.Sequential):
        """The rest of the base, then the head; what is frozen stays in eval mode whatever the mode."""

        def train(self, mode: bool = True) -> "Joint":
            super().train(mode)
            for module in kept_in_eval:
                module.training = False  # its own alone: a frozen module may hold some that learn
            return self

    return Joint(rest, head).to(memory_format=torch.channels_last)


def _no_report(fraction: float, score: float) -> None:
    """Training the head alone is no part of the trial's own progress."""


def autotl_register_strategies(register: "Register[Strategy]") -> None:
    register(FineTuning())
