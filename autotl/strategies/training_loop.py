"""The one torch training loop: AdamW, warm-up and cosine, label smoothing, mixup, clipping, EMA, best epoch kept."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from autotl.engines.accelerator import autocast, synchronize
from autotl.engines.micro_batch import MicroBatch
from autotl.errors import AutotlError, find_named
from autotl.recipe import Params, Recipe
from autotl.strategies.base import OutOfTime, Report, Task
from autotl.strategies.losses import Loss

__all__ = ["Diverged", "Trained", "TrainingConfig", "train"]

WARMUP_STEPS, WARMUP_EPOCHS = 20, 3
"""Length of the linear warm-up, whichever is shorter: a new head's first gradients would otherwise damage a pretrained
base. It must not depend on the number of epochs, see FIXED_STEPS."""
UNTIMED_STEPS, TIMED_STEPS = 1, 2
"""The first step, in which libraries choose their algorithms, and the steps after it, which are timed to find how
many epochs fit into the time. Their learning rates must not depend on the number of epochs: a replay starts with the
reduced number and has to repeat them exactly."""
FIXED_STEPS = UNTIMED_STEPS + TIMED_STEPS


class Diverged(AutotlError):
    """The loss or the predictions became NaN or infinite."""


@dataclass(frozen=True)
class TrainingConfig:
    """The hyperparameters of `train`."""

    epochs: int
    loss: str = "cross_entropy"
    """Name of a registered loss."""
    label_smoothing: float = 0.0
    mixup: float = 0.0
    """Alpha of mixup's Beta distribution (Zhang et al., ICLR 2018); 0 turns mixup off. Mixes the inputs of the trained
    part: images, or activations as in manifold mixup (Verma et al., ICML 2019)."""
    class_weight: Literal["balanced"] | None = None
    """"balanced" weights classes by the inverse of their frequency, as in scikit-learn."""
    ema: float = 0.0
    """Decay of the exponential moving average of the weights, which is then scored and kept; 0 turns it off."""
    clip: float = 1.0
    """Maximum norm of the gradient."""
    patience: int = 5
    """Epochs without a better score after which training stops."""
    precision: str | None = None
    """`"bf16"` or `"fp16"`: autocast the forward pass; weights, loss and scores stay in fp32. In fp16 the loss is
    scaled, so that small gradients don't become 0. None means fp32."""
    stop_after: int | None = None
    """Stop after this many epochs of a longer schedule: reproduces a training that ran out of time."""

    @classmethod
    def from_params(cls, params: Params, **overrides: Any) -> "TrainingConfig":
        """Build a TrainingConfig from the strategy parameters it has fields for; ignore the others."""
        known = {name: value for name, value in params.items() if name in cls.__dataclass_fields__}
        return cls(**{**known, **overrides})


@dataclass
class Trained:
    """Outcome of `train`. The network holds the weights of the best epoch."""

    probabilities: np.ndarray
    """Of the validation images in the best epoch, [n, num_classes]."""
    history: list[dict[str, float]]
    config: TrainingConfig
    """As executed: with fewer epochs, or with `stop_after`, where time ran short."""
    best_epoch: int

    def executed_recipe(self, recipe: Recipe) -> Recipe:
        """`recipe` with the parameters that were executed, so that a replay trains exactly the same."""
        config = self.config
        executed = {"epochs": config.epochs, "stop_after": config.stop_after, "precision": config.precision}
        changes = {name: value for name, value in executed.items() if value is not None}
        return replace(recipe, strategy_params={**recipe.strategy_params, **changes})


