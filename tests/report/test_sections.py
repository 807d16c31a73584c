"""What the report says, of a search with known outcomes."""

import json
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import pytest

from autotl.alignment.card import Alignment, Card, LevelAccuracy
from autotl.alignment.outcome import ALIGNMENT_FILE
from autotl.atomic_io import write_sealed
from autotl.backbones.levels import Layout
from autotl.clock import Deadline
from autotl.data.augmentation import ORIGINAL, view_key
from autotl.features.keys import LAYOUT_KEY, fact_file
from autotl.features.store import FeatureStore
from autotl.page.base import Figure, Fold, Gallery, ReportSection, Table, Text
from autotl.registry import load_registry
from autotl.report.held_out import HeldOut
from autotl.report.intervals import bootstrap_interval
from autotl.report.mistakes import confusion_figure, confusion_matrix
from autotl.report.recorded import RecordedFeatures
from autotl.report.trust import calibration_figure, coverage_figure
from autotl.report.write import report_seconds, write_report
from autotl.testing import CHECKS
from autotl.testing.searches import finished_search, unfinished_search


@pytest.fixture
def search(tmp_path, registry):
    return finished_search(tmp_path / "example", registry)


def flat(elements):
    return [e for element in elements for e in (flat(element.elements) if isinstance(element, Fold) else [element])]


def built(search, name, kind):
    return [e for e in flat(search.registry.report_sections[name].build(search)) if isinstance(e, kind)]


@pytest.mark.parametrize("name", list(load_registry().report_sections))
def test_the_built_in_sections_keep_their_contract(name, registry):
    for check in CHECKS["section"]:
        check(registry.report_sections[name])


def test_the_answer_compares_with_doing_nothing(search):
    text = built(search, "answer", Text)[0].text
    share = (search.tested.predicted == search.labels(search.tested)).mean()
    assert text.endswith("confidence: only 6 images were tested.")
    table = built(search, "answer", Table)[0]
    assert table.rows[0][:2] == ["this model", share]
    assert table.rows[-1][:2] == ["always the most frequent class", 0.5]


def test_the_answer_is_told_in_words(search, monkeypatch):
    monkeypatch.setattr("autotl.report.answer.FEW", 5)
    share = (search.tested.predicted == search.labels(search.tested)).mean()
    start = f"Of 100 new images like these, about {100 * share:.0f} get the right class ("
    assert built(search, "answer", Text)[0].text.startswith(start)


def test_without_test_images_the_answer_says_that_it_is_optimistic(search):
    search.tested = None
    texts = " ".join(t.text for t in built(search, "answer", Text))
    assert "Measured on the 6 validation images that also chose the model" in texts


def test_a_search_without_trials_has_a_report(tmp_path, registry):
    search = unfinished_search(tmp_path / "example", registry)
    search.folder.mkdir()
    page = write_report(search).read_text()
    assert "No trial is complete yet." in page
    assert "failed" not in page


def test_groups_of_trials_have_their_best_and_their_cost(search):
    tables = {t.columns[0]: t for t in built(search, "learnt", Table)}
    assert tables["strategy"].rows == [("fine_tuning", 0.8, 0.75, 2, 3.5), ("fast_extraction", 0.6, 0.55, 2, 1.5)]
    assert [row[0] for row in tables["unfrozen blocks"].rows] == [2, 1, 0]


def test_an_alignment_is_told_with_its_curve_and_its_true_rank(search):
    levels = tuple(LevelAccuracy(depth, accuracy, 0.1) for depth, accuracy in ((2, 0.5), (4, 0.9), (6, 0.7)))
    card = Card(
        "resnet18", "ImageNet-1k", 12, 6, levels, 0.2, 0.1, 0.9, 0.1, 0.8, {}, {}, {}, None, None, None, predicted=0.9
    )
    other = replace(card, backbone="resnet34", levels=levels[-1:], predicted=0.8)
    alignment = Alignment("photographs", 12, (card, other), "far", 2, ("Retrain <2> blocks.",))
    (search.folder / ALIGNMENT_FILE).write_text(json.dumps(alignment.to_dict()))
    texts = [t.text for t in built(search, "pretraining", Text)]
    assert texts[:2] == ["The images are far.", "Retrain <2> blocks."]
    (figure,) = built(search, "pretraining", Figure)
    assert "resnet18: 0.500, 0.900, 0.700" in figure.alt
    table = built(search, "pretraining", Table)[0]
    assert table.rows == [("resnet18", 1, 0.9, 1, 0.8, 4), ("resnet34", 2, 0.8, None, None, None)]


