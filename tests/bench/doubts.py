"""Whether doubts hold what they promise: the risk of abstaining, false alarms and finds of "unknown", prediction sets.

Run from a checkout: python tests/bench/doubts.py FOLDER... [--head kernel_ridge] [--recorded FOLDER]

A quarter of each data set's images (whole groups) is held out for testing. The head is fitted with its defaults on the
recorded features of the others, and calibrated on their out-of-fold probabilities.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from label_errors import predict_out_of_fold, recorded

from autotl.heads.calibration import fit_temperature
from autotl.heads.inference import logits, probabilities
from autotl.model.doubt import Doubt, decide, fit_familiar
from autotl.registry import load_registry
from autotl.trial.out_of_fold import fold_numbers, units_of

RISKS = (0.01, 0.05, 0.1)
COVERAGE, UNKNOWN_AT = 0.9, 0.02
OUTPUT = 1280
"""Features of efficientnet_lite0's output, the first of the recorded ones."""
MAX_OTHERS = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--head", default="kernel_ridge")
    parser.add_argument("--recorded", type=Path)
    arguments = parser.parse_args()
    spec = load_registry().head(arguments.head)
    with tempfile.TemporaryDirectory() as scratch:
        sets = {place.name: recorded(place, arguments.recorded or Path(scratch)) for place in arguments.folders}
    print("data set       accuracy  wrong / answered at " + ", ".join(f"{risk:.0%}" for risk in RISKS))
    for name, (dataset, features) in sets.items():
        everything = np.arange(len(dataset))
        fold = fold_numbers(dataset, everything, 0, num_folds=4)
        train, test = everything[fold > 0], everything[fold == 0]
        labels, num_classes = dataset.labels, len(dataset.classes)
        folds = fold_numbers(dataset, train, 1)
        rows = predict_out_of_fold(features[train], labels[train], folds, arguments.head, num_classes)
        doubt = Doubt.of(rows, labels[train], fit_familiar(features[train, :OUTPUT], units_of(dataset, train)))
        estimator = spec.build(spec.defaults(), features.shape[1], num_classes, 0).fit(features[train], labels[train])
        log_rows = np.log(np.maximum(rows, 1e-30))
        answers = probabilities(
            logits(estimator, features[test], num_classes), fit_temperature(log_rows, labels[train])
        )
        right = answers.argmax(1) == labels[test]
        cells = []
        for risk in RISKS:
            answered = answers.max(1) >= doubt.confidence_for(risk)
            wrong, n = int((~right)[answered].sum()), int(answered.sum())
            error = np.sqrt(max(wrong, 1)) / max(n, 1)
            cells.append(f"{wrong / max(n, 1):.3f} ± {error:.3f} / {n / len(test):.2f}")
        sets_of = [decide(doubt, range(num_classes), row, None, coverage=COVERAGE).classes for row in answers]
        held = np.mean([label in chosen for label, chosen in zip(labels[test], sets_of, strict=True)])
        assert doubt.familiar is not None
        alarms = (doubt.familiar.likeness(features[test, :OUTPUT]) < UNKNOWN_AT).mean()
        found = {
            other: (doubt.familiar.likeness(x[:MAX_OTHERS, :OUTPUT]) < UNKNOWN_AT).mean()
            for other, (_, x) in sets.items()
            if other != name
        }
        print(f"{name:14} {right.mean():8.3f}  " + "   ".join(cells))
        print(
            f"{'':25}sets at {COVERAGE:.0%}: {held:.3f} with {np.mean(list(map(len, sets_of))):.2f} classes; unknown: "
            f"{alarms:.3f} of its own, " + ", ".join(f"{share:.2f} of {other}" for other, share in found.items()),
            flush=True,
        )


if __name__ == "__main__":
    main()
