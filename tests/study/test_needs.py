"""What trials need: an accelerator, or only features that one has recorded."""

import pytest

from autotl.registry import load_registry
from autotl.strategies.fast_extraction import FastExtraction
from autotl.study import needs as module
from autotl.study.needs import FeaturesOfTrials, Needs, Recording, Work
from autotl.study.portfolio import cheap_portfolio
from autotl.study.space import Choices

LITE0, LITE2 = "efficientnet_lite0", "efficientnet_lite2"


@pytest.fixture(scope="module")
def registry():
    return load_registry()


@pytest.fixture(scope="module")
def needs(registry):
    heads = ("logistic_regression", "linear")
    return Needs(Choices((LITE0, LITE2), tuple(registry.strategies), heads, 1600, 2, accelerator=True), registry)


def trial(strategy, head="logistic_regression", **params):
    named = {f"{strategy}.{name}": value for name, value in params.items()}
    return {"strategy": strategy, "backbone": LITE0, f"{strategy}.head": head, **named}


@pytest.mark.parametrize(
    ("params", "recording"),
    [
        (trial("fast_extraction", levels="last"), Recording(LITE0)),
        (trial("extract_augment", policy="dihedral", views=3), Recording(LITE0, "dihedral", 3)),
        (trial("extract_augment", policy="flip", views=7), Recording(LITE0, "flip", 1)),  # there are no more
        (trial("extract_augment", policy="dihedral"), None),
        (trial("fine_tuning", "linear", policy="flip", views=1), None),
        ({"strategy": "fast_extraction"}, None),
        ({}, None),
    ],
)
def test_the_features_that_a_trial_reads(needs, params, recording):
    assert needs.recording(params) == recording


def test_a_strategy_of_a_plugin_that_records_by_other_parameters_needs_the_accelerator(needs, monkeypatch):
    assert not needs.trains_network("fast_extraction")
    monkeypatch.setattr(FastExtraction, "recorded_params", ("resolution",))
    assert needs.trains_network("fast_extraction")


def test_recordings_include_others():
    dihedral = Recording(LITE0, "dihedral", 3)
    assert dihedral.covers(Recording(LITE0))
    assert dihedral.covers(Recording(LITE0, "dihedral", 2))
    assert not dihedral.covers(Recording(LITE0, "dihedral", 4))
    assert not dihedral.covers(Recording(LITE0, "flip", 1))
    assert not dihedral.covers(Recording(LITE2))
    assert not Recording(LITE0).covers(dihedral)
    assert dihedral.is_in([Recording(LITE0), dihedral])


def test_each_trial_belongs_to_one_sort_of_worker(needs, registry):
    recorded = [Recording(LITE0, "flip", 1)]
    for params in cheap_portfolio(needs.choices, registry):
        helper, accelerator = (needs.suits(params, work, recorded) for work in (Work.HEADS, Work.NETWORKS))
        assert accelerator is (params["strategy"] == "fine_tuning")
        assert helper is (params["strategy"] != "fine_tuning" and params["backbone"] == LITE0)
        assert needs.suits(params, Work.ANY, [])


def test_dense_heads_are_told_from_estimators(needs):
    recorded = [Recording(LITE0)]
    assert needs.suits(trial("fast_extraction", "linear"), Work.DENSE_HEADS, recorded)
    assert not needs.suits(trial("fast_extraction"), Work.DENSE_HEADS, recorded)
    assert needs.heads("fast_extraction", Work.DENSE_HEADS) == ["linear"]
    assert needs.heads("fast_extraction", Work.NETWORKS) == []
    assert needs.heads("fine_tuning", Work.NETWORKS) == ["linear"]
    assert needs.heads("fine_tuning", Work.HEADS) == []


def test_a_dense_head_of_many_samples_needs_the_accelerator(needs, monkeypatch):
    monkeypatch.setattr(module, "MAX_CPU_DENSE_SAMPLES", 4000)
    recorded = [Recording(LITE0, "dihedral", 7)]
    few, many = (trial("extract_augment", "linear", policy="dihedral", views=views) for views in (1, 2))
    assert needs.suits(few, Work.HEADS, recorded)
    assert not needs.suits(many, Work.HEADS, recorded)
    assert needs.suits(many, Work.NETWORKS, recorded)
    assert needs.suits(many, Work.DENSE_HEADS, recorded)


def test_a_trial_of_which_little_is_fixed_is_left_to_the_accelerator(needs):
    assert needs.suits({"strategy": "fast_extraction"}, Work.NETWORKS, [])
    assert not needs.suits({"strategy": "fast_extraction"}, Work.HEADS, [Recording(LITE0)])


def test_thousands_of_trials_are_told_by_the_features_that_they_have_read(needs, monkeypatch):
    history = [trial("extract_augment", policy="dihedral", views=i % 3 + 1) for i in range(300)]
    features = FeaturesOfTrials(needs)
    assert list(features.first_of_each(history)) == history[:3]
    history.append(trial("fast_extraction"))
    looked_at = []
    monkeypatch.setattr(Needs, "recording", lambda self, params: looked_at.append(params) or Recording(LITE2))
    assert list(features.first_of_each(history)) == [*history[:3], history[-1]]
    assert looked_at == history[-1:]
