"""Writes a package with a new plugin: it installs, passes its own tests, and adds one component to autotl."""

import keyword
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from autotl.errors import AutotlError, nearest

__all__ = ["COMPONENTS", "Component", "new_plugin"]


@dataclass(frozen=True)
class Component:
    """What `autotl plugin new` knows of a component that a plugin can add."""

    contract: str
    """File with the component's contract."""
    next_step: str
    """What the author does next, for the package's README."""
    article: str = "a"
    instance: str = "${Class}()"
    """Expression that creates one, in the tests."""
    imports: str = "from autotl import testing\nfrom $package import $Class"
    """Imports of the tests."""
    tests: str = "tests.py"
    """Template of the tests."""


COMPONENTS = {
    "backbone": Component(
        "autotl/backbones/base.py",
        "Replace the network in `build` by yours, describe its images in `preprocessing`, and save its weights beside "
        "the module, as `weights.safetensors` (`safetensors.torch.save_file(network.state_dict(), …)`). Until then, "
        "checks of the weights are skipped, and a search uses the backbone only if you name it.",
    ),
    "head": Component(
        "autotl/heads/base.py", "Replace the classifier in `build` by yours. From then on every search tries it."
    ),
    "strategy": Component("autotl/strategies/base.py", "Replace `fit` by your way to reuse a backbone."),
    "augmentation": Component(
        "autotl/data/augmentation.py",
        "Replace `draw` by yours. Then: `autotl search photos/ --augmentation $name`.",
        article="an",
    ),
    "loss": Component(
        "autotl/strategies/losses.py",
        "Replace the loss by yours. Then: `autotl search photos/ --loss $name`.",
        instance='autotl.Loss("$name", $name)',
        imports="import autotl\nfrom autotl import testing\nfrom $package import $name",
    ),
    "levels": Component(
        "autotl/backbones/levels.py",
        "Choose the parts of a recorded vector. Then: `autotl search photos/ --levels $name`.",
        article="the",
        instance="LEVELS",
        imports="from autotl import testing\nfrom $package import LEVELS",
    ),
    "dataset": Component(
        "autotl/data/dataset.py",
        "Put the images into `~/data/$name`, with a `labels.csv` of `file,label`; or list your images in `images`. "
        "Then: `autotl search $name`.",
        tests="dataset_tests.py",
    ),
    "metric": Component(
        "autotl/metrics.py",
        "Replace the score by yours. Then: `autotl search photos/ --metric $name`.",
        instance='autotl.Metric("$name", $name)',
        imports="import autotl\nfrom autotl import testing\nfrom $package import $name",
    ),
    "score": Component(
        "autotl/alignment/scores.py",
        "Replace the score by yours. Then `autotl align photos/ --json` has it on every card.",
        instance='autotl.Score("$name", $name)',
        imports="import autotl\nfrom autotl import testing\nfrom $package import $name",
    ),
    "engine": Component(
        "autotl/engines/base.py",
        "Replace `compile` by yours. The engine is preferred on devices for which `usable` returns True; "
        "`--engine openvino` selects another.",
        article="an",
    ),
    "callback": Component(
        "autotl/events.py",
        "Replace the methods by yours: `autotl.Callback` has one for each event of a search.",
    ),
    "exporter": Component(
        "autotl/exports/base.py",
        "Replace TorchScript by your format. Then: `autotl export photos --to $name`.",
        article="an",
    ),
    "section": Component(
        "autotl/page/base.py",
        "Replace the elements that `build` returns by yours. From then on every report has them; "
        "`autotl report NAME` writes that of an earlier search again.",
    ),
}


def new_plugin(name: str, component: str, folder: Path) -> Path:
    """Write the package `folder`/autotl-NAME: pyproject.toml with the entry point, README, module, tests.

    Args:
        name: of the plugin and of its component: letters, digits, - and _.
        component: one of COMPONENTS.

    Returns:
        The package's folder.

    Raises:
        AutotlError: an unknown component, a name that is invalid or taken, or a folder that exists.
    """
    if component not in COMPONENTS:
        raise AutotlError(
            f"There is no component {component!r}.{nearest(component, COMPONENTS)} Components: {', '.join(COMPONENTS)}."
        )
    identifier = re.sub(r"[-_.\s]+", "_", name.strip().lower()).removeprefix("autotl_")
    if not re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", identifier):
        raise AutotlError(
            f"{name!r} is not a name for a plugin: use letters, digits, - and _, a letter first. Try: our_{component}"
        )
    _check_free(identifier, component)
    distribution = f"autotl-{identifier.replace('_', '-')}"
    target = folder / distribution
    if target.exists():
        raise AutotlError(f"{target} exists. Delete it, or choose another name.")
    spec = COMPONENTS[component]
    package = f"autotl_{identifier}"
    values = {
        "name": identifier,
        "component": component,
        "a_component": f"{spec.article} {component}",
        "distribution": distribution,
        "package": package,
        "Class": "".join(word.title() for word in identifier.split("_")),
        "VARIABLE": f"{identifier.upper()}_DATA",
        "contract": spec.contract,
    }
    for key in ("next_step", "instance", "imports"):
        values[key] = Template(getattr(spec, key)).substitute(values)
    pages = {
        "pyproject.toml": _filled("pyproject.toml", values),
        "README.md": _filled("README.md", values),
        f"{package}/__init__.py": _filled(f"{component}.py", values),
        f"tests/test_{identifier}.py": _filled(spec.tests, values),
    }
    for place, page in pages.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_text(page, encoding="utf-8")
    return target


def _filled(template: str, values: dict[str, str]) -> str:
    return Template(files("autotl").joinpath("templates", f"{template}.txt").read_text("utf-8")).substitute(values)


def _check_free(name: str, component: str) -> None:
    """Raises AutotlError if a plugin or a component has the name, or Python reserves it."""
    from autotl.registry import load_registry

    if keyword.iskeyword(name):
        raise AutotlError(f"{name!r} is not a name for a plugin: it is a keyword of Python. Try: our_{name}")
    registry = load_registry()
    owner = registry.owners.get(component, {}).get(name)
    if owner is not None or name in (plugin.name for plugin in registry.plugins):
        user = f"plugin {owner.name!r} adds it" if owner else "a plugin has it"
        raise AutotlError(f"The name {name!r} is taken: {user}. Choose another, for example our_{name}.")
