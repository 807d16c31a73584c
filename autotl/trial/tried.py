"""What a search has tried: trials, time and best score by component, and what it never came to."""

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from autotl.study.comparison import HoldoutLine
from autotl.study.space import Choices
from autotl.study.study import TrialAttribute

__all__ = ["never_tried", "tried"]

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def tried(trials: Iterable[FrozenTrial], *, maximize: bool) -> dict[str, list[dict[str, Any]]]:
    """The finished trials by `backbone`, `strategy`, `unfrozen_blocks` and `head`.

    Returns:
        For each of these a row for each value: its `name`, the number of `trials`, their `seconds`, and the `best`
        score, as it would be out of fold (None where no trial is complete), most trials first.
    """
    trials = list(trials)
    line = HoldoutLine.of(trial for trial in trials if trial.state == TrialState.COMPLETE)
    tables: dict[str, dict[str, dict[str, Any]]] = {
        "backbone": {},
        "strategy": {},
        "unfrozen_blocks": {},
        "head": {},
    }
    for trial in trials:
        if trial.state not in FINISHED or "strategy" not in trial.params:
            continue
        for dimension, name in _components(trial).items():
            row = tables[dimension].setdefault(name, {"name": name, "trials": 0, "seconds": 0.0, "best": None})
            row["trials"] += 1
            row["seconds"] = round(row["seconds"] + trial.user_attrs.get(TrialAttribute.SECONDS, 0.0), 3)
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                best, score = row["best"], line.comparable(trial)
                row["best"] = score if best is None else (max if maximize else min)(best, score)
    return {
        dimension: sorted(rows.values(), key=lambda row: (-row["trials"], row["name"]))
        for dimension, rows in tables.items()
    }


def _components(trial: FrozenTrial) -> dict[str, str]:
    params, strategy = trial.params, trial.params["strategy"]
    blocks = params.get(f"{strategy}.unfrozen_blocks", 0)
    components = {
        "backbone": params.get("backbone"),
        "strategy": strategy,
        "unfrozen_blocks": f"first {blocks}" if params.get(f"{strategy}.unfreeze") == "first" else blocks,
        "head": params.get(f"{strategy}.head"),
    }
    return {dimension: str(name) for dimension, name in components.items() if name is not None}


def never_tried(
    trials: Iterable[FrozenTrial],
    choices: Choices,
    heads_of: Mapping[str, Iterable[str]],
    backbones_of: Mapping[str, Iterable[str]],
) -> dict[str, list[str]]:
    """What the search might have chosen and no finished trial has: by `backbone`, `strategy` and `head`; and by
    `combination` those of a strategy and a backbone that were each tried, but not together.

    Args:
        heads_of: the heads that each strategy can train.
        backbones_of: the backbones that each strategy can use.
    """
    seen = [_components(trial) for trial in trials if trial.state in FINISHED and "strategy" in trial.params]
    used = {dimension: {row.get(dimension) for row in seen} for dimension in ("backbone", "strategy", "head")}
    together = {(row["strategy"], row.get("backbone")) for row in seen}
    heads = [head for head in choices.heads if any(head in some for some in heads_of.values())]
    return {
        "backbone": [name for name in choices.backbones if name not in used["backbone"]],
        "strategy": [name for name in choices.strategies if name not in used["strategy"]],
        "head": [name for name in heads if name not in used["head"]],
        "combination": [
            f"{strategy} on {backbone}"
            for strategy in choices.strategies
            for backbone in backbones_of[strategy]
            if strategy in used["strategy"] and backbone in used["backbone"] and (strategy, backbone) not in together
        ],
    }