def train(
    network: nn.Module,
    groups: list[dict[str, Any]],
    batches: Callable[[int, torch.Generator], Iterator[tuple[Tensor, Tensor]]],
    steps: int,
    predict: Callable[[nn.Module], np.ndarray],
    config: TrainingConfig,
    task: Task,
    report: Report,
    seed: int,
    *,
    fit_epochs: bool = False,
    micro: MicroBatch | None = None,
) -> Trained:
    """Train `network` in place, and keep the weights of the best epoch.

    Args:
        groups: AdamW's parameter groups, each with its `lr`: the peak of the learning rate schedule.
        batches: `batches(epoch, generator)` yields the inputs and labels of one epoch.
        steps: the number of batches per epoch.
        predict: computes a network's probabilities of the validation images.
        seed: of everything that training draws.
        fit_epochs: time the first steps, and reduce the epochs to those that fit into the task's `time_budget`.
        micro: the micro-batch size of the network; by default a size for heads on recorded features.

    Raises:
        UnknownName: no plugin has the loss.
        OutOfTime: the remaining time is too short for one epoch, or for all epochs of a refit.
        Diverged: the loss or the predictions became NaN or infinite.
        optuna.TrialPruned: `report` raised it.
    """
    loss_function = find_named("loss", config.loss, task.losses)
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    optimizer = torch.optim.AdamW(groups, fused=device.type in ("cpu", "cuda", "mps") or None)  # None: torch chooses
    peaks = [group["lr"] for group in optimizer.param_groups]
    if task.refit_epochs:
        config = replace(config, stop_after=task.refit_epochs, patience=task.refit_epochs)
        fit_epochs = False
    micro = micro or MicroBatch(f"{task.head.name} on features", str(device), task.log)
    weights = _class_weights(task, device) if config.class_weight == "balanced" else None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average = _average(network, config.ema) if config.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    history: list[dict[str, float]] = []
    best: tuple[float, np.ndarray, dict[str, Tensor], int] | None = None
    epochs_without_gain = step = 0
    started = timing = timed_from = time.monotonic()
    with _seeded(seed, device):
        for epoch in range(1, config.epochs + 1):
            network.train()
            losses: list[Tensor] = []
            for x, y in batches(epoch, generator):
                step += 1
                if fit_epochs and step in (UNTIMED_STEPS + 1, FIXED_STEPS + 1):
                    synchronize(str(device))
                    timed_from, timing = timing, time.monotonic()
                if fit_epochs and step == FIXED_STEPS + 1:
                    step_seconds = (timing - timed_from) / TIMED_STEPS
                    config = _limit_epochs(config, epoch, step_seconds * steps * 1.15, task)
                if task.deadline.passed():
                    break
                lr_multiplier = _lr_multiplier(step, steps, config.epochs)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * lr_multiplier
                micro_batch_loss = _micro_batch_loss(network, x, y, config, loss_function, weights, generator)
                loss = micro.backward(
                    len(x), micro_batch_loss, lambda: optimizer.zero_grad(set_to_none=True), scaler.scale
                )
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(parameters, config.clip)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                if average:
                    average.update_parameters(network)
                losses.append(loss)
            if task.deadline.passed():  # the incomplete epoch is discarded
                if best is None or task.refit_epochs:
                    needed = f"all {task.refit_epochs} epochs were" if task.refit_epochs else "one epoch was"
                    raise OutOfTime(f"the time ran out before {needed} complete")
                config = replace(config, stop_after=epoch - 1)
                break
            mean_loss = float(torch.stack(losses).mean())
            if not math.isfinite(mean_loss):
                bad = next(i for i, value in enumerate(losses) if not torch.isfinite(value))
                raise Diverged(f"the loss is {losses[bad]:g} at step {step - len(losses) + bad + 1} (epoch {epoch})")
            scored = average.module if average else network
            scored.eval()
            probabilities = predict(scored)
            if not np.isfinite(probabilities).all():
                raise Diverged(f"the validation probabilities are not finite after step {step} (epoch {epoch})")
            score = task.metric(task.validation_labels, probabilities)
            seconds = time.monotonic() - started
            history.append({"epoch": epoch, "loss": mean_loss, "score": score, "seconds": seconds})
            if best is None or task.refit_epochs or task.metric.better(score, best[0]):
                best, epochs_without_gain = (score, probabilities, deepcopy(scored.state_dict()), epoch), 0
            else:
                epochs_without_gain += 1
            report(epoch / config.epochs, best[0])
            if epochs_without_gain >= config.patience or epoch in (config.epochs, config.stop_after):
                break
            if not task.refit_epochs and task.deadline.remaining() < (time.monotonic() - started) / epoch * 1.1:
                config = replace(config, stop_after=epoch)
                break
    assert best is not None
    network.load_state_dict(best[2])
    network.eval()
    return Trained(best[1], history, config, best[3])


