"""Runs that take long: they are announced, and refused where they would not end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from simulator.ground.artefacts import UserError
from simulator.ground.command import progress, say

# Seconds of runs from which they are announced, and refused: a day.
SAID_S, MOST_S = 20.0, 86_400.0


@contextmanager
def running(
    label: str, what: str, seconds: float, steps: int, option: str = "--replications"
) -> Iterator[Callable[[int], None]]:
    """Say about how long runs will take, where that is long, and yield what shows their progress.

    option: What makes them that many. Of one run it is never --total: its time grows with the logarithm.

    Raises:
        UserError: It would not end.
    """
    from simulator.rounds.duration import in_words

    if seconds > MOST_S:
        raise UserError(
            f"{option}: {what} would take about {in_words(seconds)} here, expected at most {in_words(MOST_S)}"
        )
    if seconds > SAID_S:
        say(f"{what}: about {in_words(seconds)}", err=True)
    with progress(label, steps) as bar:
        yield bar.update


@contextmanager
def serving(label: str, what: str, steps: int) -> Iterator[Callable[[int], None]]:
    """Announce that loops are compiled, where they are: what is wrong with a load is said before; else as `running`."""
    from simulator.ground.compiled import at_compiling
    from simulator.serving.loop import advance

    def told() -> None:
        say("loops are compiled, once: about half a minute", err=True)

    with at_compiling(advance, told), running(label, what, 0.0, steps) as update:
        yield update
