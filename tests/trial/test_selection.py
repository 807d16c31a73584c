"""Which trials become members, and how the remaining time limits them."""

import json
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest

from autotl.config import Limits
from autotl.model.costs import NetworkCost
from autotl.model.manifest import _digest_of
from autotl.study.study import FOLD_FILE
from autotl.trial import selection
from autotl.trial.selection import COMPILE_SECONDS, LOAD_SECONDS, Candidate, choose_members, kept_candidates
from autotl.workers.messages import Log, member_folder

pytestmark = pytest.mark.slow

NUM_TEST = 100


@dataclass
class LoadedMember:
    folder: str
    weight: float = 1.0


@pytest.fixture
def stub_state(registry, monkeypatch):
    """The attributes of a worker's state that the selection reads; members are loaded without files."""
    monkeypatch.setattr(selection, "load_member", lambda folder, registry: LoadedMember(folder))
    config = SimpleNamespace(metric="accuracy", ensemble=8, limits=Limits())
    split = SimpleNamespace(test=np.arange(NUM_TEST))
    labels = np.arange(12) % 3
    context = SimpleNamespace(config=config, split=split)
    return SimpleNamespace(registry=registry, context=context, labels=lambda subset: labels)


def candidate(number, backbone=None, tuned=False, views=("none-0",)):
    """A candidate that is as good as all others, each unsure of another image, so that the model combines as many as
    are allowed."""
    sure = np.where(np.arange(12) == number, 0.4, 0.9)[:, None]
    probabilities = np.where(np.eye(3, dtype=bool)[np.arange(12) % 3], sure, (1 - sure) / 2)
    return Candidate(number, number, 1.0, backbone or f"backbone{number}", "linear", tuned, views, probabilities)


def numbers(members):
    return [member.folder for member in members]


def test_without_a_time_limit_all_eight_become_members_however_slow(stub_state):
    candidates = [candidate(i) for i in range(10)]
    members, seconds = choose_members(stub_state, candidates, dict.fromkeys((c.backbone for c in candidates), 60.0))
    assert len(set(numbers(members))) == 8
    assert [member.weight for member in members] == pytest.approx([1 / 8] * 8)
    assert seconds == pytest.approx(8 * (LOAD_SECONDS + NUM_TEST * 60.0))


def test_with_little_time_only_those_that_fit_become_members(stub_state):
    candidates = [candidate(i) for i in range(8)]
    seconds_per_image = {"backbone0": 0.1, "backbone1": 0.3, "backbone2": 0.1}  # 10 s, 30 s, 10 s; the others 3 s
    members, seconds = choose_members(stub_state, candidates, seconds_per_image, 25.0)
    assert numbers(members) == [0, 2, 3]
    assert seconds == pytest.approx(10 + 10 + 3 + 3 * LOAD_SECONDS)


def test_the_best_candidate_becomes_a_member_even_without_time(stub_state):
    members, _ = choose_members(stub_state, [candidate(i) for i in range(3)], {}, -10.0)
    assert numbers(members) == [0]


def test_without_time_whatever_costs_no_more_than_the_quickest_is_averaged(stub_state):
    candidates = [candidate(0, "tuned", tuned=True), candidate(1, "shared"), candidate(2, "shared")]
    members, seconds = choose_members(stub_state, candidates, {"shared": 0.1, "tuned": 0.1}, -10.0)
    assert (numbers(members), seconds) == ([1, 2], pytest.approx(LOAD_SECONDS + 10))


def test_one_pass_serves_all_heads_on_a_frozen_backbone(stub_state):
    one, other = candidate(0, "shared"), candidate(1, "shared")
    other = Candidate(**{**vars(other), "head": "knn"})
    _, seconds = choose_members(stub_state, [one, other], {"shared": 0.1})
    assert seconds == pytest.approx(LOAD_SECONDS + 10)


def test_each_view_and_each_tuned_network_costs_a_pass(stub_state):
    frozen = candidate(0, "shared", views=("none-0", "flip-1"))
    tuned = candidate(1, "shared", tuned=True)
    _, seconds = choose_members(stub_state, [frozen, tuned], {"shared": 0.1})
    assert seconds == pytest.approx(LOAD_SECONDS + 2 * 10 + COMPILE_SECONDS + 10)


def test_a_pass_that_is_recorded_takes_no_time(stub_state):
    frozen, tuned = candidate(0, "shared"), candidate(1, "shared", tuned=True)
    recorded = {("shared", "none-0"), ("shared/1", "none-0")}
    members, seconds = choose_members(stub_state, [frozen, tuned], {"shared": 60.0}, 1.0, recorded=recorded)
    assert (numbers(members), seconds) == ([0, 1], 0)


# limits


