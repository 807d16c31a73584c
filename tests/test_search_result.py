"""What a notebook shows of a search and of predictions, and the plots."""

import numpy as np
import pytest

from autotl.errors import AutotlError
from autotl.model.representation import Predictions, Representation
from autotl.report.plots import Plots
from autotl.search_result import SearchResult
from autotl.testing.images import photographs
from autotl.testing.searches import CLASSES, finished_search, unfinished_search


@pytest.fixture
def search(tmp_path, registry):
    return finished_search(tmp_path / "example", registry)


def test_a_result_shows_its_scores_beside_the_baseline(tmp_path):
    leaderboard = [{"trial": 3, "value": 0.8, "seconds": 1.5, "description": "resnet18 · <b>"}]
    found = {
        "study": "photos",
        "metric": "accuracy",
        "test": {"accuracy": 0.875, "n": 40},
        "baseline": {"accuracy": 0.5, "n": 40},
        "leaderboard": leaderboard,
        "members": [{"trial": 3, "weight": 1.0, "description": "resnet18"}],
    }
    html = SearchResult(tmp_path, found)._repr_html_()
    assert "of 100 new images, about 88 get the right class" in html
    assert ">0.875</td><td" in html
    assert ">0.500</td>" in html
    assert "resnet18 · &lt;b&gt;" in html
    assert "no test images" in SearchResult(tmp_path, found | {"test": None, "baseline": None})._repr_html_()


def test_predictions_show_images_of_any_kind(tmp_path):
    from PIL import Image

    picture = Image.fromarray(photographs()[0])
    picture.save(tmp_path / "<temple>.png")
    images = (tmp_path / "<temple>.png", picture, photographs()[1], (tmp_path / "<temple>.png").read_bytes())
    predictions = Predictions(images, CLASSES, np.tile([[0.25, 0.75]], (4, 1)))
    assert predictions.labels.tolist() == [CLASSES[1]] * 4
    html = predictions._repr_html_()
    assert html.count('src="data:image/webp;base64,') == 4
    assert "flower &lt;b&gt;&amp; 75%" in html
    assert "<temple>" not in html


def test_a_model_shows_predictions_and_reads_an_open_file_once(tmp_path):
    from PIL import Image

    Image.fromarray(photographs()[0]).save(tmp_path / "temple.png")

    class Model(Representation):
        classes = CLASSES

        def predict_proba(self, images):
            assert all(isinstance(image, bytes) for image in images)
            return np.tile([[0.25, 0.75]], (len(images), 1))

    with (tmp_path / "temple.png").open("rb") as file:
        shown = Model().show([file], top=5)
    assert (len(shown), shown.top) == (1, 2)
    assert "image/webp" in shown._repr_html_()


def test_plots_draw_what_the_report_shows(search):
    pytest.importorskip("matplotlib").use("agg")
    plot = Plots(lambda: search)
    axes = plot.confusion()
    counts = [int(text.get_text()) for text in axes.texts]
    assert sum(counts) == len(search.tested.images)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(CLASSES)
    assert plot.progress().get_ylabel() == "best validation accuracy"
    assert len(plot.trials().collections) == 2
    assert plot.coverage().lines[0].get_ydata()[-1] == pytest.approx(
        (search.tested.predicted == search.labels(search.tested)).mean()
    )
    same = plot.calibration()
    assert plot.calibration(same) is same


def test_a_plot_without_images_says_what_to_do(tmp_path, registry):
    plot = Plots(lambda: unfinished_search(tmp_path / "example", registry))
    with pytest.raises(AutotlError, match=r"autotl report NAME --data FOLDER"):
        plot.confusion()
