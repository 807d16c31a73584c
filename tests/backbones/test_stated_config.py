"""What a weights file states about itself decides preprocessing and architecture, and is in the backbone's name."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from autotl.backbones.base import Preprocessing
from autotl.backbones.stated_config import read_stated
from autotl.backbones.timm import TimmBackbone, autotl_find_backbone
from autotl.backbones.timm_names import parse_name
from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.strategies.base import Fitted

OWN = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bilinear"}
"""Statistics that are not those of timm's test_efficientnet."""


@pytest.fixture
def weights(tiny, tmp_path):
    file = tmp_path / "own.safetensors"
    shutil.copyfile(tiny("test_efficientnet").file, file)
    return file


def find(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        backbone = autotl_find_backbone(name)
    return backbone, [str(warning.message) for warning in caught]


def beside(file, **config):
    file.with_name("config.json").write_text(json.dumps({"architecture": "test_efficientnet", **config}))


def in_config_json(file):
    beside(file, pretrained_cfg=OWN)


def in_json_of_the_same_name(file):
    beside(file, pretrained_cfg={"mean": [0.1, 0.1, 0.1]})  # of another weights file of the folder
    file.with_suffix(".json").write_text(json.dumps({"pretrained_cfg": OWN}))


def at_the_top_of_config_json(file):
    beside(file, **OWN)


def in_the_metadata(file):
    save_file(load_file(file), file, {key: json.dumps(value) for key, value in OWN.items()})


def as_bare_words_in_the_metadata(file):
    save_file(load_file(file), file, {**{k: json.dumps(v) for k, v in OWN.items()}, "interpolation": "bilinear"})


def as_a_config_in_the_metadata(file):
    save_file(load_file(file), file, {"pretrained_cfg": json.dumps(OWN)})


@pytest.mark.parametrize(
    "state",
    [
        in_config_json,
        in_json_of_the_same_name,
        at_the_top_of_config_json,
        in_the_metadata,
        as_bare_words_in_the_metadata,
        as_a_config_in_the_metadata,
    ],
    ids=lambda state: state.__name__,
)
def test_what_a_file_states_is_used_and_a_warning_says_where_it_differs_from_timm(weights, state):
    timms = find(f"test_efficientnet@{weights}")[0]
    state(weights)
    backbone, said = find(f"test_efficientnet@{weights}")
    assert backbone.preprocessing == Preprocessing(160, 0.95, "bilinear", (0.5,) * 3, (0.25,) * 3)
    assert len(said) == 1
    assert "states interpolation=bilinear, mean=0.5, std=0.25, which is used instead of timm's" in said[0]
    assert backbone.note is None
    assert backbone.digest != timms.digest


def test_a_checkpoint_states_its_pretrained_cfg(weights):
    file = weights.with_suffix(".pth")
    torch.save({"state_dict": load_file(weights), "pretrained_cfg": {"mean": (0.5, 0.5, 0.5)}}, file)
    assert find(f"test_efficientnet@{file}")[0].preprocessing.mean == (0.5,) * 3


def test_the_name_says_all_that_is_stated_so_that_it_needs_no_file_later(weights):
    beside(weights, pretrained_cfg=OWN, model_args={"pad_type": "same", "num_classes": 7, "drop_rate": None})
    backbone, _ = find(f"test_efficientnet@{weights}")
    options = "interpolation=bilinear,mean=0.5,std=0.25,pad_type=same"
    assert backbone.name == f"test_efficientnet,{options}@{weights}"
    again, said = find(backbone.name)
    assert (again.name, again.digest, said) == (backbone.name, backbone.digest, [])
    weights.with_name("config.json").unlink()
    alone, _ = find(backbone.name)
    assert (alone.preprocessing, alone.digest) == (backbone.preprocessing, backbone.digest)
    elsewhere = TimmBackbone(backbone.name.replace(str(weights), "/gone/own.safetensors"))
    assert elsewhere.preprocessing == backbone.preprocessing
    assert "Conv2dSame" in str(elsewhere.build(pretrained=False))


def test_a_typed_option_wins_over_what_is_stated_with_a_warning(weights):
    in_config_json(weights)
    backbone, said = find(f"test_efficientnet,mean=0.4,std=0.25,interpolation=bilinear@{weights}")
    assert backbone.preprocessing.mean == (0.4,) * 3
    assert len(said) == 1
    assert said[0].endswith("config.json states mean=0.5; mean=0.4, as typed, is used instead.")


def test_a_statement_that_agrees_with_timm_is_no_news(weights):
    beside(weights, pretrained_cfg={"mean": [0.485, 0.456, 0.406], "input_size": [3, 160, 160]})
    backbone, said = find(f"test_efficientnet@{weights}")
    assert (backbone.name, said, backbone.note) == (f"test_efficientnet@{weights}", [], None)


@pytest.mark.parametrize(
    "text",
    ['{"architecture": "resnet18", "pretrained_cfg": {"mean": [0.1, 0.1, 0.1]}}', "[1]", "{", '{"model_type": "vit"}'],
)
def test_a_config_of_something_else_is_left_alone(weights, text):
    weights.with_name("config.json").write_text(text)
    assert read_stated(weights, "test_efficientnet").preprocessing == {}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mean": [127, 127, 127]}, r"config.json: mean = \[127, 127, 127\] is invalid: .*divide by 255"),
        ({"std": "wide"}, "config.json: std = 'wide' is invalid"),
        ({"input_size": [3, 160, 96]}, r"input_size = \[3, 160, 96\]; autotl gives a backbone square RGB images"),
        ({"input_size": [3, "160", "160"]}, "size = '160' is invalid"),
        ({"crop_mode": "border"}, "crop_mode = 'border', which autotl doesn't do"),
        (
            {"crop_pct": float("inf")},
            "config.json describes no preprocessing: crop_pct = inf is no number of a network",
        ),
        ({"interpolation": "../private"}, r"interpolation = '\.\./private' is not an option of a network"),
    ],
)
def test_an_invalid_statement_is_refused_with_its_place(weights, config, message):
    beside(weights, pretrained_cfg=config)
    with pytest.raises(AutotlError, match=message):
        find(f"test_efficientnet@{weights}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": {"of": 10**9}}, "depth.of = 1000000000 is no number of a network"),
        ({"checkpoint": "x"}, "checkpoint is not an argument of a network"),
        ({"norm_layer": "/etc/passwd"}, "norm_layer = '/etc/passwd' is not an option of a network"),
        ({"a": {"b": {"file": "x"}}}, "a.b.file is not an argument of a network"),
    ],
)
def test_model_arguments_beside_the_weights_that_read_or_build_something_else_are_refused(weights, arguments, message):
    beside(weights, model_args=arguments)
    with pytest.raises(AutotlError, match=f"config.json: the model arguments are invalid: {message}"):
        find(f"test_efficientnet@{weights}")


