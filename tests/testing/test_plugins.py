"""Each check of a plugin finds its violation."""

import pytest

HEAVY = "import sklearn.base, autotl\n@autotl.hookimpl\ndef autotl_register_heads(register):\n    pass\n"


def test_a_plugin_that_is_not_installed(violation):
    assert "no package has it; installed plugins are: " in violation("plugin", "is_installed_once", "not_there")


@pytest.mark.slow
def test_a_plugin_that_imports_heavy_packages(install_plugin, violations):
    install_plugin("heavy_plugin", HEAVY)
    assert violations("plugin", "heavy_plugin") == {
        "registers_lightly": "it imports sklearn, scipy: import inside of the methods that need it"
    }


def test_a_plugin_that_cannot_be_imported(install_plugin, violation):
    install_plugin("dead_plugin", "1 / 0")
    got = violation("plugin", "is_enabled", "dead_plugin")
    assert got.startswith("it is disabled:")
    assert "ZeroDivisionError" in got
