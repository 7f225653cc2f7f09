"""Print the oldest releases that pyproject.toml allows, as requirements for pip: `>=` becomes `==`.

    python tests/oldest.py EXTRA...

Of torch the one in constraints.txt: older ones come as CUDA builds of several gigabytes.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELD = "torch"


def wanted(project: dict, extras: list[str]) -> Iterator[str]:
    """Yield the requirements of the project and of some of its extras, and of those that these name."""
    yield from project["dependencies"]
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            ours = re.fullmatch(rf"{project['name']}\[(.*)\]", requirement)
            yield from wanted(project | {"dependencies": []}, ours[1].split(",")) if ours else [requirement]


def oldest(extras: list[str]) -> list[str]:
    """Return what pip is to install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    bounds = [requirement.split(">=") for requirement in dict.fromkeys(wanted(project, extras))]
    return [f"{name}=={pins[name] if name == HELD else bound}" for name, bound in bounds]


if __name__ == "__main__":
    sys.stdout.writelines(f"{requirement}\n" for requirement in oldest(sys.argv[1:]))
