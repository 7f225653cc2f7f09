"""Which sweeps the pictures of the page are of."""

from collections.abc import Callable
from typing import NamedTuple

from .asking import Words, evaluated
from .state import ACCEPTANCE, BATCH, CLIENTS, State, as_length, line, without, words

# K of a surface over an alpha, which knows no end.
LONGEST = 16
# Of a surface, at most.
MOST_LENGTHS = 32
# Of curves, a line each.
FEW_LENGTHS = (1, 2, 3, 4, 6, 8)
ALPHAS = "0:1:0.04"
LOADS = "1,2,4,8,16,32,64,128,256,512"
CONTEXTS = "512,1024,2048,4096,8192,16384,32768,65536,131072"


class View(NamedTuple):
    """A sweep: the words behind its command, what it found, and which columns of that lie along the axes."""

    words: Words
    columns: dict[str, list[float]]
    x: str
    y: str = "draftN"

    @property
    def line(self) -> str:
        """The command that finds the same; of runs that somebody wants, nothing is shown here."""
        runs = () if {"--replications", "--runs", "--repeats"} & {*self.words} else ("--replications", "0")
        return line("sweep", (*self.words, *runs))


def across_acceptance(state: State, longest: int, most: int | None = None) -> View:
    """Sweep acceptance and draft length; whatever is stated of acceptance gives way to an alpha.

    longest: K that is shown at least; most: that is drafted at most, None for any.
    """
    rest = without(state, *ACCEPTANCE, "extrapolate", "draftN")
    return swept(
        (*words(rest), "--alpha", ALPHAS, "--draftN", up_to(max(min(LONGEST, most or LONGEST), longest))), "alpha"
    )


def across_load(state: State, longest: int, _most: int | None = None) -> View:
    """Sweep the batch size, or the clients, and draft length up to what is known of acceptance."""
    return over(state, CLIENTS[0] if CLIENTS[0] in state else BATCH[0], LOADS, up_to(longest))


def across_context(state: State, longest: int, _most: int | None = None) -> View:
    """Sweep the context, or the length of a prompt, and draft length."""
    return over(state, CLIENTS[1] if CLIENTS[0] in state else BATCH[1], CONTEXTS, up_to(longest))


SURFACES: dict[str, Callable[[State, int, int | None], View]] = {
    "acceptance": across_acceptance,
    "load": across_load,
    "context": across_context,
}


def curves(state: State, longest: int, best: int | None = None) -> View:
    """Sweep the load at a few draft lengths, that of the page and the best among them."""
    few = {k for k in FEW_LENGTHS if k <= longest} | {as_length(state["draftN"]) or 1, best or 1}
    return over(state, CLIENTS[0] if CLIENTS[0] in state else BATCH[0], LOADS, ",".join(map(str, sorted(few))))


def up_to(longest: int) -> str:
    """Return draft lengths from 1 on; of many, some."""
    step = -(-longest // MOST_LENGTHS)
    return f"1:{longest}" + f":{step}" * (step > 1)


def over(state: State, name: str, values: str, lengths: str) -> View:
    """Sweep an option of the state, and draft length."""
    return swept((*words(without(state, name, "draftN")), f"--{name}", values, "--draftN", lengths), name)


def swept(given: Words, x: str) -> View:
    """Return what a sweep finds."""
    return View(given, {name: values.tolist() for name, values in evaluated(given).items()}, x)
