"""Print what pip installs with all extras of development, on this platform and Python, with versions and hashes.

    python tests/locked.py

From the public index alone, at the versions of constraints.txt; nothing is installed.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = (
    "# What `pip install '.[dev]'` brings on Linux, x86_64, with Python 3.11, by hash; `make locked` writes it.\n"
    "# pip install --require-hashes -r locked.txt && pip install --no-deps --no-build-isolation -e .\n"
)
# rouge-score comes as source alone.
BINARY = ("--only-binary=:all:", "--no-binary=rouge-score")
DRY = ("--dry-run", "--ignore-installed", "--quiet", *BINARY, "-c", "constraints.txt")


def report() -> dict:
    """Return what pip would do; its configuration and the wheels that a machine has of its own have no part in it."""
    environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
    with tempfile.NamedTemporaryFile() as file:
        pip = [sys.executable, "-m", "pip", "install", *DRY, "--report", file.name, ".[dev]"]
        subprocess.run(pip, cwd=ROOT, env=environment | {"PIP_CONFIG_FILE": os.devnull}, check=True)
        return json.loads(Path(file.name).read_text())


def lines(report: dict) -> Iterator[str]:
    """Yield a requirement for each package but our own, in order."""
    for package in sorted(report["install"], key=lambda package: package["metadata"]["name"].lower()):
        about, info = package["metadata"], package["download_info"]
        if "archive_info" in info:
            yield f"{about['name']}=={about['version']} --hash=sha256:{info['archive_info']['hashes']['sha256']}\n"


if __name__ == "__main__":
    sys.stdout.writelines([HEAD, *lines(report())])
