"""The head contract: the new classifier on top of a backbone's features."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from autotl.recipe import Params, Space

__all__ = ["Head"]


class Head(ABC):
    """A new classifier. Making one is cheap: torch and scikit-learn are imported in `build`."""

    name: str
    type: Literal["dense", "estimator"]
    """A dense head is a torch module and can be trained with the base; an estimator head is a scikit-learn
    classifier, with `predict_proba` or `decision_function`, on recorded features."""

    max_train_samples: ClassVar[int | None] = None
    """How many feature rows it can take in reasonable time; strategies that augment record fewer views for it."""

    trusted: ClassVar[tuple[str, ...]] = ()
    """Types, as `module.Name`, that skops may load for this head besides scikit-learn's own."""

    @abstractmethod
    def suggest(self, space: Space) -> dict[str, Any]:
        """The head's design, chosen from `space`: what `build` takes as `params`."""

    def defaults(self) -> Params:
        """A known-good value for each name that `suggest` chooses: what is tried first."""
        return {}

    @abstractmethod
    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        """Unfitted: for a dense head an `nn.Module` from [N, num_features] to logits [N, num_classes]; for an estimator
        head a scikit-learn classifier, which is fitted on labels 0 … num_classes-1 (some of which may be missing).

        An estimator whose `fit` has a parameter `images` is told which image each row is of, [n]: several rows may
        be views of one. One that has a parameter `watch` is given a function to call now and then while it learns,
        with the fraction that is done: it scores the estimator as it stands on the validation images, and ends a
        trial that falls behind or is out of time by raising through `fit`.

        What skops can't hold an estimator turns into bytes of its library's own format: in `__getstate__`, and back
        in `__setstate__`, which raises ValueError for bytes that are no model. Its type belongs in `trusted`.
        """
