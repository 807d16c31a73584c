"""Hostile files: each is refused with a message of its own, and no file outside of its folder is opened."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autotl.config import find_study, load_study_file
from autotl.coordinator.setup import kept_config
from autotl.data.loading import load_dataset
from autotl.data.sources import FolderSource, ManifestSource
from autotl.errors import AutotlError
from autotl.folders import claim_study

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no test folder
from watching import WATCHED, secret_folder  # noqa: F401  # a fixture


def linked(path: Path, to: Path) -> None:
    path.unlink()
    path.symlink_to(to)


def test_an_opened_private_file_is_recorded(secret: Path) -> None:
    (secret / "secret.json").read_text()
    assert [event for event, _ in WATCHED["opened"]] == ["open"]
    WATCHED["opened"] = []


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
    claim_study(study)
    (study / "journal.log").touch()
    change(study, secret)
    with pytest.raises(AutotlError, match=message):
        kept_config(find_study("x", tmp_path / "studies"))
