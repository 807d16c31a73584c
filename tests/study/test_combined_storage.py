"""Several studies side by side: each keeps its trials, notes and pictures, and none can be changed."""

import optuna
import pytest
from optuna.artifacts import get_all_artifact_meta
from optuna.artifacts.exceptions import ArtifactNotFound

from autotl.study.artifacts import upload_picture
from autotl.study.combined_storage import CombinedArtifacts, CombinedStorage
from autotl.study.study import open_study

dashboard = pytest.importorskip("optuna_dashboard")


@pytest.fixture
def studies(tmp_path):
    made = {}
    for name, values in {"cells": (0.5, 0.75), "photos": (0.25,)}.items():
        (tmp_path / name).mkdir()
        study = made[name] = open_study(tmp_path / name, "same", "maximize", 0)
        for value in values:
            trial = study.ask()
            dashboard.save_note(trial, f"{name} {value}")
            upload_picture(study, trial, tmp_path / name, "curve.svg", f"<svg>{name} {value}</svg>")
            study.tell(trial, value)
    return made


@pytest.fixture
def combined(studies):
    return CombinedStorage({name: (study._storage, study._study_id) for name, study in studies.items()})


def test_each_study_has_its_own_trials_under_the_name_of_its_folder(combined):
    names = [study.study_name for study in combined.get_all_studies()]
    assert names == ["cells", "photos"]
    loaded = [optuna.load_study(study_name=name, storage=combined) for name in names]
    assert [[t.value for t in study.trials] for study in loaded] == [[0.5, 0.75], [0.25]]
    assert [study.best_value for study in loaded] == [0.75, 0.25]
    ids = [t._trial_id for study in loaded for t in study.trials]
    assert len(set(ids)) == 3
    assert [combined.get_trial(i).value for i in ids] == [0.5, 0.75, 0.25]


def test_notes_and_pictures_stay_with_their_trials(combined, studies, tmp_path):
    artifacts = CombinedArtifacts([tmp_path / name / "artifacts" for name in studies])
    for name in studies:
        study = optuna.load_study(study_name=name, storage=combined)
        for trial in study.trials:
            assert dashboard.get_note(optuna.Trial(study, trial._trial_id)) == f"{name} {trial.value}"
            (meta,) = get_all_artifact_meta(trial, storage=combined)
            assert artifacts.open_reader(meta.artifact_id).read().decode() == f"<svg>{name} {trial.value}</svg>"
    with pytest.raises(ArtifactNotFound):
        artifacts.open_reader("none")


def test_nothing_can_be_changed(combined):
    with pytest.raises(RuntimeError, match="can't be changed"):
        combined.delete_study(0)
    with pytest.raises(RuntimeError, match="can't be changed"):
        optuna.load_study(study_name="cells", storage=combined).ask()
    with pytest.raises(KeyError):
        combined.get_study_id_from_name("others")


def test_a_studys_picture_is_replaced(studies, tmp_path):
    study = studies["cells"]
    for text in ("<svg>first</svg>", "<svg>second</svg>"):
        upload_picture(study, None, tmp_path / "cells", "confusion.svg", text)
    (meta,) = get_all_artifact_meta(study)
    assert (tmp_path / "cells" / "artifacts" / meta.artifact_id).read_text() == "<svg>second</svg>"
