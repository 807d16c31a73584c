"""What the report says, of a search with known outcomes."""

import numpy as np
import pytest

from autotl.clock import Deadline
from autotl.page.base import Fold, Gallery, ReportSection, Table, Text
from autotl.registry import load_registry
from autotl.report.held_out import HeldOut
from autotl.report.intervals import bootstrap_interval
from autotl.report.mistakes import confusion_figure, confusion_matrix
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
