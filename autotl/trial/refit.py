"""The chosen recipes once more, on training and validation images together.

Once the members of a model are chosen the validation images have done their work, and more images make a better
classifier: a quarter more by default, and half as many again where a data set brings a large validation part. What was
found out on them stays as it was: the recipe, the number of epochs, the temperature.
"""

import math
import time
from dataclasses import replace

import numpy as np

from autotl.atomic_io import as_disk_full
from autotl.model.member import Member
from autotl.trial.runner import Bench, train

__all__ = ["refit"]

SLOWER = 1.3
"""How much longer than by the number of its images a fit may take."""


def refit(bench: Bench, members: list[Member], until: float) -> list[int]:
    """Fit members again, in place, those first that take least, as long as they are done by time.monotonic() `until`.

    One that there is no time for, or that fails, stays as its trial left it. Returns the trials of the others.
    """
    split = bench.context.split
    everything = replace(split, train=np.sort(np.concatenate([split.train, split.validation])))
    slot = replace(bench.context.slot, threads=bench.context.cores)

    def deadline() -> float:
        return min(until, bench.deadline())  # Ctrl-C may come

    extractor = replace(
        bench.extractor, split=everything, seconds_left=lambda: deadline() - time.monotonic()
    )
    larger = replace(
        bench, context=replace(bench.context, split=everything, slot=slot), extractor=extractor, deadline=deadline
    )
    # a support vector machine takes the square of the images
    growth = SLOWER * (len(everything.train) / len(split.train)) ** 2
    trials = {trial.number: trial.user_attrs for trial in bench.study.get_trials(deepcopy=False)}
    expected = {m.trial: growth * (trials[m.trial]["seconds"] - trials[m.trial].get("recording", 0)) for m in members}
    done = []
    for member in sorted(members, key=lambda m: expected[m.trial]):
        if time.monotonic() + expected[member.trial] > deadline():
            break
        bench.send("doing", f"fitting trial {member.trial} on training and validation images")
        try:
            epochs = trials[member.trial].get("best_epoch")
            fitted = train(larger, member.recipe, math.inf, lambda fraction, score: None, epochs).fitted
        except Exception as error:
            if full := as_disk_full(error, bench.context.folder):
                raise full from error
            bench.send("say", f"trial {member.trial} stays as it was fitted on the training images: {error}")
            continue
        fitted.temperature = member.fitted.temperature
        member.fitted = fitted
        done.append(member.trial)
    return sorted(done)