@pytest.fixture
def costs(stub_state, monkeypatch):
    """Each backbone has a million parameters of 4 bytes and takes 10 ms."""
    monkeypatch.setattr(
        selection, "networks_of", lambda *_: defaultdict(lambda: NetworkCost(10**6, 4 * 10**6, 10.0, 5.0))
    )
    stub_state.study = SimpleNamespace(get_trials=lambda deepcopy: [])
    return stub_state.context.config


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        (Limits(milliseconds=29.0), [0, 1]),
        (Limits(megabytes=12.0), [0, 1, 2]),
        (Limits(parameters=1_999_999), [0]),
        (Limits(), [0, 1, 2, 3]),
    ],
)
def test_the_members_together_keep_the_limits(stub_state, costs, limits, chosen):
    costs.limits = limits
    members, _ = choose_members(stub_state, [candidate(i) for i in range(4)], {})
    assert numbers(members) == chosen


def test_members_of_one_frozen_network_cost_its_passes_once(stub_state, costs):
    costs.limits = Limits(milliseconds=10.0)
    heads = [Candidate(**{**vars(candidate(i, "shared")), "head": f"head{i}"}) for i in range(3)]
    assert numbers(choose_members(stub_state, heads, {})[0]) == [0, 1, 2]
    views = candidate(3, "shared", views=("none-0", "flip-1"))
    assert numbers(choose_members(stub_state, [*heads, replace(views, head="other")], {})[0]) == [0, 1, 2]


def test_the_model_of_an_earlier_search_has_to_keep_the_limits_too(stub_state, costs):
    costs.limits = Limits(milliseconds=10.0)
    members, _ = choose_members(stub_state, [candidate(i) for i in range(3)], {}, math.inf, earlier=(0, 1, 2))
    assert numbers(members) == [0]


# which trials are candidates


def test_a_trial_beyond_the_limits_is_no_candidate(finished):
    passes = {trial.number: trial.user_attrs["passes"] for trial in finished.study.trials}
    assert passes == {0: 1, 1: 1, 2: 1}
    megabytes = sorted(trial.user_attrs["megabytes"] for trial in finished.study.trials)
    limit = round(1e6 * (megabytes[1] + 0.0005))
    context = finished.context
    config = context.config.model_copy(update={"max_size": limit})
    state = replace(finished, context=replace(context, config=config))
    within = {t.number for t in finished.study.trials if t.user_attrs["megabytes"] <= limit / 1e6}
    assert {c.number for c in kept_candidates(state)} == within
    assert len(within) == 2


def test_complete_trials_are_candidates_best_first(finished):
    candidates = kept_candidates(finished)
    assert {c.number: (c.head, c.tuned) for c in candidates} == {
        0: ("knn", False),
        1: ("linear", False),
        2: ("linear", True),
    }
    values = [c.value for c in candidates]
    assert values == sorted(values, reverse=True)
    assert values == [finished.study.trials[c.number].value for c in candidates]


def test_equal_scores_are_ordered_by_log_loss(finished):
    labels = finished.labels("development")
    losses = []
    for number, confidence in enumerate((0.7, 0.9, 0.8)):
        folder = member_folder(finished.context.folder, number)
        probabilities = np.full((len(labels), 3), (1 - confidence) / 2)
        probabilities[np.arange(len(labels)), labels] = confidence
        np.save(folder / FOLD_FILE, probabilities)
        manifest = json.loads((folder / "member.json").read_text()) | {"validation": 1.0}
        del manifest["digest"]
        (folder / "member.json").write_text(json.dumps(manifest | {"digest": _digest_of(manifest)}))
        losses.append(-math.log(confidence))
    assert [c.number for c in kept_candidates(finished)] == [1, 2, 0]


def test_a_model_of_a_trial_that_was_not_told_is_ignored(finished, messages):
    source = member_folder(finished.context.folder, 1)
    target = member_folder(finished.context.folder, 7)
    target.mkdir()
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    assert 7 not in {c.number for c in kept_candidates(finished)}
    assert messages == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "member.json").write_text("{"),
        lambda folder: (folder / FOLD_FILE).unlink(),
        lambda folder: np.save(folder / FOLD_FILE, np.ones((11, 3))),
        lambda folder: np.save(folder / FOLD_FILE, np.load(folder / FOLD_FILE) * np.nan),
        lambda folder: np.save(folder / FOLD_FILE, np.load(folder / FOLD_FILE) * np.array([1, 1, np.inf])),
    ],
)
def test_a_damaged_model_is_left_out_and_logged(finished, messages, damage):
    damage(member_folder(finished.context.folder, 1))
    assert {c.number for c in kept_candidates(finished)} == {0, 2}
    [message] = messages
    assert isinstance(message, Log)
    assert message.text.startswith("Trial 1 is left out of the model: ")
