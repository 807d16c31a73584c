"""The study of a search: opened by many processes, of one format, and its trials as event objects."""

import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from autotl.errors import AutotlError
from autotl.recipe import Recipe
from autotl.study.storage import open_storage
from autotl.study.study import FORMAT, StudyDeleted, TrialAttribute, load_study, open_study, trial_event

RECIPE = Recipe("lite0", "fine_tuning", "linear", 1)


def open_cells(folder, seed=0):
    return open_study(folder, "cells", "maximize", seed)


# opening


def test_the_same_name_opens_the_same_study(tmp_path):
    open_cells(tmp_path).add_trial(create_trial(value=0.5))
    assert len(open_cells(tmp_path, seed=1).trials) == 1


@pytest.mark.slow
def test_many_processes_open_a_new_study_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from autotl.study.study import open_study; "
        "s = open_study(Path(sys.argv[1]), 'cells', 'maximize', 0); s.tell(s.ask(), 0.5)"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert sorted(trial.number for trial in open_cells(tmp_path).trials) == [0, 1, 2]


# the format


def test_a_new_study_has_the_format(tmp_path):
    assert open_cells(tmp_path).user_attrs == {"format": FORMAT}


@pytest.mark.parametrize("content", ["trials", "attributes"])
def test_a_study_without_a_format_is_refused(content, tmp_path):
    """It is one of autotl before formats had numbers."""
    study = optuna.create_study(study_name="cells", storage=open_storage(tmp_path), direction="maximize")
    if content == "trials":
        study.tell(study.ask(), 0.5)
    else:
        study.set_user_attr("choices", {})
    with pytest.raises(AutotlError) as refusal:
        open_cells(tmp_path)
    message = str(refusal.value)
    assert message.count("\n") == 0
    for part in (str(tmp_path), "without a format number", f"reads format {FORMAT}", "--name"):
        assert part in message
    assert "format" not in study.user_attrs


def test_a_study_of_another_format_is_refused(tmp_path):
    open_cells(tmp_path).set_user_attr("format", FORMAT + 1)
    with pytest.raises(AutotlError, match=rf"of format {FORMAT + 1}, and this autotl reads format {FORMAT}\..*--name"):
        open_cells(tmp_path)


def test_an_empty_study_counts_as_new(tmp_path):
    """Another process has created it, and not yet set the format."""
    optuna.create_study(study_name="cells", storage=open_storage(tmp_path), direction="maximize")
    assert open_cells(tmp_path).user_attrs == {"format": FORMAT}


def test_a_study_that_gets_its_format_and_first_trial_while_it_is_opened_is_accepted(tmp_path, monkeypatch):
    """Another process creates it, sets the format and asks for a trial between any two reads of this one."""
    for method in ("get_trials", "user_attrs"):
        folder = tmp_path / method
        folder.mkdir()
        other = optuna.create_study(study_name="cells", storage=open_storage(folder), direction="maximize")
        original = optuna.Study.get_trials if method == "get_trials" else optuna.Study.user_attrs.fget

        def act(*, other=other):
            if len(other._storage.get_all_trials(other._study_id)) == 0:
                other.set_user_attr("format", FORMAT)
                other.set_user_attr("choices", {})
                other.ask()

        def after_read(study, *arguments, original=original, act=act, **options):
            result = original(study, *arguments, **options)
            act()
            return result

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, method, after_read if method == "get_trials" else property(after_read))
            study = open_cells(folder)
        assert study.user_attrs == {"format": FORMAT, "choices": {}}


# event objects


@pytest.mark.parametrize(
    ("state", "name", "value"),
    [("COMPLETE", "complete", 0.8), ("PRUNED", "pruned", None), ("FAIL", "failed", None)],
)
def test_the_event_of_a_finished_trial(state, name, value):
    attributes = {
        TrialAttribute.RECIPE: RECIPE.to_dict(),
        TrialAttribute.DESCRIPTION: RECIPE.describe(),
        TrialAttribute.SECONDS: 1.5,
        TrialAttribute.CAUSE: "because",
    }
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState[state], value=value, user_attrs=attributes))
    event = trial_event(study.trials[0], is_best=True)
    assert (event.number, event.state, event.value, event.is_best) == (0, name, value, True)
    assert (event.strategy, event.backbone, event.head) == ("fine_tuning", "lite0", "linear")
    assert (event.description, event.seconds, event.cause) == (RECIPE.describe(), 1.5, "because")


def test_the_event_of_a_trial_that_failed_before_it_had_a_recipe():
    study = optuna.create_study()
    study.tell(study.ask(), state=TrialState.FAIL)
    event = trial_event(study.trials[0])
    assert (event.state, event.strategy, event.backbone, event.head, event.description) == ("failed", "", "", "", "")
    assert event.seconds >= 0
    assert not event.is_best


# studies that move


def test_a_study_keeps_its_name_in_a_folder_that_was_renamed(tmp_path):
    open_cells(tmp_path).add_trial(create_trial(value=0.5))
    moved = open_study(tmp_path, "flowers", "maximize", 0)
    assert (moved.study_name, len(moved.trials)) == ("cells", 1)
    assert load_study(tmp_path).study_name == "cells"
    assert len(moved._storage.get_all_studies()) == 1


@pytest.mark.parametrize("name", ["cells", "flowers", "other"])
def test_an_empty_study_beside_the_own_one_is_ignored(name, tmp_path):
    open_cells(tmp_path).add_trial(create_trial(value=0.5))
    optuna.create_study(study_name="flowers", storage=open_storage(tmp_path), direction="maximize")
    assert open_study(tmp_path, name, "maximize", 0).study_name == "cells"


def test_of_two_studies_with_trials_the_folder_s_name_decides(tmp_path):
    folder = tmp_path / "cells"
    folder.mkdir()
    for name in ("cells", "flowers"):
        study = optuna.create_study(study_name=name, storage=open_storage(folder), direction="maximize")
        study.set_user_attr("format", FORMAT)
        study.tell(study.ask(), 0.5)
    assert load_study(folder).study_name == "cells"
    with pytest.raises(AutotlError, match=f"several studies: cells, flowers.*mv {tmp_path}/photos {tmp_path}/cells"):
        load_study(folder.rename(tmp_path / "photos"))


def test_a_journal_whose_study_was_deleted_is_refused_where_one_is_needed(tmp_path):
    study = open_cells(tmp_path)
    optuna.delete_study(study_name="cells", storage=study._storage)
    with pytest.raises(StudyDeleted, match=f"The study in {tmp_path} was deleted from its journal"):
        load_study(tmp_path)
    assert open_cells(tmp_path).user_attrs == {"format": FORMAT}  # a search begins anew
