"""The requirements of a plugin, which is given by the name of its entry point."""

import subprocess
import sys
import warnings
from importlib.metadata import entry_points

from autotl import hookspecs
from autotl.registration import Plugin
from autotl.testing.check import Checks, expect

__all__ = ["PLUGIN"]

PLUGIN = Checks("plugin", str)
HEAVY = (
    "torch",
    "timm",
    "torchvision",
    "transformers",
    "sklearn",
    "scipy",
    "openvino",
    "lightgbm",
    "xgboost",
    "mlflow",
    "tensorboard",
)
"""Packages that take longer to import than a command line should take to respond."""


@PLUGIN.requires(hookspecs)
def is_installed_once(plugin: str) -> None:
    """Exactly one installed package has the plugin as an entry point in the group `autotl`."""
    matches = entry_points(group="autotl", name=plugin)
    installed = ", ".join(sorted(e.name for e in entry_points(group="autotl"))) or "none"
    expect(len(matches) > 0, f"no package has it; installed plugins are: {installed}. Type: pip install -e .")
    packages = [e.dist.name for e in matches if e.dist]
    expect(len(matches) == 1, f"{len(matches)} packages have it: {', '.join(packages)}")


@PLUGIN.requires(hookspecs)
def is_enabled(plugin: str) -> None:
    """The plugin imports and registers without an error beside the built-ins and the other plugins."""
    from autotl.registry import load_registry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning about another plugin must not fail this one
        plugins: list[Plugin] = load_registry().plugins
    loaded = next((p for p in plugins if p.name == plugin), None)
    expect(loaded is not None, "it isn't loaded: AUTOTL_PLUGINS leaves it out, or it isn't installed")
    expect(loaded is None or not loaded.broken, f"it is disabled: {loaded.broken if loaded else ''}")


@PLUGIN.requires(hookspecs)
def registers_lightly(plugin: str) -> None:
    """Importing and registering the plugin imports no heavy package: every `autotl` command does both."""
    code = (
        "import sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from importlib.metadata import entry_points\n"
        "from autotl.registry import Registry\n"
        f"entry = next(iter(entry_points(group='autotl', name={plugin!r})))\n"
        "Registry().add(entry.name, entry.load(), 'it', '0')\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last_line = process.stderr.strip().rpartition("\n")[2]
    expect(process.returncode == 0, f"in a new process it raises {last_line}")
    imported = process.stdout.split()
    expect(not imported, f"it imports {', '.join(imported)}: import inside of the methods that need it")
