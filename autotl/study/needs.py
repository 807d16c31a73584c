"""What a trial needs of a worker: the accelerator itself, or only features that an accelerator has recorded."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from autotl.recipe import JOIN
from autotl.registry import Registry
from autotl.study.space import Choices

__all__ = ["MAX_CPU_DENSE_SAMPLES", "FeaturesOfTrials", "Needs", "Recording", "Work"]

MAX_CPU_DENSE_SAMPLES = 50_000
"""Training samples up to which a dense head is trained on a CPU beside an accelerator: an epoch takes a second or less.
Estimators take fewer samples anyway."""
VIEW_PARAMS = ("policy", "views")
"""The `recorded_params` of a strategy that records the original images and some views of them."""


class Work(StrEnum):
    """The trials that a worker may get."""

    ANY = "any"
    NETWORKS = "networks"
    """Trials that need an accelerator: they train the network, a large dense head, or it isn't known beforehand which
    features they read."""
    HEADS = "heads"
    """Trials that fit a head on recorded features."""
    DENSE_HEADS = "dense heads"
    """Those of them whose head is dense."""


@dataclass(frozen=True)
class Recording:
    """Features of the training and validation images: of the original images, and of some views of a policy."""

    backbone: str
    policy: str = "none"
    views: int = 0
    """Number of views beside the original image."""

    @property
    def parts(self) -> tuple["Recording", ...]:
        """One for each backbone whose features are joined."""
        return tuple(replace(self, backbone=backbone) for backbone in self.backbone.split(JOIN))

    def covers(self, other: "Recording") -> bool:
        """Whether these features include the other's."""
        same_views = not other.views or (self.policy == other.policy and self.views >= other.views)
        return set(other.backbone.split(JOIN)) <= set(self.backbone.split(JOIN)) and same_views

    def is_in(self, recordings: Collection["Recording"]) -> bool:
        """Whether each part of this one is covered by one of the recordings."""
        return all(any(recording.covers(part) for recording in recordings) for part in self.parts)

    def describe(self) -> str:
        """`resnet50, 7 views of dihedral`."""
        plural = "view" if self.views == 1 else "views"
        return f"{self.backbone}, {self.views} {plural} of {self.policy}" if self.views else self.backbone


@dataclass(frozen=True)
class Needs:
    """Tells what trials of a search need."""

    choices: Choices
    registry: Registry

    def trains_network(self, strategy: str) -> bool:
        """Whether a strategy's trials need an accelerator whatever their head: they train the network, which takes
        dense heads alone, or what they record depends on parameters of their own."""
        spec = self.registry.strategy(strategy)
        return "estimator" not in spec.head_types or tuple(spec.recorded_params) not in ((), VIEW_PARAMS)

    def reads_views(self, strategy: str) -> bool:
        """Whether a strategy's heads learn from views as well."""
        return tuple(self.registry.strategy(strategy).recorded_params) == VIEW_PARAMS

    def is_dense(self, head: str) -> bool:
        return self.registry.head(head).type == "dense"

    def is_large(self, head: str, views: int) -> bool:
        """Whether a head is dense and has too many samples for a CPU."""
        return self.is_dense(head) and self.choices.num_train * (1 + views) > MAX_CPU_DENSE_SAMPLES

    def recording(self, params: Mapping[str, Any]) -> Recording | None:
        """The features that a trial reads; None where it needs the accelerator or where its features aren't known."""
        strategy, backbone = params.get("strategy"), params.get("backbone")
        if strategy not in self.choices.strategies or backbone is None or self.trains_network(strategy):
            return None
        policy: Any = "none"
        views: Any = 0
        if self.reads_views(strategy):
            policy, views = params.get(f"{strategy}.policy"), params.get(f"{strategy}.views")
            if policy not in self.choices.augmentations or not isinstance(views, int):
                return None
            most = self.registry.augmentations[policy].max_views
            views = views if most is None else min(views, most)
        return Recording(backbone, policy, views)

    def suits(self, params: Mapping[str, Any], work: Work, recorded: Collection[Recording] | None) -> bool:
        """Whether a trial belongs to some work.

        Args:
            recorded: the features that are recorded; None where the worker may record those that it reads.
        """
        if work == Work.ANY:
            return True
        recording = self.recording(params)
        head = params.get(f"{params.get('strategy')}.head")
        if recording is None or head is None:
            return work == Work.NETWORKS
        if self.is_large(head, recording.views) and work != Work.DENSE_HEADS:
            return work == Work.NETWORKS
        if work == Work.NETWORKS or (work == Work.DENSE_HEADS and not self.is_dense(head)):
            return False
        return recorded is None or recording.is_in(recorded)

    def readable(self, strategy: str, recorded: Collection[Recording], unusable: Collection[str]) -> list[Recording]:
        """Those of the recorded features that a strategy's heads may learn from, also side by side.

        Args:
            unusable: names of backbones.
        """
        names, reads_views = self.choices.backbones_for(strategy, self.registry), self.reads_views(strategy)
        joins = [replace(recording, backbone=name) for recording in recorded for name in names if JOIN in name]
        possible = dict.fromkeys((*recorded, *(join for join in joins if join.is_in(recorded))))
        usable = [r for r in possible if r.backbone in names and r.backbone not in unusable]
        return [recording for recording in usable if recording.views or not reads_views]

    def heads(self, strategy: str, work: Work) -> list[str]:
        """The heads of a strategy that belong to some work."""
        heads = list(self.choices.heads_for(strategy, self.registry))
        if work == Work.ANY or self.trains_network(strategy):
            return heads if work in (Work.ANY, Work.NETWORKS) else []
        if work == Work.DENSE_HEADS:
            return [head for head in heads if self.is_dense(head)]
        views = self.registry.strategy(strategy).samples_per_image - 1
        return [head for head in heads if self.is_large(head, views) == (work == Work.NETWORKS)]


@dataclass
class FeaturesOfTrials:
    """Which features the trials of a search have read. Thousands of trials read a few dozen."""

    needs: Needs
    _first: dict[Recording, Mapping[str, Any]] = field(default_factory=dict)
    """By features, the parameters of the first trial that has read them."""
    _num_seen: int = 0

    def first_of_each(self, trials: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
        """The parameters of the first trial with each features.

        Args:
            trials: parameters, those of the last call and perhaps more.
        """
        for params in trials[self._num_seen :]:
            if recording := self.needs.recording(params):
                self._first.setdefault(recording, params)
        self._num_seen = len(trials)
        return self._first.values()
