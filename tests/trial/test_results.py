"""`result.json`, the leaderboard and the study's note."""

import csv
import json
import math
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from autotl.clock import Deadline
from autotl.config import StudyConfig
from autotl.recipe import Recipe
from autotl.testing.scripted import VirtualClock
from autotl.trial import results as module
from autotl.trial.results import SearchResults, TestPredictions, annotate_study
from autotl.workers.codec import decode, encode
from autotl.workers.messages import FROM_WORKER, Finalized, SearchFacts

FACTS = SearchFacts(100.0, {"complete": 3, "pruned": 1, "failed": 0}, {"torch": "2"})
RECIPE = Recipe("resnet18", "fast_extraction", "linear", 7, {"levels": "last"}, {"dropout": 0.2})
KEYS = [
    *("study", "metric", "classes", "images", "trials", "best", "test", "baseline", "seconds", "versions"),
    *("refitted", "leaderboard", "members", "model"),
]
COLUMNS = [
    *("rank", "trial", "value", "strategy", "backbone", "head", "seconds", "in_model", "description", "recipe"),
]


def tell(study, value, state=TrialState.COMPLETE):
    trial = study.ask()
    trial.set_user_attr("recipe", RECIPE.to_dict())
    trial.set_user_attr("description", RECIPE.describe())
    trial.set_user_attr("seconds", 1.5)
    study.tell(trial, value, state=state)


@pytest.fixture
def stub_state(patches, registry, tmp_path):
    """The attributes of a worker's state that results are made of, with a virtual clock."""
    dataset, split = patches
    study = optuna.create_study(direction="maximize")
    for value in (0.5, 0.875, 0.75):
        tell(study, value)
    tell(study, None, TrialState.PRUNED)
    config = StudyConfig(data="patches", name="study", output=tmp_path, trials=4)
    config.folder.mkdir()
    context = SimpleNamespace(config=config, folder=config.folder, dataset=dataset, split=split)
    return SimpleNamespace(
        context=context,
        registry=registry,
        study=study,
        deadline=Deadline(clock=VirtualClock()),
        labels=lambda subset: dataset.labels[getattr(split, subset)],
        study_folder=config.folder,
        publish=lambda *names: None,
    )


def model_of(*trials):
    members = [SimpleNamespace(trial=trial, weight=1 / len(trials), recipe=RECIPE) for trial in trials]
    return SimpleNamespace(members=members, about={"refitted": [trials[0]]})


def write(state, probabilities=None):
    tested = None if probabilities is None else TestPredictions(np.arange(len(probabilities)), probabilities)
    return SearchResults(state, FACTS).write(model_of(1, 2), tested)


def test_a_result_has_all_its_keys(stub_state):
    result = write(stub_state)
    assert list(result) == KEYS
    assert result["images"] == {"train": 36, "validation": 12, "test": 12, "skipped": 0}
    assert result["best"] == {"number": 1, "recipe": RECIPE.to_dict(), "validation": 0.875}
    assert result["trials"] == {"complete": 3, "pruned": 1, "failed": 0}
    assert result["refitted"] == [1]
    assert result["members"][0] == {"trial": 1, "weight": 0.5, "description": RECIPE.describe()}
    assert result["model"] == str(stub_state.context.folder / "model")


def test_the_file_holds_the_result_without_leaderboard_and_model(stub_state):
    result = write(stub_state)
    written = json.loads((stub_state.context.folder / "result.json").read_text())
    assert written == {key: result[key] for key in KEYS[:11]}


def test_complete_trials_are_ranked_best_first(stub_state):
    rows = write(stub_state)["leaderboard"]
    assert list(rows[0]) == COLUMNS
    assert [(row["rank"], row["trial"], row["in_model"]) for row in rows] == [(1, 1, True), (2, 2, True), (3, 0, False)]
    with (stub_state.context.folder / "leaderboard.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["trial"] for row in table] == ["1", "2", "0"]
    assert json.loads(table[0]["recipe"]) == RECIPE.to_dict()


def test_a_score_that_is_minimised_is_ranked_from_the_lowest(stub_state):
    stub_state.study = optuna.create_study(direction="minimize")
    for value in (0.5, 0.25, 0.75):
        tell(stub_state.study, value)
    assert [row["trial"] for row in write(stub_state)["leaderboard"]] == [1, 0, 2]


def test_seconds_count_from_the_start_of_the_search(stub_state):
    results = SearchResults(stub_state, FACTS)
    stub_state.deadline.clock.sleep(20)
    assert results.write(model_of(1), None)["seconds"] == 120.0


def test_test_images_are_scored_beside_a_baseline(stub_state):
    labels = stub_state.labels("test")
    result = write(stub_state, np.eye(3)[labels])
    assert (result["test"]["accuracy"], result["test"]["n"]) == (1.0, 12)
    assert result["baseline"]["accuracy"] == pytest.approx(1 / 3)


def test_test_images_are_scored_by_the_metric_of_the_search(stub_state, monkeypatch):
    config = stub_state.context.config.model_copy(update={"metric": "auroc"})
    stub_state.context.config = config
    result = write(stub_state, np.eye(3)[stub_state.labels("test")])
    assert (result["test"]["auroc"], result["baseline"]["auroc"]) == (1.0, 0.5)
    notes = []
    monkeypatch.setattr(module, "set_note", lambda study, trial, text: notes.append(text))
    annotate_study(stub_state.study, result)
    assert "The model: test auroc 1.0000 on 12 images" in notes[0]


def test_without_predictions_there_are_no_test_scores(stub_state):
    result = write(stub_state)
    assert (result["test"], result["baseline"]) == (None, None)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_becomes_none(stub_state, monkeypatch, score):
    monkeypatch.setattr(module, "all_scores", lambda *_: {"accuracy": 1.0, "moon": score, "n": 12})
    result = write(stub_state, np.eye(3)[stub_state.labels("test")])
    assert result["test"] == {"accuracy": 1.0, "moon": None, "n": 12}
    assert json.loads((stub_state.context.folder / "result.json").read_text())["test"]["moon"] is None
    assert decode(encode(Finalized(result)), FROM_WORKER) == Finalized(result)


@pytest.mark.parametrize(
    ("test", "score"), [({"accuracy": 0.9, "n": 12}, "test accuracy 0.9000 on 12 images"), (None, "no test images")]
)
def test_the_note_of_the_study_names_the_best_trial_and_the_test_accuracy(stub_state, monkeypatch, test, score):
    notes = []
    monkeypatch.setattr(module, "set_note", lambda study, trial, text: notes.append(text))
    annotate_study(stub_state.study, write(stub_state) | {"test": test})
    assert notes == [f"Best: trial 1, validation accuracy 0.8750. The model: {score}."]


def test_the_note_of_the_study_holds_no_markup_of_a_metrics_name(stub_state, monkeypatch):
    notes = []
    monkeypatch.setattr(module, "set_note", lambda study, trial, text: notes.append(text))
    annotate_study(stub_state.study, write(stub_state) | {"metric": "![x](http://a.example/b)<script>"})
    assert r"\!\[x\](http://a.example/b)\<script\>" in notes[0]
