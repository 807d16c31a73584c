"""Heat maps: where hiding changes the answer most, for every kind of head and network."""

import numpy as np
import pytest
from PIL import Image

from autotl.backbones.base import Preprocessing
from autotl.errors import AutotlError
from autotl.heads.evidence import falls
from autotl.model.heat_maps import MAX_SIDE, HeatMap, heat_map
from autotl.model.hiding import CELLS, HidingNetwork, windows

NETWORKS = ("test_resnet", "test_vit", "test_convnext")


def spot(row, column, value=1.0):
    """Evidence in one cell alone."""
    cells = np.zeros((CELLS, CELLS))
    cells[row, column] = value
    return cells


def test_windows_cover_every_cell_and_hide_less_than_a_tenth():
    hidden = windows()
    assert hidden.any(0).all()
    assert hidden.mean((1, 2)).max() < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_hidden_gives_the_features_of_the_network(tiny, frozen, name):
    from autotl.engines.torch import TorchEngine
    from autotl.model.network import compile_features, feature_network

    backbone = tiny(name)
    module = backbone.build().eval()
    size = backbone.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    network, layout = feature_network(module, backbone)
    compiled = compile_features(TorchEngine(bf16=False), network, backbone, "cpu", 1, None, "")
    rows = HidingNetwork(module, backbone, "cpu").features(pixels)
    assert rows.shape == (1 + len(windows()), layout.width)
    np.testing.assert_allclose(rows[0], compiled(pixels[None])[0], rtol=1e-3, atol=1e-4)
    assert (np.abs(rows[1:, : layout.output] - rows[:1, : layout.output]).max(1) > 0).all()


def test_hidden_means_and_maxima_are_those_of_the_other_positions(tiny):
    import torch

    backbone = tiny("test_resnet")
    network = HidingNetwork(backbone.build(), backbone, "cpu")
    size = backbone.preprocessing.size
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    rows = network.features(pixels)
    images = (torch.from_numpy(pixels[None]).permute(0, 3, 1, 2).float() - network.mean) / network.std
    with torch.inference_mode():
        output, maps = network.levels.with_maps(images)
    last = maps[-1][0]
    side = last.shape[-1]
    number = len(windows()) // 2
    visible = torch.nn.functional.adaptive_avg_pool2d(network.visible[number][None], side)[0]
    assert torch.allclose(output[0], last.mean((1, 2)), atol=1e-4)  # the output is the mean of the last map
    mean = (last * visible).sum((1, 2)) / visible.sum()
    np.testing.assert_allclose(rows[1 + number, : output.shape[1]], mean.numpy(), rtol=1e-3, atol=1e-4)
    maximum = last[:, visible >= 0.5].amax(1)
    np.testing.assert_allclose(rows[1 + number, -len(last) :], maximum.numpy(), rtol=1e-3, atol=1e-4)


def test_a_linear_score_falls_by_its_gradient_times_the_step():
    rng = np.random.default_rng(0)
    features, gradient = rng.normal(size=(20, 50)).astype(np.float32), rng.normal(size=50)
    found = falls(lambda rows: rows @ gradient, features)
    np.testing.assert_allclose(found, (features[0] - features[1:]) @ gradient, atol=1e-4)


def test_trees_fall_where_the_feature_they_ask_for_falls():
    """A small step changes no answer of a tree, and the slope over mixtures of steps is found nevertheless."""
    features = np.zeros((11, 10), np.float32)
    features[1:] = -0.1 * np.eye(10)
    found = falls(lambda rows: np.floor(4 * rows[:, 3]) + 0.5 * np.floor(3 * rows[:, 7]), features)
    assert found.argsort()[::-1][:2].tolist() == [3, 7]


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (1200, 900)])
def test_a_cell_is_drawn_where_the_network_sees_it(size):
    picture = Image.new("RGB", size)
    preprocessing = Preprocessing(224, 0.875, "bicubic", (0.5,) * 3, (0.5,) * 3)
    heat = heat_map(picture, [(preprocessing, spot(3, 10))], "cat", 0.9)
    width, height = size
    shrink = min(1, MAX_SIDE / max(size))
    crop = 0.875 * min(size)
    row, column = np.unravel_index(heat.values.argmax(), heat.values.shape)
    expected = ((height - crop) / 2 + crop * 3.5 / CELLS, (width - crop) / 2 + crop * 10.5 / CELLS)
    assert heat.values.shape == heat.image.size[::-1]
    assert max(heat.values.shape) <= MAX_SIDE
    assert abs(row - expected[0] * shrink) < 3
    assert abs(column - expected[1] * shrink) < 3