def _micro_batch_loss(
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    config: TrainingConfig,
    loss: Loss,
    weights: Tensor | None,
    generator: torch.Generator,
) -> Callable[[slice], Tensor]:
    """A function from a slice of the batch to its part of the batch's loss; the parts of all slices add up to the loss.

    Mixup's draws happen here, once per batch, so that they don't depend on the micro-batch size.
    """

    def forward(x: Tensor) -> Tensor:
        with autocast(x.device.type, config.precision):
            return network(x).float()

    def mean_loss(predicted: Tensor, labels: Tensor, selection: slice) -> Tensor:
        losses = loss.compute(predicted, labels[selection], weights, config.label_smoothing)
        if losses.shape != labels[selection].shape:
            raise ValueError(f"loss {loss.name!r} returned the shape {list(losses.shape)} for {len(predicted)} samples")
        return losses.sum() / (len(labels) if weights is None else weights[labels].sum())

    if not config.mixup:
        return lambda selection: mean_loss(forward(x[selection]), y, selection)
    # a Beta(a, a) draw as the ratio of two Gamma draws: torch's Beta distribution takes no generator
    gamma = torch._standard_gamma(torch.full((2,), config.mixup), generator=generator)
    share = float(gamma[0] / gamma.sum())
    partner = torch.randperm(len(x), generator=generator).to(x.device)

    def mixed(selection: slice) -> Tensor:
        # uint8 images are mixed before they are normalised: the same as after it, normalisation is affine
        one, other = (_floating(rows) for rows in (x[selection], x.index_select(0, partner[selection])))
        predicted = forward(torch.lerp(other, one, share))
        own_loss, other_loss = (mean_loss(predicted, labels, selection) for labels in (y, y[partner]))
        return share * own_loss + (1 - share) * other_loss

    return mixed


def _floating(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.float()


def _lr_multiplier(step: int, steps: int, epochs: int) -> float:
    """Linear warm-up times cosine decay to 0, which starts after FIXED_STEPS. `steps` is per epoch."""
    warmup = min(1.0, step / min(WARMUP_STEPS, WARMUP_EPOCHS * steps))
    progress = max(0, step - FIXED_STEPS) / max(1, epochs * steps - FIXED_STEPS)
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _limit_epochs(config: TrainingConfig, epoch: int, epoch_seconds: float, task: Task) -> TrainingConfig:
    """Reduce the epochs to those that fit into the time. Raises OutOfTime where not even one does."""
    remaining = task.deadline.remaining()
    if epoch == 1 and epoch_seconds > remaining:
        raise OutOfTime(f"an epoch takes about {epoch_seconds:.0f} s, but {remaining:.0f} s remain")
    budget = min(task.time_budget, remaining)
    if math.isinf(budget):
        return config
    return replace(config, epochs=max(epoch, min(config.epochs, int(budget / epoch_seconds))))


def _class_weights(task: Task, device: torch.device) -> Tensor:
    counts = np.bincount(task.train_labels, minlength=task.num_classes).clip(min=1)
    return torch.tensor(len(task.train_labels) / (task.num_classes * counts), dtype=torch.float32, device=device)


def _average(network: nn.Module, decay: float) -> Any:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from, and restore their states afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
