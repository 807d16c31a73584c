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
from autotl.config import Limits, StudyConfig
from autotl.recipe import Recipe
from autotl.study.space import Choices
from autotl.testing.scripted import VirtualClock
from autotl.trial import results as module
from autotl.trial.leaderboard import frontier, leaderboard
from autotl.trial.results import SearchResults, TestPredictions, annotate_study
from autotl.workers.codec import decode, encode
from autotl.workers.messages import FROM_WORKER, Finalized, SearchFacts

FACTS = SearchFacts(100.0, {"complete": 3, "pruned": 1, "failed": 0}, {"torch": "2"})
RECIPE = Recipe("resnet18", "fast_extraction", "linear", 7, {"levels": "last"}, {"dropout": 0.2})
KEYS = [
    *("study", "metric", "classes", "images", "trials", "best", "validation", "test", "baseline", "intervals"),
    *("seconds", "versions", "remedy", "limits", "latency", "gain", "tried", "never_tried", "alignment"),
    *("costs", "frontier", "refitted"),
    *("leaderboard", "members", "model"),
]
COLUMNS = [
    *("rank", "trial", "value", "accuracy", "balanced_accuracy", "macro_f1", "auroc", "log_loss"),
    *(
        "scored_on",
        "comparable",
        "strategy",
        "backbone",
        "head",
        "seconds",
        "milliseconds",
        "batch_milliseconds",
        "megabytes",
        "parameters",
    ),
    *("passes", "folds", "holdout", "within_limits", "in_model", "description", "recipe"),
]


CATEGORIES = {
    "strategy": ("fast_extraction", "fine_tuning"),
    "backbone": ("resnet18", "resnet50.tv_in1k"),
    "fast_extraction.head": ("linear", "knn"),
}


def tell(study, value, state=TrialState.COMPLETE, **attributes):
    study.enqueue_trial({name: values[0] for name, values in CATEGORIES.items()})
    trial = study.ask()
    for name, values in CATEGORIES.items():
        trial.suggest_categorical(name, values)
    for name, attribute in attributes.items():
        trial.set_user_attr(name, attribute)
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
    context.choices = Choices(CATEGORIES["backbone"], CATEGORIES["strategy"], ("linear", "knn"), 36, 3)
    context.slot = SimpleNamespace(device="cpu")
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
    fitted = SimpleNamespace(views=("original",))
    members = [
        SimpleNamespace(trial=trial, weight=1 / len(trials), recipe=RECIPE, fitted=fitted, network_keys=("a",))
        for trial in trials
    ]
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
    assert written == {key: result[key] for key in KEYS[:-3]}


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
    result = write(stub_state) | {"test": test}
    annotate_study(stub_state.study, result)
    assert notes[0].startswith(f"Best: trial 1, validation accuracy 0.8750. The model: {score}.\n")
    member = result["members"][0]
    assert f"| {member['trial']} | {member['weight']:.3f} | {member['description']} |\n" in notes[0]
    assert "| fast_extraction | 1 | 0.8750 | 1.5 | resnet18 · " in notes[0]


def test_the_note_of_the_study_holds_no_markup_of_a_metrics_name(stub_state, monkeypatch):
    notes = []
    monkeypatch.setattr(module, "set_note", lambda study, trial, text: notes.append(text))
    annotate_study(stub_state.study, write(stub_state) | {"metric": "![x](http://a.example/b)<script>"})
    assert r"\!\[x\](http://a.example/b)\<script\>" in notes[0]


# costs, ties, intervals, and what was tried


def test_of_equal_scores_the_smaller_log_loss_ranks_first_and_none_last(stub_state):
    stub_state.study = optuna.create_study(direction="maximize")
    for attributes in ({}, {"log_loss": 0.4}, {"log_loss": 0.3}):
        tell(stub_state.study, 0.5, **attributes)
    assert [row["trial"] for row in write(stub_state)["leaderboard"]] == [2, 1, 0]


def test_trials_beyond_the_limits_rank_last(stub_state):
    stub_state.context.config = stub_state.context.config.model_copy(update={"max_latency": 5.0})
    stub_state.study = optuna.create_study(direction="maximize")
    for value, milliseconds in ((0.9, 8.0), (0.5, 4.0), (0.7, None)):
        tell(stub_state.study, value, milliseconds=milliseconds, batch_milliseconds=milliseconds, passes=1)
    rows = write(stub_state)["leaderboard"]
    assert [(row["trial"], row["within_limits"]) for row in rows] == [(1, True), (0, False), (2, False)]


