"""Fine-tuning, in five steps: add a new head to the pretrained base; freeze the base; train the head; unfreeze the
last blocks of the base; train both jointly.

Surgical fine-tuning unfreezes the first blocks instead (Lee et al., Surgical fine-tuning improves adaptation to
distribution shifts, ICLR 2023): where images differ in colour or noise and show the same things, what is to be learnt
anew is low-level.

The frozen blocks before the unfrozen ones compute the same for an image in every epoch, so they run once per image and
view: their output at the freeze boundary is recorded, on disk or in an accelerator's memory, and joint training starts
from the recorded activations. Where training starts from the images, they are augmented on the device, anew in every
epoch.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from autotl.backbones.base import Backbone, Block
from autotl.data.augmentation import ORIGINAL, Augmentation, views_of
from autotl.engines.accelerator import is_accelerator, prefetch, to_device
from autotl.features.resident import ResidentSamples
from autotl.heads.base import Head
from autotl.recipe import Params, Recipe, Space
from autotl.strategies.base import BoundaryActivations, Fitted, Report, Result, Strategy, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from autotl.registration import Register
    from autotl.strategies.training_loop import Trained

__all__ = ["FineTuning"]

BATCH = 32
BATCHES = (32, 64, 128, 256)
"""Batch sizes on accelerators, which compute a batch of 256 hardly slower than one of 32."""
MIN_STEPS, USUAL_STEPS = 6, 16
"""Steps that an epoch has at least with a size that is searched, and with the one that the default None stands for."""
MAX_BATCHES = 3
"""How many sizes, the largest that leave MIN_STEPS, are searched."""
SCORING_BATCH, ACCELERATOR_SCORING_BATCH = 64, 256
PATIENCE = 4
MAX_CPU_BLOCKS = 3
"""On a CPU deeper fine-tuning takes hours and gains little over the last blocks, which take minutes."""
HEAD_LR_FACTOR = 5.0
"""The head's learning rate relative to that of the last block: its weights are new, those of the block pretrained."""


class FineTuning(Strategy):
    """The last blocks of the backbone are trained too. The further the images are from the backbone's pretraining
    images, the more of its last blocks need retraining."""

    name = "fine_tuning"
    head_types = ("dense",)
    recorded_params = ("unfrozen_blocks", "unfreeze", "policy", "views")

    def suggest(self, space: Space, backbone: Backbone, head: Head) -> dict[str, Any]:
        deepest = backbone.num_blocks if space.accelerator else min(MAX_CPU_BLOCKS, backbone.num_blocks)
        batches = [size for size in BATCHES if MIN_STEPS * size <= space.num_train][-MAX_BATCHES:]
        return {
            "unfrozen_blocks": space.int("unfrozen_blocks", 1, deepest),
            # the first blocks have the whole network after them, which takes a CPU hours
            "unfreeze": space.categorical("unfreeze", ("last", "first") if space.accelerator else ("last",)),
            "policy": space.categorical("policy", ("none", *space.augmentations)),
            "views": space.int("views", 1, 7),
            "tta": space.categorical("tta", (True, False)),
            "lr": space.float("lr", 3e-5, 3e-3, log=True),
            "lr_decay": space.float("lr_decay", 0.4, 1.0),
            "weight_decay": space.float("weight_decay", 1e-4, 0.3, log=True),
            "epochs": space.int("epochs", 3, 20, log=True),
            "label_smoothing": space.float("label_smoothing", 0.0, 0.2),
            "mixup": space.categorical("mixup", (0.0, 0.2, 0.8)),
            "class_weight": space.categorical("class_weight", (None, "balanced")),
            "loss": space.categorical("loss", space.losses),
            "ema": space.categorical("ema", (0.0, 0.99)),
            "freeze_bn": space.categorical("freeze_bn", (True, False)),
            "batch": space.categorical("batch", (None, *batches) if space.accelerator else (None,)),
        }

    def defaults(self, head: Head) -> Params:
        return {
            "unfrozen_blocks": 1,
            "unfreeze": "last",
            "policy": "none",
            "views": 1,
            "tta": False,
            "lr": 5e-4,
            "lr_decay": 0.7,
            "weight_decay": 0.02,
            "epochs": 4,
            "label_smoothing": 0.1,
            "mixup": 0.0,
            "class_weight": None,
            "loss": "cross_entropy",
            "ema": 0.0,
            "freeze_bn": True,
            "batch": None,
        }

    def expensive_defaults(self, head: Head, passes: int) -> list[Params]:
        """Without augmentation: an epoch trains on one view, and there is time for too few epochs to use several."""
        return [{**self.defaults(head), "unfrozen_blocks": 2, "epochs": 8}] if passes > 0 else []

    def fit(self, recipe: Recipe, task: Task, device: str, report: Report) -> Result:
        net = add_head(task, recipe, device)
        net.freeze_base()
        net.train_head()
        net.unfreeze(int(recipe.strategy_params["unfrozen_blocks"] or 1), first=net.params.get("unfreeze") == "first")
        trained = net.train_jointly(report)
        fitted = Fitted("last", net.head, net.unfrozen_state(), net.tta_views)
        executed = net.executed(trained.executed_recipe(recipe))
        return Result(executed, trained.probabilities, fitted, trained.history, trained.best_epoch)


