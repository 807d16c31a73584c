"""The head contract: the new classifier on top of a backbone's features."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from autotl.recipe import Params, Space

__all__ = ["Head"]


class Head(ABC):
    """A new classifier. Creating the object must be cheap: import torch and scikit-learn in `build`."""

    name: str
    type: Literal["dense", "estimator"]
    """A dense head is a torch module, which can be trained together with the base. An estimator head is a scikit-learn
    classifier with `predict_proba` or `decision_function`, which is fitted on recorded features."""

    max_train_samples: ClassVar[int | None] = None
    """The number of samples the head can be trained on in reasonable time; None means any number. Strategies that
    augment record fewer views for a head with a limit."""

    predicts_folds: ClassVar[bool] = False
    """Whether the `fit` of an estimator takes `folds`, for which it predicts all samples out of fold at little cost."""

    trusted: ClassVar[tuple[str, ...]] = ()
    """Types, as `module.Name`, that skops may load for this head in addition to those it trusts by itself."""

    @abstractmethod
    def suggest(self, space: Space) -> dict[str, Any]:
        """The head's hyperparameters, chosen from `space`: the `params` of `build`."""

    def defaults(self) -> Params:
        """A good value for each parameter of `suggest`, for the warm-start portfolio."""
        return {}

    @abstractmethod
    def build(self, params: Params, num_features: int, num_classes: int, seed: int) -> Any:
        """An untrained head.

        A dense head is an `nn.Module` from [N, num_features] to logits [N, num_classes]. Its `no_weight_decay()`, if it
        has one, names parameters to exempt from weight decay besides biases and other 1-D parameters.

        An estimator head is a scikit-learn classifier, which is fitted on labels 0 … num_classes-1, some of which may
        be missing. Three parameters of its `fit` are optional:

        - `groups`: [n], the number of the image that each sample is a view of. Samples of one group must stay on the
          same side of a split into training and held-out samples.
        - `on_progress`: a function to call during the fit with the completed fraction, in (0, 1). It scores the
          estimator on the validation images, so the estimator must be able to predict, and it may raise to end the
          fit: let the exception through.
        - `folds`: [n], the fold of each sample, negative for those that no fold holds out. The fit sets
          `out_of_fold_decision_`, the decision function of each sample from a fit without its fold, NaN for the others.

        skops must be able to save the fitted estimator. `__getstate__` converts what skops can't save to bytes in its
        library's own format, and `__setstate__` converts it back, raising ValueError for damaged bytes. Name the
        estimator's type in `trusted`.

        To be exported, an estimator that isn't scikit-learn's has a method `to_module()`: a torch module from features
        [N, num_features] to what its `decision_function` (one column for two classes) or `predict_proba` returns.
        `autotl.heads.modules.translated` makes modules of scikit-learn's estimators inside of it.
        """
