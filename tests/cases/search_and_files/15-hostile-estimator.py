"""An estimator of allowed types in a model's folder that doesn't fit the model: classes beyond those that there are, words
for classes, other columns, not fitted, NaN: tracebacks of numpy and scikit-learn (or NaN for a probability)."""

from common import *
from models import seal, small_model
import numpy as np
import skops.io

width = small_model(HERE / "m")
photos(HERE / "p", {"a": 1, "b": 1})
pictures = sorted((HERE / "p").glob("*/*"))
import autotl

from autotl.registry import load_registry

spec = load_registry().head("logistic_regression")


def fitted(**more):
    rng = np.random.default_rng(0)
    head = spec.build(spec.defaults(), width, 2, 0).fit(rng.standard_normal((20, width)), np.arange(20) % 2)
    for name, value in more.items():
        setattr(head[-1], name, value)
    return head


unfitted = spec.build(spec.defaults(), width, 2, 0)
cases = {
    "classes 0 and 99": fitted(classes_=np.array([0, 99])),
    "classes in words": fitted(classes_=np.array(["a", "b"])),
    "five columns": fitted(coef_=np.zeros((5, width)), intercept_=np.zeros(5)),
    "not fitted": unfitted,
    "NaN coefficients": fitted(coef_=np.full((1, width), np.nan)),
}
bad = []
for name, head in cases.items():
    (HERE / "m" / "members" / "0" / "head.skops").write_bytes(skops.io.dumps(head))
    seal(HERE / "m")
    how, words, _ = in_child(lambda: np.asarray(autotl.load(HERE / "m").predict_proba(pictures)).tolist())
    if how != "refused":
        bad.append(name)
    print(name, how, words[:110])
verdict(not bad, f"{len(bad)} of {len(cases)} aren't refused in words: {bad}")