def add_head(task: Task, recipe: Recipe, device: str) -> "_Net":
    """The pretrained base with a new head on its features."""
    return _Net(task, recipe, device)


class _Net:
    """The base and its new head during the five steps."""

    def __init__(self, task: Task, recipe: Recipe, device: str):
        from autotl.backbones.graph_split import GraphSplit

        self.task, self.recipe, self.device = task, recipe, device
        self.params = recipe.strategy_params
        self.base = task.build_backbone().to(device)
        self.blocks = task.backbone.blocks(self.base)
        self.graph_split = GraphSplit(self.base, self.blocks)
        self.features = task.features.levels("train", "last")
        head = task.head.build(recipe.head_params, self.features.shape[1], task.num_classes, recipe.seed)
        self.head = head.to(device)
        self.train_views = views_of(str(self.params["policy"]), int(self.params["views"] or 1), task.augmentations)
        self.tta_views = tuple(self.train_views) if self.params.get("tta") else (ORIGINAL,)
        self.unfrozen: list[Block] = []
        self.first_unfrozen = 0
        self.graph_start = 0
        """The block whose input is recorded; 0 for the images."""
        self.tuned_share = 1.0
        """Share of the trained weights in the average with the pretrained ones."""
        self.batch = int(self.params.get("batch") or self._usual_batch())
        policy = str(self.params["policy"])
        self.augmentation = None if policy == "none" else task.augmentations.get(policy)
        self.draws_batches = self._draws_batches()

    def _usual_batch(self) -> int:
        largest = [size for size in BATCHES if USUAL_STEPS * size <= len(self.task.train_labels)]
        return largest[-1] if largest and is_accelerator(self.device) else BATCH

    def _draws_batches(self) -> bool:
        """Whether the policy augments whole batches here. An executed recipe states it."""
        import torch

        if self.augmentation is None:
            return False
        stated = self.params.get("draws_batches")
        if stated is not None or not is_accelerator(self.device):
            return bool(stated)
        size = self.task.backbone.preprocessing.size
        image = torch.zeros((1, size, size, 3), dtype=torch.uint8, device=self.device)
        return self.augmentation.draw_batch(image, torch.Generator()) is not None

    def freeze_base(self) -> None:
        """No gradients, and norms in eval mode: with `requires_grad` alone their running statistics would change."""
        self.base.requires_grad_(requires_grad=False).eval()

    def train_head(self) -> None:
        """Train the head on recorded features, which takes seconds: a random head's gradients would damage the base."""
        from autotl.strategies.head_training import head_training_defaults, train_head

        params = {**head_training_defaults(self.task.head), "stop_after": None}
        validation = [self.task.features.levels("validation", "last")]
        task = self.task
        if task.refit_epochs:  # the task's number is for joint training; here the head's own number is exact too
            task = replace(task, refit_epochs=int(params["epochs"] or 0))
        train_head(
            self.head, self.features, task.train_labels, validation, params, task, self.device, _no_report,
            self.recipe.seed,
        )  # fmt: skip

    def unfreeze(self, n: int, *, first: bool = False) -> None:
        """Unfreeze the last `n` blocks, or the first ones; all where there are fewer."""
        self.first_unfrozen = 0 if first else max(0, len(self.blocks) - n)
        self.unfrozen = self.blocks[self.first_unfrozen :][:n]
        for block in self.unfrozen:
            for _, parameter in self._named_parameters(block):
                parameter.requires_grad = True

    def _named_parameters(self, block: Block) -> "Iterator[tuple[str, nn.Parameter]]":
        """A block's parameters, by their names in the base."""
        for module in block.modules:
            for name, parameter in self.base.get_submodule(module).named_parameters():
                yield f"{module}.{name}", parameter
        for name in block.parameters:
            yield name, self.base.get_parameter(name)

    def _unfrozen_modules(self) -> "list[nn.Module]":
        """The modules of the unfrozen blocks, with all their submodules."""
        roots = [self.base.get_submodule(name) for block in self.unfrozen for name in block.modules]
        return [module for root in roots for module in root.modules()]

    def train_jointly(self, report: Report) -> "Trained":
        """Train base and head, starting at the freeze boundary."""
        import torch

        from autotl.engines.micro_batch import MicroBatch
        from autotl.engines.passes import has_plans, padded_size, run_padded
        from autotl.heads.inference import probabilities
        from autotl.strategies.precision import faster_precision, likely_precision
        from autotl.strategies.training_loop import TrainingConfig, train
        from autotl.strategies.weight_averaging import average_with_pretrained

        start, train_views, validation_views = self._boundary()
        self.graph_start = start
        network = self._network(start)
        labels = torch.from_numpy(self.task.train_labels).to(self.device)
        batch = min(self.batch, len(labels))
        augmentation = self._batch_augmentation(start)
        scoring_batch = ACCELERATOR_SCORING_BATCH if is_accelerator(self.device) else SCORING_BATCH
        micro = MicroBatch(self.task.backbone.name, self.device, self.task.log)
        scoring = MicroBatch(f"{self.task.backbone.name} without gradients", self.device, self.task.log)

        def batches(epoch: int, generator: "torch.Generator") -> "Iterator[tuple[Tensor, Tensor]]":
            activations = train_views[(epoch - 1) % len(train_views)]
            order = torch.randperm(len(labels), generator=generator)[: len(labels) // batch * batch]
            if isinstance(activations, ResidentSamples):
                for selection in order.to(self.device).split(batch):
                    x = activations[selection]
                    drawn = augmentation.draw_batch(x, generator) if augmentation else None
                    yield self._tensor(x if drawn is None else drawn), labels[selection]
            else:
                read = ((self._tensor(activations[s.numpy()]), labels[s.to(self.device)]) for s in order.split(batch))
                yield from prefetch(read) if is_accelerator(self.device) else read

        def logits(scored: "nn.Module", activations: BoundaryActivations) -> np.ndarray:
            padded = min(len(activations), scoring_batch)
            if has_plans(self.device):  # so that the last batch, and another number of images, need no new plans
                padded = padded_size(padded, self.task.backbone.preprocessing.size)

            def score(selection: slice) -> "Tensor":
                x = self._tensor(activations[selection])
                return run_padded(scored, x, scoring.size_for(padded) if has_plans(self.device) else len(x))

            with torch.inference_mode():
                parts = scoring.forward(len(activations), score, scoring_batch, at_least=padded)
            return torch.cat(parts).cpu().double().numpy()  # double on the CPU: MPS has no float64

        def measure_precision() -> str:
            x, y = next(batches(1, torch.Generator().manual_seed(self.recipe.seed)))
            key = (
                f"{self.task.backbone.digest} from block {start}, {len(self.unfrozen)} unfrozen, "
                f"freeze_bn {self.params['freeze_bn']}"
            )

            def measure(selection: slice) -> str:
                return faster_precision(network, x[selection], y[selection], self.device, key, self.task.verdicts)

            return micro.forward(len(x), measure)[0]

        # an executed recipe states it; without a time budget a search is repeatable
        is_timed = math.isfinite(self.task.time_budget)
        precision = self.params.get("precision") or (
            measure_precision() if is_timed else likely_precision(network, self.device)
        )
        stated = self.params.get("tuned_share", 1.0 if self.task.refit_epochs else None)
        pretrained = {}
        if stated != 1.0:
            pretrained = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        trained = train(
            network, self._groups(), batches, len(labels) // batch,
            lambda scored: probabilities(logits(scored, validation_views[0]), 1.0),
            TrainingConfig.from_params(self.params, precision=precision, patience=PATIENCE),
            self.task, report, self.recipe.seed, fit_epochs="stop_after" not in self.params, micro=micro,
        )  # fmt: skip
        self.tuned_share, trained.probabilities = average_with_pretrained(
            network,
            pretrained,
            lambda: probabilities(logits(network, validation_views[0]), 1.0),
            trained.probabilities,
            self.task,
            None if stated is None else float(stated),
        )
        if len(validation_views) > 1:  # the best epoch was chosen by the original images alone, which is cheaper
            views = [logits(network, activations) for activations in validation_views]
            trained.probabilities = probabilities(np.mean(views, axis=0), 1.0)
        return trained

    def _batch_augmentation(self, start: int) -> "Augmentation | None":
        """The policy whose draws are made anew in every epoch; None where recorded views are trained on."""
        return self.augmentation if start == 0 and self.draws_batches else None

    def _boundary(self) -> tuple[int, list[BoundaryActivations], list[BoundaryActivations]]:
        """The block where training starts, and the activations that enter it: of the training images per view, and of
        the validation images per test-time view, the original images first.

        Training starts at block 0, from the images, where the base can't be split at its first unfrozen block or the
        activations would take much more space than the images.
        """
        boundary = self.task.features.boundary
        for start in (self.first_unfrozen, 0):
            train_views = [ORIGINAL] if self._batch_augmentation(start) else self.train_views
            if boundary("validation", start) is not None:
                train = [boundary("train", start, view) for view in train_views]
                validation = [boundary("validation", start, view) for view in self.tta_views]
                if train[0] is not None:  # else an accelerator's memory has no room for the training images
                    return start, [a for a in train if a is not None], [a for a in validation if a is not None]
            self.task.log(
                f"{self.task.backbone.name}: the input of block {start} can't be recorded, so the whole network runs "
                "in every epoch"
            )
        raise AssertionError("the input of block 0, the images, can always be recorded")

    def _network(self, start: int) -> "nn.Module":
        """Base and head as one module, from the activations that enter block `start` to logits."""
        from autotl.backbones.graph_split import Normalize
        from autotl.strategies.frozen_norms import joint_network, speed_up_frozen_norms

        if is_accelerator(self.device):
            speed_up_frozen_norms(self._eval_modules())
        base = self.graph_split.suffix(start) if start else Normalize(self.base, self.task.backbone.preprocessing)
        return joint_network(base, self.head, self._eval_modules()).to(self.device)

    def _eval_modules(self) -> "list[nn.Module]":
        """Modules that stay in eval mode: those of frozen blocks, and with `freeze_bn` all batch norms."""
        unfrozen = self._unfrozen_modules()
        identities = {id(module) for module in unfrozen}
        modules = [module for module in self.base.modules() if id(module) not in identities]
        if self.params["freeze_bn"]:
            modules += [module for module in unfrozen if _has_running_statistics(module)]
        return modules

    def _groups(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups.

        Discriminative learning rates: each block's is `lr_decay` times that of the block after it (Howard & Ruder,
        ACL 2018). Biases, norms and position embeddings have no weight decay, see `parameter_groups`.
        """
        from autotl.strategies.param_groups import no_weight_decay, parameter_groups

        # Adam's step shrinks with the noise of a gradient, which falls with the square root of the batch (Malladi et
        # al., NeurIPS 2022)
        lr = float(self.params["lr"] or 0) * math.sqrt(self.batch / BATCH)
        lr_decay = float(self.params["lr_decay"] or 1)
        weight_decay = float(self.params["weight_decay"] or 0)
        head = self.head.named_parameters()
        groups = parameter_groups(head, lr * HEAD_LR_FACTOR, weight_decay, no_weight_decay(self.head))
        excluded = no_weight_decay(self.base)
        for depth, block in enumerate(reversed(self.unfrozen)):
            groups += parameter_groups(self._named_parameters(block), lr * lr_decay**depth, weight_decay, excluded)
        return groups

    def _tensor(self, activations: "np.ndarray | Tensor") -> "Tensor":
        """On the device: images [n, size, size, 3], which are normalised there; activations as float32."""
        import torch

        x = activations
        if isinstance(x, np.ndarray):
            x = to_device(torch.from_numpy(np.ascontiguousarray(x)), self.device)
        if self.graph_start == 0:
            return x
        x = x.float()
        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def executed(self, recipe: Recipe) -> Recipe:
        """`recipe` with what was decided while it was trained."""
        params: dict[str, Any] = {"tuned_share": self.tuned_share} if self.tuned_share != 1.0 else {}
        if self.draws_batches:
            params["draws_batches"] = True
        if self.batch != BATCH:
            params["batch"] = self.batch
        return replace(recipe, strategy_params={**recipe.strategy_params, **params})

    def unfrozen_state(self) -> "dict[str, Tensor]":
        """The part of the base that training changed: parameters and buffers of the unfrozen blocks."""
        modules = tuple(f"{name}." for block in self.unfrozen for name in block.modules)
        parameters = {name for block in self.unfrozen for name in block.parameters}
        state = self.base.state_dict()
        return {k: v.cpu().clone() for k, v in state.items() if k in parameters or k.startswith(modules)}


def _has_running_statistics(module: "nn.Module") -> bool:
    return getattr(module, "running_mean", None) is not None


def _no_report(fraction: float, score: float) -> None:
    """Discard the progress of the head's own training, which isn't part of the trial's budget."""


def autotl_register_strategies(register: "Register[Strategy]") -> None:
    register(FineTuning())