def test_a_size_of_no_network_is_refused_in_words():
    with pytest.raises(AutotlError, match="preprocessing of test_vit,img_size=4096 is invalid: size = 4096 is no"):
        _ = TimmBackbone("test_vit,img_size=4096").preprocessing


def test_where_nothing_is_stated_a_note_says_which_preprocessing_is_used(weights):
    backbone, said = find(f"test_efficientnet@{weights}")
    assert said == []
    assert f"add it to the name: test_efficientnet,mean=0.5,std=0.5@{weights}" in backbone.note
    assert "mean=0.485/0.456/0.406" in backbone.note
    advised = backbone.note.rpartition("the name: ")[2]
    assert find(advised)[0].preprocessing.mean == (0.5,) * 3


@pytest.mark.parametrize("argument", ["pad_typ=same", "no_such=1"])
def test_an_argument_that_the_model_does_not_take_is_refused_at_once(weights, argument):
    with pytest.raises(AutotlError, match=f"timm can't build test_efficientnet with {argument}"):
        find(f"test_efficientnet,{argument}@{weights}")


@pytest.mark.parametrize("option", ["size=96", "img_size=96"])
def test_a_network_for_one_size_is_built_for_the_size_that_is_given(tiny, option):
    file = tiny("test_vit").file
    backbone, _ = find(f"test_vit,{option}@{file}")
    assert backbone.preprocessing.size == 96
    assert backbone.build()(torch.zeros(1, 3, 96, 96)).shape == (1, 64)


def test_the_plugin_interface_takes_fields_or_a_whole_preprocessing(tiny):
    file = tiny("test_efficientnet").file
    whole = Preprocessing(96, 1.0, "bilinear", (0.5,) * 3, (0.5,) * 3)
    backbone = TimmBackbone("ours", "test_efficientnet", file, model_args={"pad_type": "same"}, preprocessing=whole)
    assert (backbone.preprocessing, backbone.size, backbone.note) == (whole, 96, None)
    part = TimmBackbone("ours", "test_efficientnet", file, preprocessing={"mean": 0.5})
    assert part.preprocessing.mean == (0.5,) * 3
    assert len({backbone.digest, part.digest, TimmBackbone("ours", "test_efficientnet", file).digest}) == 3
    with pytest.raises(AutotlError, match="Backbone 'ours': mean = 127 is invalid"):
        TimmBackbone("ours", "test_efficientnet", file, preprocessing={"mean": 127})


def test_different_options_extract_different_features_and_share_no_key(weights, extractor, patches):
    plain, _ = find(f"test_efficientnet@{weights}")
    own, _ = find(f"test_efficientnet,mean=0.5,std=0.25,pad_type=same@{weights}")
    first, second = (extractor.of(b).levels("validation", "last") for b in (plain, own))
    assert first.shape == second.shape
    assert not np.allclose(first, second, atol=1e-2)
    assert parse_name(own.name).preprocessing == {"mean": (0.5,) * 3, "std": (0.25,) * 3}


def test_a_model_keeps_its_answers_and_leaves_the_file_in_its_name_alone(weights, registry, tmp_path, patches):
    backbone, _ = find(f"test_efficientnet,mean=0.5,pad_type=same@{weights}")
    head = registry.head("linear")
    fitted = Fitted("last", head.build(head.defaults(), backbone.build().num_features, 2, 0))
    recipe = Recipe(backbone.name, "fast_extraction", "linear", 1, {}, head.defaults())
    members = [Member(recipe, fitted, backbone.digest, 2, trial=0)]
    model = ImageModel(("a", "b"), members, {backbone.digest: backbone}, registry=registry)
    images = [np.random.default_rng(i).integers(0, 255, (64, 64, 3), np.uint8) for i in range(2)]
    folder, expected = model.save(tmp_path / "model"), model.predict_proba(images)
    beside(weights, pretrained_cfg={"mean": [0.1, 0.1, 0.1], "std": [0.1, 0.1, 0.1]}, model_args={"no_such": 1})
    loaded = load(folder, "cpu", registry)
    found = loaded.backbones[backbone.digest]
    assert (found.name, found.preprocessing) == (backbone.name, backbone.preprocessing)
    assert "Conv2dSame" in str(found.build(pretrained=False))
    np.testing.assert_allclose(loaded.predict_proba(images), expected, atol=1e-5)
