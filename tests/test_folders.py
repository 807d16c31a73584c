"""A folder that is no study's is never written into."""

import pytest

from autotl.coordinator.run import _exclusive
from autotl.errors import AutotlError
from autotl.folders import claim_cache, claim_study, is_marked, require_cache


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
