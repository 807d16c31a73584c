"""The lower bounds of pyproject.toml as pip constraints: `python tests/lowest.py > constraints.txt`."""

import re
import sys
import tomllib
from pathlib import Path


def lowest(requirements):
    """`["numpy>=2.2"]` to `["numpy~=2.2.0"]`: the oldest minor version, in the newest of its patches."""
    constraints = []
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^]]*\])?>=([0-9.]+)(\s*;.*)?", requirement.strip())
        if match:
            name, version, marker = match[1], match[2], match[3] or ""
            constraints.append(f"{name}~={version}{'.0' if version.count('.') < 2 else ''}{marker}")
    return constraints


def main():
    """Print the constraints of the package and of what its tests need."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    print("\n".join(lowest([*project["dependencies"], *project["optional-dependencies"]["dashboard"]])))


if __name__ == "__main__":
    sys.exit(main())
