"""The one torch training loop: AdamW, warm-up and cosine, label smoothing, mixup, clipping, EMA, best epoch kept."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autotl.engines.micro_batch import MicroBatch
from autotl.errors import AutotlError
from autotl.recipe import Params, Recipe
from autotl.strategies.base import OutOfTime, Report, Task

__all__ = ["Diverged", "Trained", "TrainingConfig", "train"]

WARMUP_STEPS, WARMUP_EPOCHS = 20, 3
"""A few small steps first, so that a new head's gradients don't shake a pretrained base: so many steps, or epochs where
those have few. How many epochs are planned doesn't count: see TIMED_STEPS."""
TIMED_STEPS = 3
"""They tell how many epochs fit. Their pace knows nothing of that number: a replay that begins with it repeats them."""


class Diverged(AutotlError):
    """The loss was no longer a number."""


@dataclass(frozen=True)
class TrainingConfig:
    """How to train, apart from what."""

    epochs: int
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """The alpha of mixup's Beta distribution (Zhang et al., ICLR 2018); 0 is none. Applied to what enters the
    trained part: images, or activations as in manifold mixup (Verma et al., ICML 2019)."""
    balanced: bool = False
    """Weigh classes by the inverse of their frequency."""
    ema: float = 0.0
    """Decay of a moving average of the weights, which is then what is scored and kept; 0 is none."""
    clip: float = 1.0
    patience: int = 5
    """Epochs without a better score before training stops."""
    precision: str | None = None
    """`"bf16"`: the forward pass runs in it, while weights, loss and scores stay in fp32. None is fp32."""
    stop_after: int | None = None
    """Epochs after which to stop although the schedule goes on: where an earlier training ran out of time."""

    @classmethod
    def from_params(cls, params: Params, **more: Any) -> "TrainingConfig":
        """From a strategy's parameters: those that a plan has; the rest is somebody else's."""
        known = {k: v for k, v in params.items() if k in cls.__dataclass_fields__}
        return cls(**{**known, **more})


@dataclass
class Trained:
    """What training left: the network holds the best epoch's weights, of which these are the validation
    probabilities."""

    probabilities: np.ndarray
    history: list[dict[str, float]]
    plan: TrainingConfig
    """As carried out: with fewer epochs, or `stop_after`, where time ran short."""
    best_epoch: int
    """The one that is kept."""

    def carried_out(self, recipe: Recipe) -> Recipe:
        """The recipe of what was trained, so that a replay repeats it, cut short or not."""
        done = {"epochs": self.plan.epochs, "stop_after": self.plan.stop_after, "precision": self.plan.precision}
        said = {name: value for name, value in done.items() if value is not None}
        return replace(recipe, strategy_params={**recipe.strategy_params, **said})