def test_recorded_features_have_an_accuracy_by_depth(tmp_path):
    layout = Layout(output=4, means=3, last_maxima=2, stages=(1, 2), depths=(1, 3))
    (tmp_path / "engines").mkdir()
    write_sealed(fact_file(tmp_path / "engines", "layout", LAYOUT_KEY, "digest"), asdict(layout))
    store = FeatureStore(tmp_path / "features")
    rows = np.random.default_rng(0).random((5, layout.width)).astype(np.float16)
    names = [f"{i:032x}" for i in range(5)]
    spec = {"backbone": "digest", "view": view_key(ORIGINAL), "block": None}
    with closing(store.open(spec, (layout.width,), "float16", "resnet18")) as table:
        table.append(names, rows)
    found, levels = RecordedFeatures(tmp_path).by_depth("digest", ["0" * 31 + "f", *names])
    assert found.tolist() == [1, 2, 3, 4, 5]
    assert [level.shape[1] for level in levels] == [2, 4, 4]
    assert np.array_equal(levels[0], rows[:, [4, 7]])
    assert np.array_equal(levels[2], RecordedFeatures(tmp_path).outputs("digest", names)[1])
    assert RecordedFeatures(tmp_path).by_depth("another", names)[1] == []


def test_the_price_of_holding_a_risk_is_told(search):
    search.tested = HeldOut(np.tile(search.tested.images, 5), np.tile(search.tested.probabilities, (5, 1)))
    sure = np.where(np.arange(600) < 500, 0.99, 0.6)
    right = np.arange(600) % 10 > 0
    right[:500] = np.arange(500) > 0
    rows = np.where(right[:, None], np.stack([sure, 1 - sure], 1), np.stack([1 - sure, sure], 1))
    search.dataset = replace(search.dataset, labels=np.zeros(600, np.int64))
    search.cross_validated = HeldOut(np.arange(600), rows)
    table = built(search, "calibration", Table)[-1]
    assert [row[0] for row in table.rows] == ["1%", "2%", "5%", "10%"]
    assert table.rows[0][1] == pytest.approx(0.99)
    assert table.rows[0][2] == pytest.approx(500 / 600)
    assert table.rows[-1][2] == 1


def test_confusions_are_counted_and_told():
    counts = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]), 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    figure = confusion_figure(counts, ["a", "b", "c"])
    assert "2 of 4 images are right" in figure.alt
    assert "a as b: 1; c as b: 1" in figure.alt


def test_a_hundred_classes_that_are_confused_in_pairs_lie_side_by_side():
    labels = np.repeat(np.arange(100), 10)
    predicted = np.where(np.arange(1000) % 10 < 5, labels, (labels + 50) % 100)
    figure = confusion_figure(confusion_matrix(labels, predicted, 100), [f"class {i}" for i in range(100)])
    assert len(figure.svg) < 60_000
    from autotl.report.mistakes import _grouped

    order = _grouped(confusion_matrix(labels, predicted, 100)).tolist()
    gaps = [abs(order.index(i) - order.index(i + 50)) for i in range(50)]
    assert max(gaps) == 1


def test_the_worst_mistakes_come_first_and_name_both_classes(search):
    gallery = built(search, "mistakes", Gallery)[0]
    labels, held_out = search.labels(search.tested), search.tested
    assert len(gallery.cards) == (held_out.predicted != labels).sum() > 1
    assert ", predicted as " in gallery.cards[0].title
    given = [float(card.lines[0].rsplit(" ", 1)[1].rstrip("%")) for card in gallery.cards]
    assert given == sorted(given)
    assert gallery.cards[0].pictures[0].content.startswith(b"RIFF")


