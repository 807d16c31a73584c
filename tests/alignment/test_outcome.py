"""Predicted beside true ranks, and the file of an alignment."""

import json
from dataclasses import replace

import pytest

from autotl.alignment.card import Alignment, Card, LevelAccuracy
from autotl.alignment.outcome import ALIGNMENT_FILE, outcomes, read_alignment

CARD = Card(
    "a", "", 9, 3, (LevelAccuracy(3, 0.5, 0.1),), 0.0, 0.1, 0.5, 0.1, 0.4, {}, {}, {}, None, None, None, predicted=0.5
)
CARDS = [replace(CARD, backbone=name) for name in "abcd"]


def test_the_true_rank_is_that_of_the_best_trial():
    found = outcomes(CARDS, {"a": [0.7, 0.8], "b": [0.9], "d": [0.8], "unmeasured": [1.0]}, maximize=True)
    assert [(o.backbone, o.predicted_rank, o.rank, o.best, o.trials) for o in found] == [
        ("a", 1, 2, 0.8, 2),
        ("b", 2, 1, 0.9, 1),
        ("c", 3, None, None, 0),
        ("d", 4, 2, 0.8, 1),
    ]


def test_a_smaller_loss_ranks_higher():
    found = outcomes(CARDS[:2], {"a": [0.7, 0.8], "b": [0.9]}, maximize=False)
    assert [(o.rank, o.best) for o in found] == [(1, 0.7), (2, 0.9)]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', "[" * 100_000], ids=range(6))
def test_a_file_that_is_no_alignment_is_none(text, tmp_path):
    assert read_alignment(tmp_path) is None
    (tmp_path / ALIGNMENT_FILE).write_text(text)
    assert read_alignment(tmp_path) is None


def test_the_file_is_read_as_it_was_written(tmp_path):
    alignment = Alignment("photos", 9, tuple(CARDS), "near", 0, ("One.",))
    (tmp_path / ALIGNMENT_FILE).write_text(json.dumps(alignment.to_dict()))
    assert read_alignment(tmp_path) == alignment