def test_the_evidence_of_all_networks_is_added():
    picture = Image.new("RGB", (224, 224))
    preprocessing = Preprocessing(224, 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)
    values = heat_map(picture, [(preprocessing, spot(3, 3, 3.0)), (preprocessing, spot(10, 10))], "cat", 0.9).values
    assert values[56, 56] == pytest.approx(3 * values[168, 168], rel=0.01)


def torn(self, file, format):  # the names are Pillow's
    """Saves half of a picture."""
    file.write(b"half")
    raise OSError("there is no room")


def test_an_overlay_is_brightest_where_the_evidence_is(tmp_path, monkeypatch):
    values = np.zeros((40, 60), np.float32)
    values[10, 20] = 1
    heat = HeatMap("cat", 0.9, values, Image.new("RGB", (60, 40), (90, 90, 90)))
    overlay = np.asarray(heat.overlay(), int)
    assert np.unravel_index(overlay.sum(2).argmax(), values.shape) == (10, 20)
    assert len(np.unique(overlay[values == 0].reshape(-1, 3), axis=0)) == 1
    heat.save(tmp_path / "heat.png")
    with pytest.raises(AutotlError, match=r"heat\.data has no name of a picture"):
        heat.save(tmp_path / "heat.data")
    monkeypatch.setattr(Image.Image, "save", torn)
    with pytest.raises(OSError, match="no room"):
        heat.save(tmp_path / "torn.png")
    assert [path.name for path in tmp_path.iterdir()] == ["heat.png"]
    assert Image.open(tmp_path / "heat.png").size == (124, 40)


def test_an_evenly_grey_map_is_no_error():
    heat = HeatMap("cat", 0.9, np.zeros((4, 4), np.float32), Image.new("RGB", (4, 4)))
    assert heat.overlay().size == (4, 4)


def test_a_class_that_the_model_does_not_have_is_refused(frozen, validation):
    with pytest.raises(AutotlError, match=r"no class named 'dog'.*Known classes: astronaut, chelsea, coffee"):
        frozen.explain(validation[0], "dog")


@pytest.fixture
def explained(tiny, fitted, make, validation):
    """`explained(head)`: probabilities of the predicted classes of 12 images where what their heat maps name is hidden,
    and their means where random cells are."""

    def probabilities(head):
        backbone = tiny("test_resnet")
        if head == "fine-tuned":
            model = make(backbone, fitted(backbone, "fine_tuning", "linear", unfrozen_blocks=1)[0])
        else:
            model = make(backbone, fitted(backbone, "fast_extraction", head, levels="stages+max")[0])
        maps = model.explain(validation)
        rng = np.random.default_rng(0)
        numbers = [model.classes.index(heat.label) for heat in maps]

        def hide(kind):
            images = []
            for heat in maps:
                pixels, values = np.array(heat.image), heat.values
                if kind == "random":
                    values = np.kron(rng.random((12, 12)), np.ones((8, 8)))
                pixels[values >= np.quantile(values, 0.8)] = pixels.reshape(-1, 3).mean(0)
                images.append(pixels)
            return model.predict_proba(images)[np.arange(len(maps)), numbers]

        return hide("top"), np.mean([hide("random") for _ in range(4)], axis=0)

    return probabilities


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "logistic_regression", "kernel_ridge", "rbf_svm", "fine-tuned"])
def test_hiding_what_a_heat_map_names_costs_more_than_hiding_random_cells(explained, head):
    top, random = explained(head)
    assert np.mean(top < random) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("head", ["knn", "random_forest", "extra_trees"])
def test_it_costs_more_on_average_where_votes_often_stay_the_same(explained, head):
    top, random = explained(head)
    assert top.mean() < random.mean() - 0.03


@pytest.mark.slow
def test_explain_writes_a_picture_for_each_image_that_can_be_read(folder, validation, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from autotl.cli import app

    monkeypatch.setenv("AUTOTL_PLUGINS", "no:openvino")
    broken = tmp_path / "more" / validation[0].name
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    (broken.parent / "notes.txt").write_text("no image")
    given = [folder, *validation[:2], broken.parent, "--out", tmp_path / "heat"]
    unknown = CliRunner().invoke(app, ["explain", *map(str, given), "--class", "cofee"])
    assert unknown.exit_code == 1
    assert not (tmp_path / "heat").exists()
    result = CliRunner().invoke(app, ["explain", *map(str, given), "--class", "coffee"])
    assert result.exit_code == 0
    assert f"skipped {broken}" in result.stderr
    assert f"Left out in {broken.parent}, because they are not images: .txt (1)." in result.stderr
    pictures = sorted((tmp_path / "heat").iterdir())
    assert [picture.name for picture in pictures] == [path.name for path in validation[:2]]
    assert Image.open(pictures[0]).size == (196, 96)
    assert "coffee 0." in result.stdout
