"""What a profile's rows of a server were served with, in place of options that nobody states."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from simulator.costs.parameters import Load

if TYPE_CHECKING:
    from simulator.costs.fitted import ServingFit

# Options of how a model lies on devices.
PLACED = ("dtype", "kv_dtype", "tp")


def fit_of(profile: str | None) -> "ServingFit | None":
    """Return what the file of a profile was fitted to; None where it was to no rows."""
    if profile is None or not Path(profile).is_file():
        return None
    from simulator.costs.profile_file import load_profile

    return load_profile(profile).fitted


def placed_as(fit: "ServingFit", values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of how a model lies on devices that were given for the rows, and that nobody states now."""
    from simulator.costs.shapes import read_shape

    taken = {name: getattr(fit, name) for name in PLACED if getattr(fit, name) and values[name] is None}
    target = values["target_model"]
    return taken if taken and target is not None and read_shape(target).name == fit.model else {}


def in_words(profile: str, placed: Mapping[str, Any], rows: Load, load: Load | None) -> Iterator[str]:
    """Say what is as the rows of a profile were served."""
    taken = [f"{option(name)} {value}" for name, value in placed.items()]
    if load is not None:
        own = load.words
        taken += [f"{said} ({option(name)})" for name, said in rows.words.items() if own.get(name) == said]
    if taken:
        yield f"as for the rows of {profile}: {', '.join(taken)}"


def option(name: str) -> str:
    """Return the option of a name."""
    return f"--{name.replace('_', '-')}"
