"""The last job of a search, on a study with three complete trials."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from autotl.clock import Deadline
from autotl.errors import AutotlError
from autotl.features.progress import ExtractionProgress
from autotl.model.image_model import load
from autotl.testing.scripted import VirtualClock
from autotl.trial import finalize as module
from autotl.trial import recorded_test, tested_images
from autotl.trial.finalize import finalize
from autotl.trial.gain import gain
from autotl.trial.quick_start import quick_start
from autotl.trial.recorded_test import record_test
from autotl.trial.rivals import read_out_of_fold
from autotl.trial.selection import COMPILE_SECONDS
from autotl.workers.messages import Finalize, Log, ModelSaved, Recorded, RecordTest, SearchFacts

pytestmark = pytest.mark.slow

FACTS = SearchFacts(50.0, {"complete": 3, "pruned": 0, "failed": 0}, {"torch": "2"})


def of_type(messages, cls):
    return [message for message in messages if isinstance(message, cls)]


@pytest.fixture
def limits(monkeypatch):
    """The time limits that `choose_members` and `refit` got."""
    limits = {}
    choose_members, refit = module.choose_members, module.refit

    def choose(state, candidates, seconds_per_image, time_limit, earlier, recorded):
        limits["selection"] = time_limit
        members, _ = choose_members(state, candidates, seconds_per_image)
        return members, 7.0

    def fit(state, members, time_budget):
        limits["refit"] = time_budget
        return refit(state, members, 0.0)

    monkeypatch.setattr(module, "choose_members", choose)
    monkeypatch.setattr(module, "refit", fit)
    return limits


def test_the_model_is_saved_and_tested(finished, messages):
    result = finalize(finished, Finalize(None, {}, FACTS))
    folder = finished.context.folder
    written = json.loads((folder / "result.json").read_text())
    assert result == written | {key: result[key] for key in ("leaderboard", "members", "model", "report")}
    assert result["test"]["n"] == 12
    assert result["test"]["accuracy"] > 0.5
    assert result["refitted"] == sorted(member["trial"] for member in result["members"])
    assert [row["trial"] for row in result["leaderboard"] if row["in_model"]]
    assert result["seconds"] >= 50
    assert result["report"] == str(folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "get the right class with 95 % confidence: only 12 images were tested." in page
    assert "nearest training images" in page
    model = load(folder / "model", registry=finished.registry)
    assert model.about["refitted"] == result["refitted"]
    predicted = model.predict_proba([finished.context.dataset.paths[i] for i in finished.context.split.test])
    assert (predicted.argmax(1) == finished.labels("test")).mean() == pytest.approx(result["test"]["accuracy"])


def test_what_was_predicted_for_the_test_images_is_kept(finished, monkeypatch):
    published = []  # what a worker that can't write to the study's folder sends to it
    monkeypatch.setattr(type(finished), "publish", lambda self, *names: published.extend(names))
    result = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    assert published.index("model") < published.index("model/model.json")
    assert {"model/README.md", "result.json", "leaderboard.csv", "test_images.csv", "test.npz", "report.html"} <= set(
        published
    )
    folder = finished.context.folder
    lines = (folder / "test_images.csv").read_text().splitlines()
    with np.load(folder / "test.npz", allow_pickle=False) as kept:
        probabilities = kept["probabilities"]
    assert (len(lines), probabilities.shape) == (13, (12, 3))
    in_the_file = [float(line.split(",")[3]) for line in lines[1:]]
    assert sorted(probabilities.max(1)) == pytest.approx(sorted(in_the_file), abs=1e-6)
    about = load(folder / "model", registry=finished.registry).about
    assert about["test"] == result["test"]
    assert set(about["split"]) == {"train", "validation", "test"}
    assert "are classified right" in (folder / "model" / "README.md").read_text()


def test_the_model_is_announced_before_the_test_images_are_predicted(finished, messages, monkeypatch):
    monkeypatch.setattr(tested_images, "PROGRESS_INTERVAL", 5)
    result = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    saved, tested = of_type(messages, ModelSaved)
    assert (saved.is_tested, tested.is_tested) == (False, True)
    assert tested.result | {"report": result["report"]} == result
    assert saved.result["test"] is None
    of_test = ("test", "baseline", "intervals", "seconds", "report")
    assert {k: v for k, v in saved.result.items() if k not in of_test} == {
        k: v for k, v in result.items() if k not in of_test
    }
    assert saved.result["intervals"] == result["intervals"] | {"test": {}}
    after = messages[messages.index(saved) + 1 :]
    assert [(m.backbone, m.done, m.total) for m in of_type(after, ExtractionProgress)] == [("", 5, 12), ("", 10, 12)]


def test_after_a_crash_nothing_is_refitted(finished):
    result = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    assert result["refitted"] == []


def test_without_a_time_limit_selection_and_refit_have_none(finished, limits):
    finalize(finished, Finalize(None, {}, FACTS))
    assert limits == {"selection": math.inf, "refit": math.inf}


def test_time_for_saving_and_predictions_is_kept_from_selection_and_refit(finished, limits):
    finished.deadline = Deadline(clock=VirtualClock())  # a loaded machine takes seconds between the two
    finalize(finished, Finalize(60.0, {}, FACTS))
    assert limits == {"selection": 60 - 5 - 15, "refit": 60 - 5 - 15 - 7}


def test_an_interrupted_search_skips_test_images_that_take_too_long(finished, messages):
    result = finalize(finished, Finalize(0.5, {}, FACTS, refit=False, interrupted=True))
    assert result["test"] is None
    assert result["baseline"] is None
    assert any("no time to predict the test images" in message.text for message in of_type(messages, Log))
    assert (finished.context.folder / "model" / "model.json").exists()


def test_a_model_is_saved_before_its_members_are_refitted(finished, messages, monkeypatch):
    saved = []
    refit = module.refit
    monkeypatch.setattr(
        module, "refit", lambda *arguments: (saved.extend(of_type(messages, ModelSaved)), refit(*arguments))[1]
    )
    finalize(finished, Finalize(None, {}, FACTS))
    assert [message.result["refitted"] for message in saved] == [[]]


def test_where_the_time_is_up_some_test_images_are_predicted_and_the_rest_is_named(finished, messages, monkeypatch):
    monkeypatch.setattr(tested_images, "MIN_TEST_SECONDS", 0.0)
    result = finalize(finished, Finalize(-5.0, {}, FACTS))
    assert (result["test"]["n"], result["images"]["test"]) == (1, 12)
    assert [m.text for m in of_type(messages, Log)] == [
        "Tested on 1 of 12 test images: the time was up. The same search command with a longer --time tests on all of "
        "them."
    ]


def test_pairs_that_only_features_show_and_the_split_has_torn_are_told(finished, messages, monkeypatch):
    monkeypatch.setattr("autotl.trial.feature_duplicates.MIN_IMAGES", 10)  # patches of three photographs
    finalize(finished, Finalize(None, {}, FACTS, refit=False))
    [line] = [m.text for m in of_type(messages, Log)]
    assert "images with nearly the same features" in line
    assert line[:100] in (finished.context.folder / "report.html").read_text()


def test_a_report_that_fails_costs_a_line(finished, messages, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("no luck")

    monkeypatch.setattr("autotl.trial.report.write_report", fail)
    result = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    assert result["report"] is None
    assert result["test"]["n"] == 12
    assert [m.text for m in of_type(messages, Log)] == ["The report could not be written: RuntimeError: no luck"]


def test_a_quick_start_that_fails_costs_nothing_else(finished, monkeypatch, capsys):
    asked = []

    def fail(model, folder, images):
        asked.append((folder, len(images)))
        raise RuntimeError("no luck")

    monkeypatch.setattr("autotl.trial.quick_start.write_quick_graph", fail)
    assert finalize(finished, Finalize(None, {}, replace(FACTS, elapsed=1000.0), refit=False))["model"]
    assert asked == [(finished.context.folder / "model", 8)]
    assert "no luck" in capsys.readouterr().err


def test_a_quick_start_is_prepared_only_where_there_is_time_for_each_network(finished, monkeypatch):
    monkeypatch.setattr("autotl.trial.quick_start.write_quick_graph", lambda *_: True)
    model = SimpleNamespace(members=[SimpleNamespace(network_keys=(key,)) for key in "aab"])
    assert [quick_start(finished, model, seconds) for seconds in (15.0, 17.0, math.inf)] == [False, True, True]


def test_separate_test_images_are_tested_with_evaluate(finished, tmp_path):
    images = tmp_path / "my test"
    images.mkdir()
    context = replace(finished.context, config=finished.context.config.model_copy(update={"test": str(images)}))
    model = context.folder / "model"
    assert (
        tested_images.how_to_test_all(context, context.folder)
        == f"All of them: autotl evaluate {model} '{images}' --subset all"
    )


def test_an_interrupted_search_predicts_test_images_in_time_and_prepares_no_quick_start(finished, monkeypatch):
    monkeypatch.setattr(module, "quick_start", lambda *_: pytest.fail("someone has pressed Ctrl-C"))
    result = finalize(finished, Finalize(60.0, {}, replace(FACTS, elapsed=1000.0), refit=False, interrupted=True))
    assert result["test"]["n"] == 12


def test_a_late_search_that_was_not_interrupted_predicts_the_test_images(finished):
    result = finalize(finished, Finalize(-5.0, {}, FACTS))
    assert result["test"]["n"] == 12
    assert len(result["members"]) == 1
    assert result["refitted"] == []


def test_without_test_images_there_are_no_test_scores(finished):
    split = replace(finished.context.split, test=np.arange(0))
    state = replace(finished, context=replace(finished.context, split=split))
    result = finalize(state, Finalize(None, {}, FACTS, refit=False))
    assert (result["test"], result["baseline"], result["images"]["test"]) == (None, None, 0)


def every_allowed(probabilities, labels, limit, allowed):
    """Instead of `select`: as many candidates as there is time for."""
    chosen = []
    for i in range(len(probabilities)):
        if allowed(frozenset({*chosen, i})):
            chosen.append(i)
    return dict.fromkeys(chosen or [0], 1 / max(1, len(chosen)))


def test_a_search_with_less_time_keeps_the_members_that_an_earlier_one_has_refitted(finished, monkeypatch):
    monkeypatch.setattr("autotl.trial.selection.select", every_allowed)
    first = finalize(finished, Finalize(None, {}, FACTS))
    assert len(first["refitted"]) == len(first["members"]) == 3
    folder = finished.context.folder / "model"
    before = load(folder, registry=finished.registry)
    monkeypatch.setattr(module, "refit", lambda *_: pytest.fail("everything is refitted"))
    seconds_per_image = {finished.context.choices.backbones[0]: 60.0}
    again = finalize(finished, Finalize(5.0, seconds_per_image, FACTS))
    assert (again["refitted"], again["members"]) == (first["refitted"], first["members"])
    after = load(folder, registry=finished.registry)
    paths = finished.context.dataset.paths[:8]
    np.testing.assert_array_equal(after.predict_proba(paths), before.predict_proba(paths))


def test_members_that_an_earlier_search_had_no_time_to_refit_are_refitted(finished):
    first = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    again = finalize(finished, Finalize(None, {}, FACTS))
    assert (first["refitted"], again["members"]) == ([], first["members"])
    assert again["refitted"] == sorted(member["trial"] for member in again["members"])


@pytest.mark.parametrize("damaged", ["model.json", "members/0/member.json", "members/0"])
def test_a_damaged_model_of_an_earlier_search_is_made_anew(damaged, finished, messages):
    first = finalize(finished, Finalize(None, {}, FACTS))
    place = finished.context.folder / "model" / damaged
    for file in [place] if place.is_file() else place.glob("head.*"):
        file.write_text("{}")
    again = finalize(finished, Finalize(None, {}, FACTS))
    assert again["refitted"] == first["refitted"]
    assert [log.text for log in of_type(messages, Log) if "earlier search" in log.text or "fitted again" in log.text]
    assert load(finished.context.folder / "model", registry=finished.registry).about["refitted"] == first["refitted"]


def test_plugins_are_notified_of_the_model(finished, monkeypatch):
    events = []
    monkeypatch.setattr(finished.registry, "notify", lambda event, **arguments: events.append((event, arguments)))
    finalize(finished, Finalize(None, {}, FACTS, refit=False))
    [(event, arguments)] = events
    assert event == "autotl_search_finished"
    assert arguments["study"] is finished.study
    assert arguments["model"].classes == ("astronaut", "chelsea", "coffee")


def test_a_study_without_fitted_models_is_an_error(state):
    with pytest.raises(AutotlError, match="No complete trial has a fitted model in"):
        finalize(state, Finalize(None, {}, FACTS))


def test_a_vanished_test_image_is_skipped(finished, messages, tmp_path):
    dataset, test = finished.context.dataset, finished.context.split.test
    paths = list(dataset.paths)
    paths[test[3]] = tmp_path / "gone.png"
    finished.context = replace(finished.context, dataset=replace(dataset, paths=tuple(paths)))
    result = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    assert result["test"]["n"] == 11
    assert any("gone.png is skipped: there is no such file" in log.text for log in of_type(messages, Log))


def test_images_whose_passes_are_recorded_are_predicted_when_the_time_is_up(finished, messages, monkeypatch):
    monkeypatch.setattr("autotl.trial.selection.select", every_allowed)
    streamed = finalize(finished, Finalize(None, {}, FACTS, refit=False))
    assert record_test(finished, RecordTest({}, 60.0))
    assert of_type(messages, Recorded)[-1].cause == ""
    monkeypatch.setattr(
        "autotl.model.image_model.ImageModel.stream", lambda *_, **__: pytest.fail("nothing is missing")
    )
    slow = {finished.context.choices.backbones[0]: 60.0}
    recorded = finalize(finished, Finalize(-5.0, slow, FACTS, refit=False, interrupted=True))
    assert [m["trial"] for m in recorded["members"]] == [m["trial"] for m in streamed["members"]]
    assert len(recorded["members"]) == 3  # a fine-tuned one among them
    assert recorded["test"] == pytest.approx(streamed["test"], abs=0.01)
    assert recorded["test"]["n"] == 12


def test_a_trial_whose_model_is_removed_while_the_test_images_are_recorded_costs_one_more_attempt(
    finished, messages, monkeypatch
):
    real, failures = recorded_test.choose_members, [AutotlError("trials/00001 is not a complete member of a model")]

    def choose(*arguments):
        if failures:
            raise failures.pop()
        return real(*arguments)

    monkeypatch.setattr(recorded_test, "choose_members", choose)
    chosen = []
    monkeypatch.setattr(recorded_test, "_record", lambda state, member: chosen.append(member))
    assert record_test(finished, RecordTest({}, 60.0))
    assert messages[-1] == Recorded(None)
    assert chosen


def test_time_is_kept_to_predict_the_test_images_again_by_a_fine_tuned_member_that_is_fitted_again(
    finished, limits, monkeypatch
):
    monkeypatch.setattr("autotl.trial.selection.select", every_allowed)
    record_test(finished, RecordTest({}, 60.0))
    finished.deadline = Deadline(clock=VirtualClock())
    finalize(finished, Finalize(90.0, {finished.context.choices.backbones[0]: 0.5}, FACTS))
    assert limits["refit"] == pytest.approx(90 - 5 - 15 - 7 - (COMPILE_SECONDS + 12 * 0.5))


def within(state, **limits):
    config = state.context.config.model_copy(update=limits)
    return replace(state, context=replace(state.context, config=config))


def test_no_test_image_is_recorded_where_no_trial_is_within_the_limits(finished, messages):
    assert record_test(within(finished, max_parameters=1), RecordTest({}, 60.0))
    assert messages[-1] == Recorded(None)


def test_the_gain_counts_no_trial_beyond_the_limits(finished, monkeypatch):
    monkeypatch.setattr("autotl.trial.gain.MIN_SECONDS", 0.0)
    number = finished.study.best_trial.number
    held_out = read_out_of_fold(finished, number)
    assert gain(finished, held_out, 0.0) is not None
    assert gain(within(finished, max_parameters=1), held_out, 0.0) is None


def test_a_member_that_is_fitted_again_predicts_the_test_images_again(finished, monkeypatch):
    monkeypatch.setattr("autotl.trial.selection.select", every_allowed)
    record_test(finished, RecordTest({}, 60.0))
    tuned = [path.parent for path in finished.context.folder.glob("trials/*/test.npy")]
    assert len(tuned) == 1
    np.save(tuned[0] / "test.npy", np.full((12, 3), 9.0))
    result = finalize(finished, Finalize(None, {}, FACTS))
    assert int(tuned[0].name) in result["refitted"]
    assert result["test"]["log_loss"] < 2
