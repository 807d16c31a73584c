"""A model answers the same under other versions of its libraries, or is refused with the versions that made it."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import timm.models
from torch import nn

from autotl.errors import AutotlError
from autotl.model import reference
from autotl.model.image_model import load

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from forging import seal


@pytest.fixture
def upgraded(monkeypatch):
    """timm has another version than when the model was saved."""
    versions = reference.saved_versions
    monkeypatch.setattr(reference, "saved_versions", lambda registry: {**versions(registry), "timm": "99.0"})


def test_the_preprocessing_is_the_saved_one(folder, torch_only, validation, monkeypatch):
    before = load(folder, registry=torch_only).predict_proba(validation)
    sound = timm.models.get_pretrained_cfg

    def other(name, **more):
        return dataclasses.replace(sound(name, **more), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=0.5)

    monkeypatch.setattr(timm.models, "get_pretrained_cfg", other)
    torch_only._from_families.clear()
    np.testing.assert_array_equal(load(folder, registry=torch_only).predict_proba(validation), before)


def test_another_version_that_computes_the_same_predicts_the_same(frozen, folder, torch_only, validation, upgraded):
    before = frozen.predict_proba(validation)
    np.testing.assert_allclose(load(folder, registry=torch_only).predict_proba(validation), before, atol=1e-5)


def test_another_version_that_computes_something_else_is_refused(folder, torch_only, validation, upgraded, monkeypatch):
    create = timm.create_model

    def create_otherwise(*args, **more):
        network = create(*args, **more)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 0.5
        return network

    monkeypatch.setattr(timm, "create_model", create_otherwise)
    model = load(folder, registry=torch_only)
    with pytest.raises(AutotlError, match=r"with timm .* \(here 99\.0\)\. Type: pip install timm==") as refused:
        model.predict_proba(validation)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    "pattern", ["model.json", "members/0/member.json", "members/0/head.*", "backbones/*.safetensors"]
)
def test_a_file_with_a_changed_byte_is_refused(pattern, folder, torch_only):
    file = next(folder.glob(pattern))
    content = bytearray(file.read_bytes())
    place = content.rindex(b"0.") if file.suffix == ".json" else len(content) - 5
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(AutotlError, match="Copy the model's"):
        load(folder, registry=torch_only)


def test_a_model_that_is_saved_again_is_sound(folder, torch_only, validation, tmp_path):
    model = load(folder, registry=torch_only)
    again = load(model.save(tmp_path / "again"), registry=torch_only)
    np.testing.assert_allclose(again.predict_proba(validation), model.predict_proba(validation), atol=1e-6)


def test_a_folder_whose_digests_were_written_anew_is_read(folder, torch_only):
    seal(folder)
    assert load(folder, registry=torch_only).classes == ("astronaut", "chelsea", "coffee")