def test_similar_images_are_promised_only_where_they_are_shown(search, monkeypatch):
    assert "most like it" not in built(search, "mistakes", Text)[0].text
    monkeypatch.setattr(search, "similar", lambda images, k=3: {image: [(0, 0.9)] for image in images})
    assert "most like it" in built(search, "mistakes", Text)[0].text


def test_heat_maps_are_shown(search):
    asked = []

    def heat_maps(paths, classes):
        asked.append((len(paths), set(classes)))
        return [np.eye(4, dtype=np.float32) for _ in paths]

    search.heat_maps = heat_maps
    pictures = built(search, "mistakes", Gallery)[0].cards[0].pictures
    assert pictures[1].caption == "heat map"
    assert asked[0][0] > 1


def test_a_wrong_label_is_named_by_the_out_of_fold_predictions(search):
    labels = search.dataset.labels[search.split.development]
    rows = np.full((len(labels), len(search.classes)), 0.02)
    rows[np.arange(len(labels)), labels] = 0.98
    rows[3] = np.roll(rows[3], 1)  # a training image
    rows[4] = np.nan  # one that no fold has predicted
    search.weights = {2: 1.0}
    search.out_of_fold = {2: rows}
    gallery = built(search, "labels", Gallery)[0]
    (card,) = gallery.cards
    assert card.lines[0] == "probability of the label 2.0%"
    assert card.lines[1] == search.name_of(int(search.split.development[3]))


def test_a_calibrated_model_lies_on_the_diagonal():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.5, 1, 4000)
    labels = (rng.uniform(size=4000) > sure).astype(int)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    _, error = calibration_figure(probabilities, labels)
    assert error < 0.03
    _, error = calibration_figure(np.stack([sure, 1 - sure], axis=1), 1 - labels)
    assert error > 0.3
    assert "of the surest half" in coverage_figure(probabilities, labels).alt


def test_the_interval_of_another_metric_holds_its_score(registry):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    probabilities = np.stack([1 - labels * 0.8, labels * 0.8], axis=1) * 0.6 + 0.2
    metric = registry.metric("balanced_accuracy")
    noisy = np.where(rng.uniform(size=200)[:, None] < 0.2, probabilities[:, ::-1], probabilities)
    low, high = bootstrap_interval(metric, labels, noisy)
    assert low < metric(labels, noisy) < high
    assert high - low < 0.2


class Failing(ReportSection):
    name, title, order = "failing", "Failing", 5

    def build(self, search):
        raise RuntimeError("<no luck>")


def test_a_section_that_fails_costs_a_line(search, monkeypatch):
    monkeypatch.setitem(search.registry.report_sections, "failing", Failing())
    lines = []
    page = write_report(search, lines.append).read_text()
    assert lines == ["The report's section 'failing' of plugin 'autotl' failed: RuntimeError: <no luck>"]
    assert "RuntimeError: &lt;no luck&gt;" in page
    assert 'id="origin"' in page


def test_without_time_the_costly_sections_are_left_out_and_named(search):
    search.deadline = Deadline(0.0)
    page = write_report(search).read_text()
    missing = page.split("There was no time for: ")[1].split(". ")[0]
    assert "Which choices mattered, The worst mistakes" in missing
    assert 'id="mistakes"' not in page
    assert 'id="classes"' in page


def test_a_report_costs_a_twentieth_of_a_search():
    assert [report_seconds(t) for t in (60, 120, 3600, None)] == [3.0, 6.0, 15.0, 15.0]


def test_one_trial_is_enough(search):
    search.complete = search.complete[:1]
    for section in search.registry.report_sections.values():
        section.build(search)


def test_predictions_of_few_images_are_enough(search):
    search.tested = HeldOut(search.tested.images[:1], search.tested.probabilities[:1])
    for section in search.registry.report_sections.values():
        section.build(search)
