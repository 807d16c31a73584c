"""`autotl heads`, `strategies`, `plugins`, `backbones`: the lists of components."""

import json
from collections.abc import Callable

import pytest
from typer.testing import Result


def test_a_plugin_that_is_left_out_is_not_listed(run: Callable[..., Result]) -> None:
    listed = run("-p", "no:heads.sklearn", "plugins", "--json")
    assert "heads.sklearn" not in [plugin["name"] for plugin in json.loads(listed.stdout)]


def test_leaving_out_needs_the_prefix_no(run: Callable[..., Result]) -> None:
    result = run("-p", "heads.sklearn", "plugins")
    assert result.exit_code == 2
    assert "no:NAME" in result.stderr


def test_plugins_lists_components(run: Callable[..., Result]) -> None:
    components = {plugin["name"]: plugin["components"] for plugin in json.loads(run("plugins", "--json").stdout)}
    assert components["metrics"]["metric"][0] == "accuracy"


def test_plugins_shows_why_one_is_disabled(run: Callable[..., Result], install_plugin: Callable[..., None]) -> None:
    install_plugin("broken_plugin", "raise OSError('no licence file')")
    result = run("plugins")
    assert "disabled: OSError: no licence file" in result.stdout
    assert "is disabled" not in result.stderr


def test_heads_of_one_type_are_listed(run: Callable[..., Result]) -> None:
    heads = json.loads(run("heads", "--type", "dense", "--sort", "samples", "--json").stdout)
    assert {head["type"] for head in heads} == {"dense"}
    assert set(heads[0]) == {"name", "type", "samples", "plugin"}
    assert run("heads", "--type", "wooden").exit_code == 2


def test_no_head_matches(run: Callable[..., Result]) -> None:
    assert "No head matches." in run("heads", "--plugin", "nothing").stdout


@pytest.mark.parametrize(
    ("command", "name"),
    [("heads", "rbf_svm"), ("strategies", "fine_tuning"), ("plugins", "heads.sklearn"), ("backbones", "resnet34")],
)
def test_components_are_listed(command: str, name: str, run: Callable[..., Result]) -> None:
    assert name in run(command).stdout


def test_a_backbone_is_shown_with_its_blocks(run: Callable[..., Result]) -> None:
    shown = run("backbones", "show", "test_resnet.r160_in1k")
    assert shown.exit_code == 0, shown.stderr
    assert "160 px" in shown.stdout
    assert "layer4" in shown.stdout


@pytest.mark.parametrize(
    ("command", "first", "shown"),
    [
        ("augmentations", {"name": "flip", "views": 1, "plugin": "data.augmentation"}, "crop_colour"),
        ("losses", {"name": "cross_entropy", "plugin": "strategies.losses"}, "cross_entropy"),
        ("levels", {"name": "last", "parts": ["output"], "plugin": "backbones.levels"}, "inner+max"),
        ("scores", {"name": "knn", "plugin": "alignment.scores"}, "leep"),
    ],
)
def test_what_a_search_chooses_from_is_listed(
    command: str, first: dict[str, object], shown: str, run: Callable[..., Result]
) -> None:
    assert json.loads(run(command, "--json").stdout)[0] == first
    assert shown in run(command).stdout


def test_the_policy_of_a_plugin_is_listed(run: Callable[..., Result], install_plugin: Callable[..., None]) -> None:
    install_plugin(
        "turning",
        """
import autotl

class Turn(autotl.Augmentation):
    name = "turn"
    def draw(self, image, digest, number):
        return image.rotate(10)

@autotl.hookimpl
def autotl_register_augmentations(register):
    register(Turn())
""",
    )
    rows = json.loads(run("augmentations", "--json").stdout)
    assert rows[-1] == {"name": "turn", "views": None, "plugin": "turning"}
