"""Members whose head sees the features of several networks: predicted, saved, explained and exported."""

import json
from dataclasses import replace

import numpy as np
import pytest

from autotl.backbones.joined import JoinedBackbone
from autotl.errors import AutotlError
from autotl.exports.graph import model_graph
from autotl.features.joined import JoinedFeatures
from autotl.model.exporting import _parts
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member, networks_of
from autotl.recipe import Recipe


@pytest.fixture
def joined(task, tiny, patches, torch_only, extractor, kept, fitted):
    """A model of a joined member, and of a frozen one that shares its first network; and the first one's validation
    probabilities."""
    parts = tiny("test_resnet"), tiny("test_convnext")
    single = fitted(parts[0], "fast_extraction", "linear", levels="last")[0]
    if "joined" not in kept:
        backbone = JoinedBackbone(parts)
        problem = task(backbone.parts[0], "logistic_regression")
        problem.backbone, problem.features = backbone, JoinedFeatures.of(extractor, backbone)
        params = {"levels": "stages+max"}
        recipe = Recipe(backbone.name, "fast_extraction", "logistic_regression", 3, params, problem.head.defaults())
        result = torch_only.strategy("fast_extraction").fit(recipe, problem, "cpu", lambda fraction, score: None)
        kept["joined"] = Member(recipe, result.fitted, backbone.digest, 3, trial=8), result.probabilities
    member, probabilities = kept["joined"]
    backbones = {part.digest: part for part in parts}
    model = ImageModel(patches[0].classes, [member], backbones, registry=torch_only, threads=1)
    both = ImageModel(patches[0].classes, [member, single], backbones, registry=torch_only, threads=1)
    return model, both, probabilities


@pytest.fixture
def validation(patches):
    dataset, split = patches
    return [dataset.paths[i] for i in split.validation]


def test_a_model_predicts_what_its_trial_did(joined, validation):
    np.testing.assert_allclose(joined[0].predict_proba(validation), joined[2], atol=2e-3)


def test_a_network_is_run_once_for_all_members_that_see_it(joined, validation):
    _, both, probabilities = joined
    resnet, convnext = networks_of(both.members)
    assert (len(resnet.members), len(convnext.members)) == (2, 1)
    alone = ImageModel(both.classes, both.members[1:], both.backbones, registry=both.registry, threads=1)
    expected = (probabilities + alone.predict_proba(validation)) / 2
    np.testing.assert_allclose(both.predict_proba(validation), expected, atol=2e-3)


def test_the_weights_of_a_network_for_two_sizes_of_images_are_saved_once(joined, validation, tmp_path):
    _, both, _ = joined
    single = both.members[1]
    larger = both.backbones[single.backbone_digest].at_size(192)
    recipe = replace(single.recipe, backbone=larger.name)
    members = [single, replace(single, recipe=recipe, backbone_digest=larger.digest)]
    backbones = {single.backbone_digest: both.backbones[single.backbone_digest], larger.digest: larger}
    model = ImageModel(both.classes, members, backbones, registry=both.registry, threads=1)
    folder = model.save(tmp_path / "model")
    assert len(list((folder / "backbones").iterdir())) == 1
    again = load(folder, "cpu", both.registry)
    np.testing.assert_allclose(again.predict_proba(validation[:3]), model.predict_proba(validation[:3]), atol=1e-6)
    again.save(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again" / "backbones").iterdir()} == {
        path.name for path in (folder / "backbones").iterdir()
    }


def test_a_saved_model_answers_as_before(joined, validation, tmp_path):
    both = joined[1]
    again = load(both.save(tmp_path / "model"), "cpu", both.registry)
    np.testing.assert_allclose(again.predict_proba(validation), both.predict_proba(validation), atol=1e-6)
    page = json.loads((tmp_path / "model" / "model.json").read_text())
    assert [len(features) for features in page["features"]] == [32, 16]
    assert len(page["backbones"]) == 2
    again._saved = type(again._saved)(again._saved.folder, ([0.0] * 32, [0.0] * 16), {"numpy": "0"})
    again._networks.clear()
    with pytest.raises(AutotlError, match="computes other features here"):
        again.predict_proba(validation)


def test_a_heat_map_hides_a_window_from_all_networks_at_once(joined, validation):
    model = joined[0]
    (heat,) = model.explain(validation[:1])
    assert heat.values.shape == heat.image.size[::-1]
    assert np.ptp(heat.values) > 0
    ((_, cells), (_, same)) = model.explainer.evidence(heat.image, 0)
    np.testing.assert_allclose(cells, same)


def test_an_exported_graph_holds_both_networks(joined, validation):
    import torch
    from PIL import Image

    both = joined[1]
    exported = _parts(both, both.registry, "model")
    assert [member.networks for member in exported.members] == [(0, 1), (0,)]
    graph = model_graph(exported)
    images = np.stack([np.array(Image.open(path)) for path in validation])
    with torch.inference_mode():
        answers = graph(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(answers, both.predict_proba(validation), atol=2e-3)
