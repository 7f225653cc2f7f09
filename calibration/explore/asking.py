"""What commands answer: their own parsers read the words, their own functions forecast; nothing is computed here."""

import io
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from simulator.ground.artefacts import UserError
from simulator.ground.command import LONGEST_WORD, in_one_line, is_given, without_middle

from .state import WITHOUT

if TYPE_CHECKING:
    from simulator.cli.load import LoadForecasted
    from simulator.cli.simulate import Forecasted
    from simulator.rounds.grid import Columns

# Seconds of runs that a page waits for.
MOST_S = 3.0
# Answers that are kept.
KEPT = 256
# Tokens of a run that is written down for its first rounds.
MOST_LOGGED = 10_000
# Rounds that a timeline shows.
ROUNDS = 8
# Sessions of a page are threads.
ONE_AT_A_TIME = threading.RLock()
Words = tuple[str, ...]
T = TypeVar("T")


class Span(NamedTuple):
    """What one arm does from one instant to another, in ms; told: of its round, how many tokens it commits."""

    arm: str
    phase: str
    begin_ms: float
    end_ms: float
    told: str = ""


@dataclass(frozen=True)
class Answer:
    """A forecast as `simulate` tells it: its --json, its --why, all of its text, and how its first rounds go.

    The document is made at once; what a page shows below its numbers is when it is asked for.
    """

    told: "Forecasted | LoadForecasted"
    document: Mapping[str, Any]

    @property
    def is_tree(self) -> bool:
        """Whether drafts branch."""
        return any(self.document["parameters"].get(name) for name in ("topk", "nodes", "branching"))

    @property
    def most(self) -> int | None:
        """The longest draft that is made in one go; None: any."""
        from simulator.cli.simulate import Forecasted

        told = self.told
        return told.answer.setting.costs.longest if isinstance(told, Forecasted) else told.answer.pair.longest

    @cached_property
    def reasons(self) -> tuple[str, ...]:
        """Why it comes out as it does."""
        with ONE_AT_A_TIME:
            return tuple(self.told.reasons())

    @cached_property
    def text(self) -> str:
        """All that --why prints."""
        with ONE_AT_A_TIME:
            return self.told.text(why=True)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The first rounds of one batch; none of clients of a server."""
        from simulator.cli.simulate import Forecasted

        with ONE_AT_A_TIME:
            return spans_of(self.told) if isinstance(self.told, Forecasted) else ()


def answered(words: Words) -> Answer:
    """Return what `simulate` says.

    Raises:
        UserError: As the command does; or it would take too long, or write files.
    """
    return kept_answer(words, stamps(words))


def evaluated(words: Words) -> "Columns":
    """Return the columns of a `sweep`, by the closed form; errors as those of `answered`."""
    return kept_columns(words, stamps(words))


def stamps(words: Words) -> tuple[int, ...]:
    """Return when the files among words were changed: what was read of others is asked anew."""
    found = []
    for word in words:
        try:
            found.append(Path(word.rpartition("=")[2]).stat().st_mtime_ns)
        except (OSError, ValueError):
            found.append(0)
    return tuple(found)


@lru_cache(KEPT)
def kept_answer(words: Words, files: tuple[int, ...]) -> Answer:
    """Ask `simulate`; files: see `stamps`."""
    from simulator.cli.comparing import method_names
    from simulator.cli.load import load_forecasted
    from simulator.cli.simulate import forecasted, options_in, simulate

    def forecast(values: dict[str, Any]) -> Answer:
        refuse(simulate)
        options = options_in(values)
        several = method_names(options.device)
        if len(several) > 1:
            raise UserError(
                f"--method: {len(several)} methods, expected one; simulate --compare holds them side by side"
            )
        told = load_forecasted(options) if options.load is not None else forecasted(options, within)
        return Answer(told, told.document())

    return ask(simulate, words, forecast)


@lru_cache(KEPT)
def kept_columns(words: Words, files: tuple[int, ...]) -> "Columns":
    """Ask `sweep`; files: see `stamps`."""
    from simulator.cli.sweep import cases_in, make_sweep, sweep
    from simulator.rounds.sweeping import run_sweep

    def evaluate(values: dict[str, Any]) -> "Columns":
        refuse(sweep)
        return run_sweep(replace(make_sweep(cases_in(values)[0][1]), replications=0))

    return ask(sweep, words, evaluate)


def ask(command: click.Command, words: Sequence[str], then: Callable[[dict[str, Any]], T]) -> T:
    """Parse words as a command does and hand what they are to `then`; errors are in the command's own words."""
    stand_in = copy(command)
    stand_in.callback = lambda **values: then(values)
    try:
        with ONE_AT_A_TIME, stand_in.make_context(command.name, list(words)) as context:
            found: T = stand_in.invoke(context)
            return found
    except click.exceptions.Exit:
        raise UserError("--help, --version: print, expected options of a forecast") from None
    except click.ClickException as error:
        raise UserError(error.format_message()) from None
    except (OSError, UnicodeError, MemoryError) as error:
        raise UserError(told_of(error)) from None


def told_of(error: Exception) -> str:
    """Return a mistake of a machine in a line."""
    if not isinstance(error, OSError) or error.filename is None:
        return in_one_line(f"{type(error).__name__}: {error}")
    return f"{without_middle(str(error.filename), LONGEST_WORD)}: {error.strerror}, expected a file"


def refuse(command: click.Command) -> None:
    """Refuse options that write or print: a page does neither."""
    context = click.get_current_context()
    for parameter in command.params:
        if parameter.name in WITHOUT and is_given(context, parameter.name):
            raise UserError(f"{parameter.opts[0]}: no part of this page, expected it on the command line alone")


@contextmanager
def within(label: str, what: str, seconds: float, steps: int) -> Iterator[Callable[[int], None]]:
    """Refuse runs that a page cannot wait for."""
    if seconds > MOST_S:
        raise UserError(f"{what}: about {seconds:.0f} s, expected at most {MOST_S:.0f} s; `{label}` itself runs longer")
    yield lambda _: None


def spans_of(told: "Forecasted") -> tuple[Span, ...]:
    """Return the first rounds of the first run, as --events writes them; none where that would be much."""
    if told.answer.setting.total > MOST_LOGGED:
        return ()
    file = io.StringIO()
    told.write_events(file)
    events = json.loads(file.getvalue())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    found, end_us = [], 0.0
    for e in (e for e in events if e["ph"] == "X" and e["args"].get("round", 0) < ROUNDS):
        if names[e["pid"], 0] != "baseline":
            end_us = max(end_us, e["ts"] + e["dur"])
            committed = e["args"].get("committed")
            text = "" if committed is None else f"+{committed}"
            found.append((names[e["pid"], 0], e["name"], e["ts"], e["ts"] + e["dur"], text))
    found += [
        ("baseline", e["name"], e["ts"], e["ts"] + e["dur"], "")
        for e in events
        if e["ph"] == "X" and names[e["pid"], 0] == "baseline" and e["ts"] < end_us
    ]
    return tuple(Span(arm, phase, begin / 1e3, end / 1e3, text) for arm, phase, begin, end, text in found)
