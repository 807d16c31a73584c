"""`autotl backbones` and `autotl heads` filter and sort their lists."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import autotl.backbones.timm
from autotl.cli import app


@pytest.fixture
def listed():
    """`listed("backbones", "--cached")`: the JSON output."""

    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


def text(*arguments, wide=200):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(wide)})


def test_cached_backbones_come_first(listed):
    cached = [row["cached"] for row in listed("backbones")]
    assert cached == sorted(cached, reverse=True)
    assert True in cached
    assert False in cached


def test_a_row_has_what_the_registered_backbone_states(listed):
    (row,) = listed("backbones", "--name", "resnet50.tv_in1k")
    assert row == {
        "name": "resnet50.tv_in1k",
        "cached": False,
        "num_params": 23_508_032,
        "megabytes": 102,
        "size": 224,
        "top1": 76.156,
        "pretrained_on": "ImageNet-1k",
        "license": "BSD-3-Clause",
        "plugin": "backbones.timm",
    }


@pytest.mark.parametrize(
    ("filters", "matches"),
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
def test_a_filter_keeps_exactly_the_rows_that_match(filters, matches, listed):
    every, chosen = listed("backbones"), listed("backbones", *filters)
    assert chosen == [row for row in every if matches(row)]
    assert 0 < len(chosen) < len(every)


@pytest.mark.parametrize("by", ["name", "num-params", "size", "pretrained-on", "license", "plugin"])
def test_rows_are_sorted(by, listed):
    key = by.replace("-", "_")
    values = [row[key] for row in listed("backbones", "--sort", by) if row[key] is not None]
    assert values == sorted(values)


def test_all_adds_the_names_that_are_not_registered(listed):
    names = [row["name"] for row in listed("backbones", "--all", "--name", "resnet5?*")]
    assert "resnet50.tv_in1k" in names
    assert "resnet50" in names
    assert not [name for name in names if not name.startswith("resnet5")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sort", "beauty"], "sort by name, num-params"),
        (["--max-params", "few"], "'few' is not a number of parameters: 500k, 10M or"),
    ],
)
def test_an_invalid_option_is_an_error(arguments, message):
    result = text("backbones", *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_list_without_a_match_says_so():
    assert "No backbone matches." in text("backbones", "--name", "no-such-network").output


def test_unstated_parameters_are_counted_where_the_filter_or_the_order_needs_them(listed, monkeypatch):
    find = autotl.backbones.timm.autotl_register_backbones

    def without_counts(register):
        def unstated(backbone):
            backbone.num_params = None
            register(backbone)

        find(unstated)

    monkeypatch.setattr(autotl.backbones.timm, "autotl_register_backbones", without_counts)
    convnext = "convnext_nano.in12k_ft_in1k"
    assert listed("backbones", "--name", convnext)[0]["num_params"] is None
    assert [row["num_params"] for row in listed("backbones", "--name", convnext, "--max-params", "15M")] == [14_952_560]
    assert listed("backbones", "--name", convnext, "--max-params", "14M") == []
    assert listed("backbones", "--name", convnext, "--sort", "num-params")[0]["num_params"] == 14_952_560


def test_a_narrow_terminal_keeps_names_whole():
    narrow, wide = text("backbones", wide=80).output, text("backbones", wide=160).output
    assert "convnext_base.clip_laion2b_augreg_ft_in12k_in1k" in narrow
    assert "BSD-3-Clause" not in narrow
    assert "BSD-3-Clause" in wide


def test_show_describes_a_backbone():
    shown = text("backbones", "show", "efficientnet_lite0").output
    for part in (
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
        assert part in shown


def test_a_list_imports_neither_torch_nor_a_librarys_own_models():
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from autotl.cli import app\n"
        "assert CliRunner().invoke(app, ['backbones']).exit_code == 0\n"
        "print([name for name in ('torch', 'timm', 'torchvision', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_table_has_the_download_and_the_published_accuracy():
    (line,) = [line for line in text("backbones").output.splitlines() if line.startswith("resnet50.tv_in1k")]
    assert line.split()[1:9] == ["102", "MB", "23.5", "M", "224", "76.2", "%", "ImageNet-1k"]


def test_show_describes_the_download():
    shown = text("backbones", "show", "timm:resnet50.tv_in1k").output
    assert "to download: timm/resnet50.tv_in1k on the Hugging Face hub, about 102 MB" in shown
    assert "computed from the weights once they are downloaded" in shown


def test_heads_are_filtered_and_sorted(listed):
    every = listed("heads")
    assert listed("heads", "--type", "dense") == [row for row in every if row["type"] == "dense"]
    assert {row["plugin"] for row in listed("heads", "--plugin", "sklearn")} == {"heads.sklearn"}
    limits = [row["samples"] for row in listed("heads", "--sort", "samples")]
    limited = [limit for limit in limits if limit is not None]
    assert limits == sorted(limited) + [None] * (len(limits) - len(limited))
    assert text("heads", "--type", "wooden").exit_code == 2
