"""A folder that is no study's is never written into."""

import re
from pathlib import Path

import pytest

import autotl
from autotl.config import default_cache
from autotl.coordinator.run import _exclusive
from autotl.errors import AutotlError
from autotl.folders import claim_cache, claim_study, expand_home, is_marked, require_cache


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("file", ["model/weights.pt", "cache/notes.txt", "journal.log", ".git/config", ".autotl"])
def test_a_folder_that_is_no_study_is_refused_and_stays_as_it_is(file, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises(AutotlError, match=r"is not a study of autotl.*--name"), _exclusive(tmp_path):
        pytest.fail("the folder was taken for a study")
    assert list(contents(tmp_path).values()) == [b"mine"]


def test_a_study_is_recognised_by_its_marker_and_an_older_one_by_its_files(tmp_path):
    claim_study(tmp_path / "new" / "study")
    (tmp_path / "new" / "study" / "model").mkdir()
    claim_study(tmp_path / "new" / "study")
    (tmp_path / "older").mkdir()
    (tmp_path / "older" / "journal.log").write_text('{"op_code":0}\n')
    with pytest.raises(AutotlError, match="is not a study of autotl"):  # a journal of the user's own
        claim_study(tmp_path / "older")
    (tmp_path / "older" / "study.json").write_text("{}")
    claim_study(tmp_path / "older")
    assert is_marked(tmp_path / "older", "study")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "study", tmp_path / ("n" * 300)):
        with pytest.raises(AutotlError, match="--output"), _exclusive(place):
            pytest.fail("nothing can be written there")


def test_a_second_search_that_starts_leaves_the_folder_of_the_first(tmp_path):
    with _exclusive(tmp_path / "study"):
        with pytest.raises(AutotlError, match="already"), _exclusive(tmp_path / "study"):
            pytest.fail("both hold the lock")
        assert is_marked(tmp_path / "study", "study")
    assert not (tmp_path / "study").exists()


def test_a_folder_that_is_no_cache_is_neither_used_nor_cleared(tmp_path):
    (tmp_path / "digests").mkdir()
    (tmp_path / "digests" / "a.jpg").write_text("mine")
    for use in (claim_cache, require_cache):
        with pytest.raises(AutotlError, match="is not a cache of autotl"):
            use(tmp_path)
    assert list(contents(tmp_path).values()) == [b"mine"]


def test_a_cache_is_recognised_by_its_marker_and_an_older_one_by_its_store(tmp_path):
    claim_cache(tmp_path / "new")
    (tmp_path / "new" / "features").mkdir()
    for cache in (tmp_path / "new", tmp_path / "none"):
        require_cache(cache)
    (tmp_path / "older" / "features").mkdir(parents=True)
    (tmp_path / "older" / "features" / "store.lock").touch()
    require_cache(tmp_path / "older")
    claim_cache(tmp_path / "older")
    assert is_marked(tmp_path / "older", "cache")


def test_a_cache_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    for use in (claim_cache, require_cache):
        with pytest.raises(AutotlError, match="--cache"):
            use(tmp_path / "file")


def test_the_home_of_a_user_who_does_not_exist_is_a_missing_folder():
    assert str(expand_home("~nobody-is-called-so/images")) == "~nobody-is-called-so/images"
    assert expand_home("~/images").is_absolute()
    package = Path(expand_home.__code__.co_filename).parent
    assert not [file for file in package.rglob("*.py") if re.search(r"\.expanduser\(\)", file.read_text())]


def test_a_user_without_a_home_is_asked_for_a_cache(monkeypatch):
    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "AUTOTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(AutotlError, match=r"no home folder for a cache. Name a folder in AUTOTL_CACHE"):
        default_cache()
    monkeypatch.setenv("AUTOTL_CACHE", "there")
    assert str(default_cache()) == "there"


def test_a_study_folder_is_not_taken_for_missing_images_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AutotlError, match="'flowers' is not a dataset: there is no folder"):
        autotl.search("flowers", output=".")
    assert not list(tmp_path.iterdir())
