"""Places whose names aren't UTF-8 are refused in words, before a study names them."""

import os

import pytest

from autotl.api import search
from autotl.errors import AutotlError

LATIN_1 = os.fsdecode(b"caf\xe9")


@pytest.mark.parametrize("argument", ["data", "output", "test", "cache"])
def test_a_place_that_is_not_utf8_is_refused_in_words(argument, tmp_path):
    (tmp_path / LATIN_1).mkdir()
    places = {"data": str(tmp_path), argument: str(tmp_path / LATIN_1)}
    with pytest.raises(AutotlError, match=rf"{argument} is .*caf\\udce9, whose name isn't UTF-8.*ln -s FOLDER"):
        search(places.pop("data"), **places)


def test_the_remedy_works(tmp_path):
    (tmp_path / LATIN_1).mkdir()
    (tmp_path / "data").symlink_to(tmp_path / LATIN_1)
    with pytest.raises(AutotlError, match="has no images"):
        search(str(tmp_path / "data"), output=tmp_path / "studies", devices="cpu")
