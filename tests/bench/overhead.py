"""What a trial costs beside its training: asking for its recipe and telling its score."""

import random
import statistics
from pathlib import Path

import optuna
from optuna.samplers import RandomSampler, TPESampler
from rows import Ground, Row, at_most, seconds, work

from autotl.study.space import Choices, suggest
from autotl.study.study import open_study

BEFORE = 1000
"""Trials that the journal holds."""
TIMED = 40


@work
def ask_to_tell(ground: Ground) -> list[Row]:
    """From the ask to the tell on a journal of a thousand trials, with what the coordinator fixes: the strategy. The
    naive way is `TPESampler(multivariate=True, group=True)`, as Optuna documents for a conditional space."""
    registry = ground.registry
    choices = Choices((ground.backbone.name,), tuple(registry.strategies), tuple(registry.heads), 1574, 2)

    rng = random.Random(0)

    def trial(study: optuna.Study) -> None:
        study.enqueue_trial({"strategy": rng.choice(choices.strategies)})
        asked = study.ask()
        suggest(asked, choices, registry, 0)
        study.tell(asked, rng.random())

    def median(study: optuna.Study) -> float:
        trial(study)  # it reads what others have done
        return statistics.median(seconds(lambda: trial(study)) for _ in range(TIMED)) * 1e3

    with ground.scratch() as folder:
        study = _filled(folder, trial)
        ours = median(study)
        study.sampler = TPESampler(multivariate=True, group=True, seed=0)
        documented = median(study)
    return [at_most(f"from ask to tell, without training, after {BEFORE:,} trials", ours, "ms", 30, documented)]


def _filled(folder: Path, trial) -> optuna.Study:  # type: ignore[no-untyped-def]
    study = open_study(folder, "bench", "maximize", 0)
    ours, study.sampler = study.sampler, RandomSampler(seed=0)
    for _ in range(BEFORE):
        trial(study)
    study.sampler = ours
    return study
