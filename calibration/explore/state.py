"""What the page shows, as options of a command: its controls, its address and the command line say the same."""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple
from unicodedata import category

from simulator.ground.artefacts import UserError
from simulator.ground.command import LONGEST_WORD, without_middle
from simulator.ground.names import one_of

# Options by name, without their dashes, in the order of the command line.
MODELS = ("target-model", "dtype", "profile", "tp", "method", "draft-model", "placement", "draftN")
ACCEPTANCE = ("hist", "acceptance", "alpha")
BATCH, CLIENTS = ("batch", "context"), ("concurrency", "isl", "osl")
FLAGS = ("extrapolate", "overlap")
# Further options, as they are typed.
MORE = "more"
# A result that is shown beside the forecast; no option of any command.
FILE = "file"
NAMES = (*MODELS, *ACCEPTANCE, *FLAGS, *BATCH, *CLIENTS, MORE, FILE)
ON, OFF = ("", "1", "true", "yes", "on"), ("0", "false", "no", "off")
# What stands where an address says nothing.
USUAL: Mapping[str, str] = {
    "target-model": "llama-3.1-8b",
    "profile": "h100-sxm",
    "method": "eagle3",
    "draftN": "4",
    "acceptance": "eagle3-llama-3.1-8b",
    "alpha": "0.8",
    "batch": "1",
    "context": "1024",
    "concurrency": "16",
    "isl": "1024",
    "osl": "256",
}
# Options of `simulate` that write files, print otherwise, or run something else.
WITHOUT = ("csv", "events", "plot", "as_json", "force", "why", "compare", "engine", "version", "help")

State = Mapping[str, str]


class Asked(NamedTuple):
    """What an address asks for; problems: what of it is not understood, a line each."""

    state: State
    problems: tuple[str, ...] = ()


def asked(query: Mapping[str, str]) -> Asked:
    """Return what an address asks for: where it says nothing of models or of a load, the usual."""
    problems = [
        f"{in_short(name)}: no control of this page, expected {one_of(NAMES, name)}" for name in query.keys() - {*NAMES}
    ]
    given = {name: query[name].strip() for name in NAMES if name in query}
    for name in [name for name, value in given.items() if any(map(is_control, value))]:
        problems.append(f"{name}: {in_short(given.pop(name))} holds what cannot be typed, expected text")
    for name in FLAGS:
        if name in given and (wrong := given[name].lower() not in (*ON, *OFF)):
            problems.append(f"{name}: {in_short(given[name])} is not allowed, expected 1 or 0")
        if name in given and (wrong or given[name].lower() in OFF):
            del given[name]
        elif name in given:
            given[name] = "1"
    given = {name: value for name, value in given.items() if value}
    problems += [f"{a}: beside {b}, expected one of them" for a, b in at_odds(given)]
    return Asked(completed(given), tuple(sorted(problems)))


def is_control(character: str) -> bool:
    """Whether a character has no place on a command line."""
    return category(character) in ("Cc", "Cs")


def in_short(text: str) -> str:
    """Return text as it is quoted, its middle left out where it is long."""
    return repr(without_middle(text, LONGEST_WORD))


def at_odds(given: State) -> Iterator[tuple[str, str]]:
    """Yield pairs of options that do not go together."""
    said = [name for name in ACCEPTANCE if name in given]
    yield from ((name, said[0]) for name in said[1:])
    served = next((name for name in CLIENTS if name in given), None)
    yield from ((name, served) for name in BATCH if served and name in given)


def completed(given: State) -> State:
    """Return options of one acceptance and of one load, those that nobody gave as usual, in the order of `NAMES`."""
    names = [name for name in ("target-model", "profile", "draftN") if name not in given]
    names += ["method"] if not {"method", "draft-model"} & given.keys() else []
    # Of a method of its own, what that one is known to accept.
    names += ["acceptance"] if not given.keys() - {FILE, *BATCH, *CLIENTS} else []
    load = CLIENTS if given.keys() & {*CLIENTS} else BATCH
    full = dict(given) | {name: USUAL[name] for name in (*names, *load) if name not in given}
    dropped = {*BATCH, *CLIENTS} - {*load} | {*[name for name in ACCEPTANCE if name in full][1:]}
    return {name: full[name] for name in NAMES if name in full and name not in dropped}


def words(state: State) -> tuple[str, ...]:
    """Return what is typed behind a command.

    Raises:
        UserError: The further options are no words of a command line.
    """
    return tuple(part for name, value in state.items() if name != FILE for part in typed(name, value))


def typed(name: str, value: str) -> Iterable[str]:
    """Return the words of one option."""
    if name == MORE:
        try:
            return shlex.split(value)
        except ValueError as error:
            raise UserError(f"further options: {value!r}: {error}, expected them as on a command line") from None
    if name in FLAGS:
        return (f"--{name}",)
    return (f"--{name}={value}",) if value.startswith("-") else (f"--{name}", value)


def line(command: str, given: Iterable[str]) -> str:
    """Return a command line that a shell takes."""
    return shlex.join([command, *given])


def without(state: State, *names: str) -> State:
    """Return a state without some options."""
    return {name: value for name, value in state.items() if name not in names}


def as_length(text: str) -> int | None:
    """Return K, None where it is no number of a draft's length."""
    return int(text) if text.isdecimal() and len(text) < 10 else None