def train(
    network: nn.Module,
    groups: list[dict[str, Any]],
    batches: Callable[[int, torch.Generator], Iterator[tuple[Tensor, Tensor]]],
    steps: int,
    predict: Callable[[nn.Module], np.ndarray],
    plan: TrainingConfig,
    task: Task,
    report: Report,
    seed: int,
    fit_epochs: bool = False,
    micro: MicroBatch | None = None,
) -> Trained:
    """Train `network` in place on `batches(epoch, generator)`, `steps` an epoch, and keep the best epoch.

    Args:
        groups: AdamW's parameter groups, each with its own `lr`, the peak of warm-up and cosine.
        predict: the validation probabilities of a network.
        fit_epochs: time the first steps, and plan no more epochs than fit into the task's time_budget.
        micro: how many rows of a batch pass through at once; without one, as many as fit.

    Raises:
        OutOfTime: not one epoch fits into the time that is left.
        Diverged: the loss became NaN or infinite; says at which step.
        optuna.TrialPruned: whatever `report` raises goes through.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda", "mps") or None)  # None: torch chooses
    peaks = [group["lr"] for group in optimizer.param_groups]
    if task.refit_epochs:
        plan = replace(plan, stop_after=task.refit_epochs, patience=task.refit_epochs)
        fit_epochs = False
    micro = micro or MicroBatch(f"{task.head.name} on features", str(device), task.log)
    weights = _class_weights(task, device) if plan.balanced else None
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    average = _average(network, plan.ema) if plan.ema else None
    history: list[dict[str, float]] = []
    best: tuple[float, np.ndarray, dict[str, Tensor], int] | None = None
    waited = step = 0
    started = time.monotonic()
    with _seeded(seed, device):
        for epoch in range(1, plan.epochs + 1):
            network.train()
            losses: list[Tensor] = []
            for x, y in batches(epoch, generator):
                step += 1
                if fit_epochs and step == TIMED_STEPS + 1:
                    a_step = (time.monotonic() - started) / TIMED_STEPS
                    plan = _fitting(plan, epoch, a_step * steps * 1.15, task)
                if task.deadline.passed():
                    break
                pace = _pace(step, steps, plan.epochs)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * pace
                share = _shares(network, x, y, plan, weights, generator)
                loss = micro.backward(len(x), share, lambda: optimizer.zero_grad(set_to_none=True))
                nn.utils.clip_grad_norm_(trained, plan.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                if average:
                    average.update_parameters(network)
                losses.append(loss)
            if task.deadline.passed():  # what is left of an epoch would count for nothing
                if best is None or task.refit_epochs:
                    wanted = f"all {task.refit_epochs} epochs were" if task.refit_epochs else "one epoch was"
                    raise OutOfTime(f"the time was up before {wanted} done")
                plan = replace(plan, stop_after=epoch - 1)
                break
            loss_now = float(torch.stack(losses).mean())
            if not math.isfinite(loss_now):
                bad = next(i for i, value in enumerate(losses) if not torch.isfinite(value))
                raise Diverged(f"the loss was {losses[bad]:g} at step {step - len(losses) + bad + 1} (epoch {epoch}).")
            scored = average.module if average else network
            scored.eval()
            found = predict(scored)
            if not np.isfinite(found).all():
                raise Diverged(f"the probabilities weren't numbers after step {step} (epoch {epoch}).")
            score = task.metric(task.validation_labels, found)
            history.append({"epoch": epoch, "loss": loss_now, "score": score, "seconds": time.monotonic() - started})
            if best is None or task.refit_epochs or task.metric.better(score, best[0]):
                best, waited = (score, found, deepcopy(scored.state_dict()), epoch), 0
            else:
                waited += 1
            report(epoch / plan.epochs, best[0])
            if waited >= plan.patience or epoch in (plan.epochs, plan.stop_after):
                break
            if not task.refit_epochs and task.deadline.remaining() < (time.monotonic() - started) / epoch * 1.1:
                plan = replace(plan, stop_after=epoch)
                break
    assert best is not None
    network.load_state_dict(best[2])
    network.eval()
    return Trained(best[1], history, plan, best[3])


def _shares(
    network: nn.Module, x: Tensor, y: Tensor, plan: TrainingConfig, weights: Tensor | None, generator: torch.Generator
) -> Callable[[slice], Tensor]:
    """What some rows of a batch add to its loss. Mixup is drawn here, once for the batch, however it is cut."""

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=plan.precision == "bf16"):
            return network(x).float()

    def cross_entropy(predicted: Tensor, labels: Tensor, chosen: slice) -> Tensor:
        total = F.cross_entropy(
            predicted, labels[chosen], weights, label_smoothing=plan.label_smoothing, reduction="sum"
        )
        return total / (len(labels) if weights is None else weights[labels].sum())

    if not plan.mixup:
        return lambda chosen: cross_entropy(forward(x[chosen]), y, chosen)
    # a Beta(a, a) draw, as the ratio of two Gamma draws, from the trial's own generator
    gamma = torch._standard_gamma(torch.full((2,), plan.mixup), generator=generator)
    share = float(gamma[0] / gamma.sum())
    other = torch.randperm(len(x), generator=generator).to(x.device)

    def mixed(chosen: slice) -> Tensor:
        predicted = forward(torch.lerp(x.index_select(0, other[chosen]), x[chosen], share))
        one, two = (cross_entropy(predicted, labels, chosen) for labels in (y, y[other]))
        return share * one + (1 - share) * two

    return mixed


def _pace(step: int, steps: int, epochs: int) -> float:
    """Linear warm-up, and cosine down to nothing from the first steps on. `steps` is those of an epoch."""
    warm = min(1.0, step / min(WARMUP_STEPS, WARMUP_EPOCHS * steps))
    gone = max(0, step - TIMED_STEPS) / max(1, epochs * steps - TIMED_STEPS)
    return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, gone)))


def _fitting(plan: TrainingConfig, epoch: int, epoch_seconds: float, task: Task) -> TrainingConfig:
    """No more epochs than the time_budget has room for. Raises OutOfTime where not even one fits the time left."""
    if epoch == 1 and epoch_seconds > task.deadline.remaining():
        raise OutOfTime(f"an epoch would take {epoch_seconds:.0f} s, and {task.deadline.remaining():.0f} s are left")
    allowed = min(task.time_budget, task.deadline.remaining())
    if math.isinf(allowed):
        return plan
    return replace(plan, epochs=max(epoch, min(plan.epochs, int(allowed / epoch_seconds))))


def _class_weights(task: Task, device: torch.device) -> Tensor:
    counts = np.bincount(task.train_labels, minlength=task.num_classes).clip(min=1)
    return torch.tensor(len(task.train_labels) / (task.num_classes * counts), dtype=torch.float32, device=device)


def _average(network: nn.Module, decay: float) -> Any:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout draws from torch's global generators: from `seed` in here, and they are left as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
