"""What every plugin promises, given the name of its entry point."""

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
)
"""What takes longer to import than a command line may take to answer."""


@PLUGIN.promise(hookspecs)
def is_installed_once(plugin: str) -> None:
    """One installed package names the plugin under the entry-point group `autotl`."""
    found = entry_points(group="autotl", name=plugin)
    others = ", ".join(sorted(e.name for e in entry_points(group="autotl"))) or "none"
    expect(len(found) > 0, f"nobody does; installed are: {others}. Type: pip install -e .")
    packages = [e.dist.name for e in found if e.dist]
    expect(len(found) == 1, f"{len(found)} packages do: {', '.join(packages)}")


@PLUGIN.promise(hookspecs)
def takes_part(plugin: str) -> None:
    """It imports and registers beside the built-ins and the other plugins without a complaint, and has a hook."""
    from autotl.registry import load_registry

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # another plugin's complaint is not this one's
        plugins: list[Plugin] = load_registry().plugins
    mine = next((p for p in plugins if p.name == plugin), None)
    expect(mine is not None, "it isn't among the loaded plugins: AUTOTL_PLUGINS leaves it out, or it isn't installed")
    expect(mine is None or not mine.broken, f"it takes no part: {mine.broken if mine else ''}")


@PLUGIN.promise(hookspecs)
def registers_lightly(plugin: str) -> None:
    """Importing it and registering import nothing heavy: each `autotl` command does so."""
    code = (
        "import sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from importlib.metadata import entry_points\n"
        "from autotl.registry import Registry\n"
        f"entry = next(iter(entry_points(group='autotl', name={plugin!r})))\n"
        "Registry().add(entry.name, entry.load(), 'it', '0')\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    expect(run.returncode == 0, f"in a new process: {run.stderr.strip().rpartition(chr(10))[2]}")
    loaded = run.stdout.split()
    expect(not loaded, f"it imported {', '.join(loaded)}: import inside of the methods that need it")
