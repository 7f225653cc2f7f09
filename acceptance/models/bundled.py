"""The bundled pair, and the libraries that models need: what can be asked before any of them is imported."""

import os
from pathlib import Path

from simulator.ground.dependency import Dependency, require

BUNDLED = "bundled"
TINY_PAIR = Path(__file__).parents[1] / "tiny_pair"
PURPOSE = "running the models of measure-acceptance"


def place_of(given: str, name: str) -> str:
    """Return where a model or a file of prompts is: a path or hub id as given, or the bundled one of that name."""
    return str(TINY_PAIR / name) if given == BUNDLED else given


def load_libraries() -> dict[str, str]:
    """Import torch and transformers, whose threads sleep while they wait, and return their versions.

    OpenMP threads that spin make small models many times slower as soon as a core is busy.

    Raises:
        UserError: One is not installed.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    names = ("torch", "transformers")
    return {n: require(Dependency(import_name=n, purpose=PURPOSE, extra="measure")).__version__ for n in names}
