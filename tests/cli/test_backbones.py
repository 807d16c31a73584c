"""`autotl backbones` and `autotl heads` list what is asked for, in the order that is asked for."""

import json

import pytest
from typer.testing import CliRunner

from autotl.cli import app


@pytest.fixture
def listed():
    """`listed("backbones", "--cached")`: the JSON that comes."""

    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def text(*arguments, wide=200):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(wide)})


def test_those_that_are_here_come_first(listed):
    offline = [row["cached"] for row in listed("backbones")]
    assert offline == sorted(offline, reverse=True)
    assert True in offline
    assert False in offline


def test_a_row_says_what_is_known(listed):
    (row,) = listed("backbones", "--name", "resnet34.tv_in1k")
    assert row == {
        "name": "resnet34.tv_in1k",
        "cached": False,
        "num_params": 21_284_672,
        "size": 224,
        "pretrained_on": "ImageNet-1k",
        "license": "BSD-3-Clause",
        "plugin": "backbones.timm",
    }


@pytest.mark.parametrize(
    ("filters", "holds"),
    [
        (["--cached"], lambda row: row["cached"]),
        (["--max-params", "4M"], lambda row: row["num_params"] and row["num_params"] <= 4e6),
        (["--max-size", "230"], lambda row: row["size"] and row["size"] <= 230),
        (["--license", "bsd"], lambda row: "BSD" in row["license"]),
        (["--pretrained-on", "imagenet-21k"], lambda row: "ImageNet-21k" in row["pretrained_on"]),
        (["--plugin", "timm"], lambda row: row["plugin"] == "backbones.timm"),
        (["--plugin", "autotl-efficientnet-lite"], lambda row: row["plugin"] == "efficientnet_lite"),
        (["--name", "*lite?"], lambda row: row["name"].endswith(("lite0", "lite1", "lite2"))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_filter_leaves_those_that_it_says_and_no_others(filters, holds, listed):
    every, chosen = listed("backbones"), listed("backbones", *filters)
    assert chosen == [row for row in every if holds(row)]
    assert 0 < len(chosen) < len(every)


@pytest.mark.parametrize("by", ["name", "num_params", "size", "pretrained-on", "license", "plugin"])
def test_it_sorts(by, listed):
    key = by.replace("-", "_")
    values = [row[key] for row in listed("backbones", "--sort", by) if row[key] is not None]
    assert values == sorted(values)


def test_all_adds_the_names_that_families_know(listed):
    names = [row["name"] for row in listed("backbones", "--all", "--name", "resnet3?*")]
    assert "resnet34.tv_in1k" in names
    assert "resnet34" in names
    assert not [name for name in names if not name.startswith("resnet3")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sort", "beauty"], "sort by name, parameters"),
        (["--max-params", "few"], "'few' is no number of parameters: 500k, 10M or"),
    ],
)
def test_what_it_cannot_do_is_told(arguments, words):
    result = text("backbones", *arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_a_narrow_terminal_keeps_names_whole():
    narrow, roomy = text("backbones", wide=80).output, text("backbones", wide=160).output
    assert "vit_tiny_patch16_224.augreg_in21k_ft_in1k" in narrow
    assert "BSD-3-Clause" not in narrow
    assert "BSD-3-Clause" in roomy


def test_show_has_everything_about_one():
    shown = text("backbones", "show", "efficientnet_lite0").output
    for words in (
        "efficientnet_lite, autotl-efficientnet-lite 0.1.0",
        "ImageNet-1k",
        "Apache-2.0",
        "3,371,008",
        "224 px, crop 0.875, bicubic, mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
        "last 1,280 features, stages 1,776 features, inner+max 992 features, stages+max 3,552 features",
        "efficientnet-lite0-57934424.pth",
        "digest",
        "blocks.6+conv_head+bn2",
    ):
        assert words in shown


def test_show_says_where_weights_would_come_from():
    shown = text("backbones", "show", "timm:resnet34.tv_in1k").output
    assert "to fetch: timm/resnet34.tv_in1k on the Hugging Face hub, about 87 MB" in shown
    assert "known once they are here" in shown


def test_heads_are_filtered_and_sorted(listed):
    every = listed("heads")
    assert listed("heads", "--kind", "dense") == [row for row in every if row["kind"] == "dense"]
    assert {row["plugin"] for row in listed("heads", "--plugin", "sklearn")} == {"heads.sklearn"}
    rows = [row["rows"] for row in listed("heads", "--sort", "rows")]
    limited = [most for most in rows if most is not None]
    assert rows == sorted(limited) + [None] * (len(rows) - len(limited))
    assert text("heads", "--kind", "wooden").exit_code == 2
