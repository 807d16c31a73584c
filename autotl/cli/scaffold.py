"""A plugin to begin with: a package that installs, passes its own tests, and adds one part to autotl."""

import re
from importlib.resources import files
from pathlib import Path
from string import Template

from autotl.errors import AutotlError, nearest

__all__ = ["COMPONENTS", "new_plugin"]

COMPONENTS = {
    "backbone": (
        "autotl/backbones/base.py",
        "Replace the network in `build` by yours, say in `preprocessing` how it wants to see images, and put its "
        "weights beside the module, as `weights.safetensors` (`safetensors.torch.save_file(network.state_dict(), …)`). "
        "Until they are there, checks of the weights are skipped, and no search takes it by itself.",
    ),
    "head": ("autotl/heads/base.py", "Replace the classifier in `build` by yours. Every search then tries it."),
    "strategy": ("autotl/strategies/base.py", "Replace `fit` by your way to reuse a backbone."),
    "dataset": (
        "autotl/data/dataset.py",
        "Put the images into `~/data/{name}`, with a `labels.csv` of `file,label`; or list yours in `images`. "
        "Then: `autotl search {name}`.",
    ),
    "metric": ("autotl/metrics.py", "Replace the score by yours. Then: `autotl search photos/ --metric {name}`."),
    "engine": (
        "autotl/engines/base.py",
        "Replace `compile` by yours. It is preferred wherever `usable` says yes; `--engine openvino` asks for another.",
    ),
}
"""Where each component's contract stands, and what its author does next."""


def new_plugin(name: str, component: str, folder: Path) -> Path:
    """Write the package `folder`/autotl-NAME: pyproject.toml with the entry point, README, module, tests.

    Args:
        name: of the plugin and of the part that it adds: letters, digits, - and _.
        component: one of COMPONENTS.

    Returns:
        The package's folder.

    Raises:
        AutotlError: no such component, a name that can't be one or is taken, or a folder that is there already.
    """
    if component not in COMPONENTS:
        raise AutotlError(
            f"There is no component {component!r}.{nearest(component, COMPONENTS)} Components: {', '.join(COMPONENTS)}."
        )
    plain = re.sub(r"[-_.\s]+", "_", name.strip().lower()).removeprefix("autotl_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", plain):
        raise AutotlError(
            f"A plugin can't be named {name!r}: letters, digits, - and _, a letter first. Try: our_{component}"
        )
    _check_free(plain, component)
    distribution = f"autotl-{plain.replace('_', '-')}"
    target = folder / distribution
    if target.exists():
        raise AutotlError(f"{target} is there already. Delete it, or choose another name.")
    contract, following = COMPONENTS[component]
    package = f"autotl_{plain}"
    class_name = "".join(word.title() for word in plain.split("_"))
    words = {
        "name": plain,
        "component": component,
        "a_component": f"{'an' if component == 'engine' else 'a'} {component}",
        "distribution": distribution,
        "package": package,
        "Class": class_name,
        "VARIABLE": f"{plain.upper()}_DATA",
        "subject": plain if component == "metric" else class_name,
        "instance": f'autotl.Metric("{plain}", {plain})' if component == "metric" else f"{class_name}()",
        "contract": contract,
        "next": following.format(name=plain, package=package),
    }
    tests = _filled("dataset_tests.py" if component == "dataset" else "tests.py", words)
    if component == "metric":
        tests = tests.replace("from autotl import", "import autotl\nfrom autotl import")
    pages = {
        "pyproject.toml": _filled("pyproject.toml", words),
        "README.md": _filled("README.md", words),
        f"{package}/__init__.py": _filled(f"{component}.py", words),
        f"tests/test_{plain}.py": tests,
    }
    for place, page in pages.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(page, encoding="utf-8")
    return target


def _filled(template: str, words: dict[str, str]) -> str:
    return Template(files("autotl").joinpath("templates", f"{template}.txt").read_text("utf-8")).substitute(words)


def _check_free(name: str, component: str) -> None:
    import keyword

    from autotl.registry import load_registry

    if keyword.iskeyword(name):
        raise AutotlError(f"A plugin can't be named {name!r}: Python has that word. Try: our_{name}")
    registry = load_registry()
    owner = registry.owners.get(component, {}).get(name)
    if owner is not None or name in (plugin.name for plugin in registry.plugins):
        whose = f"plugin {owner.name!r} adds it" if owner else "a plugin is named so"
        raise AutotlError(f"The name {name!r} is taken: {whose}. Choose another, our_{name} say.")
