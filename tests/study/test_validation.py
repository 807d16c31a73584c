"""A journal that no search wrote is refused in words, before its attributes are used or shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState, create_trial

from autotl.errors import AutotlError
from autotl.study.storage import open_storage
from autotl.study.study import StudyAttribute, TrialAttribute, load_study, open_study

RECIPE = {"backbone": "b", "strategy": "s", "head": "h", "seed": 1, "strategy_params": {}, "head_params": {"C": 0.1}}
VALID = {TrialAttribute.RECIPE: RECIPE, TrialAttribute.DESCRIPTION: "b · s · h", TrialAttribute.SECONDS: 1.5, "f1": 0.5}


def journal(folder: Path, attributes: dict[str, Any], value: float = 0.5) -> None:
    study = open_study(folder, folder.name, "maximize", 0)
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes))


def test_a_journal_of_a_search_is_opened(tmp_path: Path) -> None:
    journal(tmp_path, VALID)
    assert len(open_study(tmp_path, tmp_path.name, "maximize", 0).trials) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (TrialAttribute.RECIPE, [1, 2]),
        (TrialAttribute.RECIPE, {**RECIPE, "callback": "os.system"}),
        (TrialAttribute.RECIPE, {**RECIPE, "head_params": {"C": [[]]}}),
        (TrialAttribute.RECIPE, {"backbone": "b"}),
        (TrialAttribute.DESCRIPTION, {"a": 1}),
        (TrialAttribute.CAUSE, 7),
        (TrialAttribute.SECONDS, "long"),
        (TrialAttribute.SECONDS, -1.0),
        (TrialAttribute.EXTRACTION_SECONDS, None),
        (TrialAttribute.BEST_EPOCH, 10**12),
        (TrialAttribute.DEVICE, ["cpu"]),
    ],
)
def test_an_attribute_that_no_search_writes_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    journal(tmp_path, {**VALID, name: value})
    with pytest.raises(AutotlError, match=rf"journal\.log is damaged or was made by hand: trial 0: {name}"):
        open_study(tmp_path, tmp_path.name, "maximize", 0)


def test_it_is_refused_as_well_where_a_study_must_exist(tmp_path: Path) -> None:
    journal(tmp_path, {**VALID, TrialAttribute.RECIPE: [1, 2]})
    with pytest.raises(AutotlError, match=r"was made by hand: trial 0: recipe"):
        load_study(tmp_path)


def test_a_score_that_is_infinite_is_refused(tmp_path: Path) -> None:
    journal(tmp_path, VALID, float("inf"))
    with pytest.raises(AutotlError, match=r"trial 0: its score is \[inf\]"):
        open_study(tmp_path, tmp_path.name, "maximize", 0)


@pytest.mark.parametrize("name", [StudyAttribute.CHOICES, StudyAttribute.VERSIONS, StudyAttribute.EARLIER_VERSIONS])
def test_a_studys_attribute_of_another_type_is_refused(name: str, tmp_path: Path) -> None:
    open_study(tmp_path, tmp_path.name, "maximize", 0).set_user_attr(name, 3)
    with pytest.raises(AutotlError, match=rf"was made by hand: {name} = 3"):
        open_study(tmp_path, tmp_path.name, "maximize", 0)


def test_control_characters_in_a_refused_value_are_escaped(tmp_path: Path) -> None:
    journal(tmp_path, {**VALID, TrialAttribute.SECONDS: "\x1b[2J"})
    with pytest.raises(AutotlError) as refused:
        open_study(tmp_path, tmp_path.name, "maximize", 0)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        "{}",
        "7",
        json.dumps({"op_code": 99, "worker_id": "x"}),
        json.dumps({"op_code": 0, "worker_id": "x", "study_name": "s", "directions": ["up"]}),
    ],
    ids=["too deep", "empty", "a number", "an unknown operation", "a direction"],
)
def test_a_line_that_no_search_writes_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "journal.log").write_text(line + "\n")
    with pytest.raises(AutotlError, match="is not a journal that Optuna can read"):
        open_storage(tmp_path)
