"""The names of timm backbones: parsing, writing, and what they refuse."""

import pytest

from autotl.backbones.timm_names import TimmName, checked_preprocessing, parse_name
from autotl.errors import AutotlError


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet18.a1_in1k", TimmName("resnet18.a1_in1k")),
        ("resnet18@a,b=c@d.pth", TimmName("resnet18", file="a,b=c@d.pth")),
        ("resnet18@", TimmName("resnet18", file="")),
        (
            "resnet18,mean=0.5,size=96,squash=true,act_layer=gelu,drop_rate=0.1,qk_norm=false,grid=7/7@w.bin",
            TimmName(
                "resnet18",
                {"mean": (0.5, 0.5, 0.5), "size": 96, "squash": True},
                {"act_layer": "gelu", "drop_rate": 0.1, "qk_norm": False, "grid": (7, 7)},
                "w.bin",
            ),
        ),
        ("resnet18,std=0.2/0.3/0.4", TimmName("resnet18", {"std": (0.2, 0.3, 0.4)})),
    ],
)
def test_a_name_has_parts_and_is_written_from_them(name, parts):
    assert parse_name(name) == parts
    assert str(parts) == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("mean", "'mean' is not an option. Options follow the model's name as KEY=VALUE"),
        ("", "'' is not an option"),
        ("mean=", "'mean=' is not an option"),
        ("Mean=0.5", "'Mean=0.5' is not an option"),
        ("mean=0.5,mean=0.5", "the option mean is duplicated"),
        ("mean=127.5", r"pixel values go from 0 to 1; divide by 255: mean=0.5\."),
        ("mean=0.1/0.2", "one number, or three of red/green/blue"),
        ("mean=nan", "one number, or three"),
        ("mean=-0.5", "pixel values go from 0 to 1"),
        ("std=0", "pixel values go from 0 to 1"),
        ("std=wide", "one number, or three"),
        ("size=0", "whole number from 1 to 2,048"),
        ("size=2049", "whole number from 1 to 2,048"),
        ("size=22.4", "whole number from 1 to 2,048"),
        ("crop=87.5", "a number from 0.1 to 2, such as 0.875"),
        ("interpolation=area", "choose bicubic, bilinear, nearest or lanczos"),
        ("squash=1", "type true or false"),
        ("depth=1000000", "numbers are at most 4,096"),
        ("depths=2/1e9", "numbers are at most 4,096"),
        ("checkpoint_path=evil.pth", "checkpoint_path can't be given"),
        ("num_classes=3", "num_classes can't be given"),
    ],
)
def test_an_invalid_option_is_refused_with_its_value_and_what_is_allowed(options, message):
    with pytest.raises(AutotlError, match=message):
        parse_name(f"resnet18,{options}")


def test_an_unknown_field_is_refused():
    with pytest.raises(AutotlError, match="the fields are size, crop, interpolation, mean, std, squash"):
        checked_preprocessing({"mean_": 0.5}, "here")


def test_what_a_name_cannot_hold_is_refused():
    with pytest.raises(AutotlError, match=r"can't hold block_args = \{\}.*local-dir:FOLDER"):
        str(TimmName("resnet18", model_args={"block_args": {}}))
