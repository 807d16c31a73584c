"""Checks of a fitted estimator that came from a file, before it predicts.

skops creates trusted types only, but their attributes are whatever the file states. Python code that meets a wrong one
raises some exception; compiled code (trees, support vector machines) follows its arrays' indices without looking, and
would read outside of them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["check_estimator"]

MAX_OBJECTS = 1_000_000


def check_estimator(estimator: Any, template: Any, num_features: int, num_classes: int) -> None:
    """Check that an estimator is what its head builds, fitted for these features and classes.

    Args:
        estimator: from a file.
        template: what the head builds for the recipe's parameters, not fitted.

    Raises:
        ValueError: it has other types or parameters than the template, is not fitted, or its arrays don't fit together.
    """
    _require_same(estimator, template)
    for part in _parts(estimator):
        for ancestor in type(part).__mro__:
            if ancestor.__name__ in CHECKS:
                CHECKS[ancestor.__name__](part)
    _check_classes(estimator, num_classes)
    if getattr(estimator, "n_features_in_", num_features) != num_features:
        raise ValueError(f"it takes {estimator.n_features_in_!r} features, not {num_features:,}")


def _require_same(estimator: Any, template: Any) -> None:
    """Raise ValueError where the estimator, or one inside of it, has another type or another parameter."""
    if type(estimator) is not type(template):
        raise ValueError(f"it holds a {type(estimator).__name__} where its head builds a {type(template).__name__}")
    if isinstance(template, list | tuple):
        if len(estimator) != len(template):
            raise ValueError(f"it has {len(estimator)} steps where its head builds {len(template)}")
        for one, other in zip(estimator, template, strict=True):
            _require_same(one, other)
    elif hasattr(template, "get_params"):
        for name in sorted(template.get_params(deep=False)):
            if name == "random_state":  # of the fit alone; the template has another seed
                continue
            if not hasattr(estimator, name):
                raise ValueError(f"its {type(estimator).__name__} has no {name}")
            _require_same(getattr(estimator, name), getattr(template, name))
    elif isinstance(template, str | int | float | None) and estimator != template:
        raise ValueError(f"it has the parameter {estimator!r:.60} where its head builds {template!r:.60}")


def _parts(root: Any) -> Iterator[Any]:
    """The object and all that its attributes hold, each once. Raises ValueError where an attribute hides a method."""
    seen, queue = {id(root)}, [root]
    while queue:
        part = queue.pop()
        yield part
        if isinstance(part, list | tuple | set):
            inner = list(part)
        elif isinstance(part, dict):
            inner = list(part.values())
        elif isinstance(part, np.ndarray | np.generic | str | bytes | type):
            continue
        else:
            attributes = getattr(part, "__dict__", {})
            for name in attributes:
                if hasattr(part, "get_params") and callable(getattr(type(part), name, None)):
                    raise ValueError(f"its {type(part).__name__} has an attribute in place of its method {name}")
            inner = list(attributes.values())
        for value in inner:
            if id(value) not in seen:
                seen.add(id(value))
                queue.append(value)
        if len(seen) > MAX_OBJECTS:
            raise ValueError(f"it has more than {MAX_OBJECTS:,} parts")


def _check_classes(estimator: Any, num_classes: int) -> None:
    if not hasattr(estimator, "classes_"):
        raise ValueError("it isn't fitted")
    classes = np.asarray(estimator.classes_)
    is_valid = classes.ndim == 1 and len(classes) and classes.dtype.kind in "iu"
    if not is_valid or classes[0] < 0 or classes[-1] >= num_classes or (np.diff(classes) <= 0).any():
        shown = " ".join(str(classes).split())[:80]
        raise ValueError(f"its classes are {shown}, and the model has classes 0 to {num_classes - 1}")


def _require(part: Any, **facts: bool) -> None:
    for name, holds in facts.items():
        if not holds:
            raise ValueError(f"the {name} of its {type(part).__name__} doesn't fit the rest of it")


def _is_array(value: Any, shape: tuple[int | None, ...], kinds: str = "f") -> bool:
    """Whether `value` is an array of this shape (None for any length) with finite numbers."""
    return (
        isinstance(value, np.ndarray)
        and value.dtype.kind in kinds
        and value.ndim == len(shape)
        and all(wanted in (None, length) for wanted, length in zip(shape, value.shape, strict=True))
        and bool(np.isfinite(value).all())
    )


def _check_scaler(part: Any) -> None:
    n = part.n_features_in_
    _require(
        part,
        mean_=part.mean_ is None or _is_array(part.mean_, (n,)),
        scale_=part.scale_ is None or (_is_array(part.scale_, (n,)) and bool((part.scale_ != 0).all())),
    )


def _check_pca(part: Any) -> None:
    n = part.n_features_in_
    _require(part, mean_=_is_array(part.mean_, (n,)), components_=_is_array(part.components_, (None, n)))


def _check_linear(part: Any) -> None:
    n, classes = part.n_features_in_, len(part.classes_)
    rows = 1 if classes == 2 else classes
    _require(
        part,
        coef_=_is_array(np.asarray(part.coef_), (rows, n)),
        intercept_=_is_array(np.atleast_1d(part.intercept_), (rows,)) or not np.any(part.intercept_),
    )


def _check_gram_svc(part: Any) -> None:
    _check_support(part, part.n_support_, part.dual_coef_, part.intercept_)
    _require(part, gamma_=np.isfinite(part.gamma_) and part.gamma_ > 0)


def _check_kernel_ridge(part: Any) -> None:
    n, outputs = part.n_features_in_, 1 if len(part.classes_) == 2 else len(part.classes_)
    is_linear = part.kernel in ("linear", "cosine")
    _require(
        part,
        mean_=_is_array(part.mean_, (n,)),
        scale_=_is_array(part.scale_, (n,)) and bool((part.scale_ != 0).all()),
        vectors_=part.vectors_ is None if is_linear else _is_array(part.vectors_, (None, n)),
        coef_=_is_array(part.coef_, (n if is_linear else len(part.vectors_), outputs)),
        intercept_=_is_array(part.intercept_, (outputs,)),
        gamma_=isinstance(part.gamma_, float) and np.isfinite(part.gamma_) and part.gamma_ > 0,
    )


def _check_libsvm(part: Any) -> None:
    _check_support(part, part._n_support, part._dual_coef_, part._intercept_)
    num_pairs = len(part.classes_) * (len(part.classes_) - 1) // 2
    _require(
        part,
        support_=_is_array(part.support_, (len(part.support_vectors_),), "iu"),
        kernel=isinstance(part.kernel, str) and part.kernel != "precomputed",
        _probA=len(part._probA) in (0, num_pairs),
        _probB=len(part._probB) == len(part._probA),
        _sparse=not part._sparse,
    )


def _check_support(part: Any, n_support: Any, dual_coef: Any, intercept: Any) -> None:
    classes, num_vectors = len(part.classes_), len(part.support_vectors_)
    _require(
        part,
        support_vectors_=_is_array(part.support_vectors_, (None, part.n_features_in_)),
        n_support_=_is_array(n_support, (classes,), "iu") and n_support.min() >= 0 and n_support.sum() == num_vectors,
        dual_coef_=_is_array(dual_coef, (classes - 1, num_vectors)),
        intercept_=_is_array(intercept, (classes * (classes - 1) // 2,)),
    )


def _check_neighbours(part: Any) -> None:
    num_samples = len(part._fit_X)
    _require(
        part,
        _fit_X=_is_array(part._fit_X, (None, part.n_features_in_)),
        _y=_is_array(part._y, (num_samples,), "iu") and part._y.min() >= 0 and part._y.max() < len(part.classes_),
        n_neighbors=1 <= part.n_neighbors <= num_samples,
        algorithm=(part.algorithm, part._fit_method, part._tree) == ("brute", "brute", None),
        metric=part.metric in ("euclidean", "cosine") and part.effective_metric_ in ("euclidean", "cosine"),
        n_jobs=part.n_jobs in (None, 1),
        outputs_2d_=not part.outputs_2d_,
    )


def _check_forest(part: Any) -> None:
    _require(
        part,
        estimators_=isinstance(part.estimators_, list) and 0 < len(part.estimators_) <= part.n_estimators,
        n_outputs_=part.n_outputs_ == 1,
        n_classes_=part.n_classes_ == len(part.classes_),
        n_jobs=part.n_jobs in (None, 1),
    )
    for tree in part.estimators_:
        _check_decision_tree(tree)
        _require(
            part,
            estimators_=(tree.n_features_in_, tree.n_classes_) == (part.n_features_in_, part.n_classes_),
        )


def _check_decision_tree(part: Any) -> None:
    """The nodes are numbered from the root down, so a child's number is larger than its parent's: no way is endless."""
    tree = part.tree_
    if type(tree).__name__ != "Tree" or not 0 < tree.node_count <= tree.capacity:  # else its arrays can't be read
        raise ValueError("the number of nodes of one of its trees is wrong")
    nodes = np.arange(tree.node_count)
    left, right = tree.children_left, tree.children_right
    inner = left != -1
    _require(
        part,
        n_outputs=(tree.n_outputs, part.n_outputs_) == (1, 1),
        n_features=tree.n_features == part.n_features_in_,
        n_classes=tree.n_classes.tolist() == [part.n_classes_] and tree.max_n_classes == part.n_classes_,
        children=bool(
            ((left > nodes) & (left < len(nodes)) & (right > nodes) & (right < len(nodes)))[inner].all()
            and (right == -1)[~inner].all()
        ),
        feature=bool(((tree.feature >= 0) & (tree.feature < part.n_features_in_))[inner].all()),
        threshold=bool(np.isfinite(tree.threshold[inner]).all()),
        value=_is_array(tree.value, (len(nodes), 1, part.n_classes_)),
    )


def _check_boosting(part: Any) -> None:
    per_iteration = 1 if len(part.classes_) == 2 else len(part.classes_)
    _require(
        part,
        _predictors=isinstance(part._predictors, list) and len(part._predictors) <= part.max_iter,
        n_trees_per_iteration_=part.n_trees_per_iteration_ == per_iteration,
        _baseline_prediction=_is_array(part._baseline_prediction, (1, per_iteration)),
        _preprocessor=getattr(part, "_preprocessor", None) is None and not getattr(part, "_in_fit", False),
        _bin_mapper=len(part._bin_mapper.bin_thresholds_) == part.n_features_in_
        and not np.any(part._bin_mapper.is_categorical_),
    )
    for predictors in part._predictors:
        _require(part, _predictors=isinstance(predictors, list) and len(predictors) == per_iteration)
        for predictor in predictors:
            _check_predictor(part, predictor)


def _check_predictor(part: Any, predictor: Any) -> None:
    nodes = predictor.nodes if type(predictor).__name__ == "TreePredictor" else None
    if not isinstance(nodes, np.ndarray) or nodes.ndim != 1 or not len(nodes) or nodes.dtype.names is None:
        raise ValueError("one of its trees has no nodes")
    left, right, numbers = (array.astype(np.int64) for array in (nodes["left"], nodes["right"], np.arange(len(nodes))))
    inner = nodes["is_leaf"] == 0
    _require(
        part,
        children=bool(((left > numbers) & (left < len(nodes)) & (right > numbers) & (right < len(nodes)))[inner].all()),
        feature=bool(((nodes["feature_idx"] >= 0) & (nodes["feature_idx"] < part.n_features_in_))[inner].all()),
        threshold=not np.isnan(nodes["num_threshold"][inner]).any(),
        value=bool(np.isfinite(nodes["value"]).all()),
        is_categorical=not nodes["is_categorical"].any(),
    )


CHECKS: dict[str, Callable[[Any], None]] = {
    "StandardScaler": _check_scaler,
    "PCA": _check_pca,
    "LinearClassifierMixin": _check_linear,
    "GramSVC": _check_gram_svc,
    "BaseSVC": _check_libsvm,
    "KernelRidgeClassifier": _check_kernel_ridge,
    "KNeighborsClassifier": _check_neighbours,
    "ForestClassifier": _check_forest,
    "DecisionTreeClassifier": lambda part: _check_decision_tree(part) if hasattr(part, "tree_") else None,
    "HistGradientBoostingClassifier": _check_boosting,
}
"""By the name of a class in the estimator's ancestry."""