def test_the_models_costs_are_those_of_its_distinct_networks_and_views(stub_state):
    stub_state.study = optuna.create_study(direction="maximize")
    for value in (0.5, 0.6, 0.7):
        tell(stub_state.study, value, milliseconds=8.0, batch_milliseconds=6.0, passes=2)
    costs = write(stub_state)["costs"]
    assert (costs["milliseconds"], costs["batch_milliseconds"], costs["passes"]) == (4.0, 3.0, 1)
    assert (costs["parameters"], costs["megabytes"]) == (11_176_512, 44.745)


def test_a_trial_that_ended_before_the_latency_was_measured_has_that_of_others_with_as_many_passes(stub_state):
    stub_state.study = optuna.create_study(direction="maximize")
    for value, milliseconds, passes in ((0.9, None, 1), (0.8, 6.0, 1), (0.7, None, 2)):
        tell(stub_state.study, value, milliseconds=milliseconds, batch_milliseconds=milliseconds, passes=passes)
    rows = write(stub_state)["leaderboard"]
    assert [(row["milliseconds"], row["batch_milliseconds"]) for row in rows] == [(6.0, 6.0), (6.0, 6.0), (None, None)]


def test_faster_trials_are_told_with_what_they_lose(stub_state):
    stub_state.study = optuna.create_study(direction="maximize")
    for value, milliseconds in ((0.9, 10.0), (0.8, 10.0), (0.7, 2.0), (0.6, 3.0)):
        tell(stub_state.study, value, milliseconds=milliseconds, batch_milliseconds=1.0, passes=1)
    results = SearchResults(stub_state, FACTS)
    results.selected(np.eye(3)[stub_state.labels("development")])
    [entry] = results.write(model_of(0, 1), None)["frontier"]
    assert (entry["trial"], entry["speedup"], entry["loss"]) == (2, 5.0, pytest.approx(0.3))


def test_faster_trials_are_compared_on_the_images_that_the_model_is_scored_on():
    costs = dict.fromkeys(("milliseconds", "batch_milliseconds", "megabytes", "parameters", "passes"), 2.0)
    row = {"trial": 1, "value": 0.97, "comparable": 0.97, "holdout": 0.94, "within_limits": True, "description": ""}
    for on_validation, loss in ((False, -0.01), (True, 0.02)):
        [entry] = frontier([costs | row], 0.96, 10.0, maximize=True, on_validation=on_validation)
        assert entry["loss"] == pytest.approx(loss)
    assert frontier([costs | row | {"holdout": None}], 0.96, 10.0, maximize=True, on_validation=True) == []


def test_what_was_tried_and_what_never_was(stub_state):
    result = write(stub_state)
    assert result["tried"]["backbone"] == [{"name": "resnet18", "trials": 4, "seconds": 6.0, "best": 0.875}]
    assert result["tried"]["unfrozen_blocks"][0]["name"] == "0"
    assert result["never_tried"] == {
        "backbone": ["resnet50.tv_in1k"],
        "strategy": ["fine_tuning"],
        "head": ["knn"],
        "combination": [],
    }


def test_scores_have_intervals(stub_state):
    result = write(stub_state, np.eye(3)[stub_state.labels("test")])
    interval = result["intervals"]["test"]["accuracy"]
    assert (interval["high"], interval["method"]) == (1.0, "Wilson")
    assert interval["low"] == pytest.approx(0.7575, abs=1e-4)  # 12 of 12
    assert result["intervals"]["test"]["macro_f1"]["method"] == "bootstrap"


def test_scores_on_the_validation_images_alone_are_ranked_by_what_they_are_out_of_fold(stub_state):
    tell(stub_state.study, 0.9, folds=5, holdout=0.94)
    tell(stub_state.study, 0.92, folds=1, holdout=0.92)  # 0.88 out of fold, if the validation images are as easy
    tell(stub_state.study, 0.99, folds=1, sample=100)
    rows = leaderboard(stub_state.study, [], Limits(), [])
    assert [(row["trial"], row["scored_on"]) for row in rows][:2] == [(4, "out of fold"), (5, "validation images")]
    assert rows[1]["comparable"] == pytest.approx(0.88)
    assert (rows[-1]["trial"], rows[-1]["scored_on"]) == (6, "a sample")
