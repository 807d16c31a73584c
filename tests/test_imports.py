"""Imports without garbage collection."""

import gc

import pytest

from autotl.imports import import_modules, without_collection


@pytest.fixture(autouse=True)
def collector():
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_meanwhile_and_what_was_made_is_left_alone_later():
    gc.unfreeze()
    with without_collection():
        assert not gc.isenabled()
        made = [[] for _ in range(10_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(made)


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    with without_collection():
        pass
    assert not gc.isenabled()


def test_the_collector_is_back_after_an_import_that_fails():
    with pytest.raises(ModuleNotFoundError), without_collection():
        import_modules(["autotl", "autotl.no_such_module"])
    assert gc.isenabled()
