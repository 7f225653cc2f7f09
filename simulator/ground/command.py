"""The frame of every command: one clear line for a user's mistake, exit code 2, no traceback; progress on stderr."""

import os
import re
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import click

from .artefacts import UserError, claimed, created_utc
from .endings import EXIT_BY_SIGNAL, endings, leave
from .limits import lacks_memory
from .names import nearest
from .together import together
from .version import VERSION
from .vocabulary import as_typed, in_own_words, message_of, speak

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = EXIT_BY_SIGNAL + signal.SIGINT
EXIT_MISTAKE_OF_OURS = 70  # EX_SOFTWARE of sysexits.h
# Where this is set, tracebacks are printed.
DEBUG = "SPECSIM_DEBUG"
# Of a context: options whose values were stated in other words; its command, and what was typed behind that.
STATED, TYPED = "specsim.stated", "specsim.typed"
# Characters of a word and of a whole line that says what is wrong; what is longer loses its middle.
LONGEST_WORD, LONGEST_LINE = 200, 1000


class FileOrFolder(click.Path):
    """The name of a file or folder; an empty one, which would mean the current folder, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty, expected a file", param, ctx)
        return super().convert(value, param, ctx)


FILE = FileOrFolder(path_type=Path)

# Columns of what is printed, where no terminal says otherwise, and of a cell that is folded.
WIDTH, LEAST_CELL, WIDEST_CELL = 100, 15, 44
WIDEST = 10_000
SECONDS_A_FRAME = 0.1

Decorator = Callable[[Any], Any]


def fail(name: str | None, message: str) -> NoReturn:
    """Print one line to stderr and leave with the exit code of user errors."""
    click.echo(f"{name}: {in_one_line(message)}", err=True)
    sys.exit(EXIT_USER_ERROR)


def in_one_line(message: str) -> str:
    """Return a message as one line that can be read, whatever a file or an option held."""
    words = " ".join(without_middle(word, LONGEST_WORD) for word in message.split())
    return without_middle(words, LONGEST_LINE).encode(errors="replace").decode()


def without_middle(text: str, most: int) -> str:
    """Return text of at most so many characters, three quarters of them from its beginning."""
    return text if len(text) <= most else f"{text[: most * 3 // 4]}...{text[3 - most // 4 :]}"


@contextmanager
def no_traceback(name: str | None) -> Iterator[None]:
    """Tell in one line, with an exit code of its own, what nobody foresaw: then the mistake is ours."""
    try:
        yield
    except Exception as error:
        if os.environ.get(DEBUG):
            import traceback

            traceback.print_exc()
        what = without_middle(f"{type(error).__name__}: {error}".strip(": "), LONGEST_WORD)
        click.echo(
            in_one_line(
                f"{name}: a mistake in specsim {VERSION}, not in what you gave ({what}); "
                f"please report it to its maintainers with the traceback that {DEBUG}=1 shows"
            ),
            err=True,
        )
        sys.exit(EXIT_MISTAKE_OF_OURS)


class Stopped(Exception):
    """A signal that ends us, past click; the message says what was kept and how to go on, where anything was."""


class OneLineErrors(click.Command):
    """A command whose user errors are one line on stderr and exit code 2, and whose options have synonyms."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        speak(self.params)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read options by any of their names."""
        ctx.meta[TYPED] = self, list(args)
        try:
            return super().parse_args(ctx, in_own_words(self, args, interspersed=ctx.allow_interspersed_args))
        except (click.UsageError, UserError) as error:
            told = message_of(error) if isinstance(error, click.UsageError) else str(error)
            raise UserError(as_typed(told, *ctx.meta[TYPED])) from None

    def invoke(self, ctx: click.Context) -> Any:
        """Run; an error about a file that an option names is about that option, before one that names its folder.

        What a `KeyboardInterrupt` says gets past click, which knows none that says anything.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Stopped(str(error)) from None
        except UserError as error:
            mine = {p: o for p, o in reversed([*named_paths(ctx)]) if str(error).startswith((f"{p}: ", f"{p}/"))}
            told = f"{mine[max(mine, key=len)]} {error}" if mine else as_stated(ctx, str(error))
            raise UserError(as_typed(told, *ctx.meta[TYPED])) from None

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run as a program; never returns."""
        name = prog_name or self.name
        claimed.clear()
        together.start([self.name or "", *(sys.argv[1:] if args is None else args)])
        with no_traceback(name):
            code = self.told(name, args, {**extra, "standalone_mode": False})
        if args is None and code > EXIT_BY_SIGNAL:
            leave(code)
        sys.exit(code)

    def told(self, name: str | None, args: Sequence[str] | None, extra: dict[str, Any]) -> int:
        """Run, tell what went wrong that can, and return the exit code."""
        came: list[int] = []
        try:
            with endings() as came:
                created_utc()  # a clock that cannot be read is told before anything is done
                code = super().main(args, name, **extra)
                sys.stdout.flush()
                together.end()
        except click.ClickException as error:
            fail(name, message_of(error))
        except UserError as error:
            fail(name, str(error))
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            fail(name, f"out of memory ({str(error).partition(chr(10))[0] or 'no more can be set aside'})")
        except (OSError, UnicodeError) as error:
            sys.stdout = StringIO()  # nothing more can be said there
            # What no check could foresee: a full disk, a folder that may not be entered, a name that is no text.
            fail(name, f"{type(error).__name__}: {error}")
        except (Stopped, click.Abort, KeyboardInterrupt) as error:
            # A terminal shows ^C, and leaves the cursor there.
            click.echo("\n" * sys.stderr.isatty() + f"{name}: interrupted{str(error) and f'; {error}'}", err=True)
            code = EXIT_INTERRUPTED
        if code == EXIT_INTERRUPTED and came:
            return EXIT_BY_SIGNAL + came[0]
        return code if isinstance(code, int) else 0


def named_paths(ctx: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the paths that the user named, as typed and in full, each with its option or argument."""
    for parameter in ctx.command.params:
        value = ctx.params.get(parameter.name or "")
        if not is_given(ctx, parameter.name or ""):
            continue
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(parameter, click.Option) and isinstance(path, str | Path):
                yield str(path), parameter.opts[0]
                yield str(Path(path).absolute()), parameter.opts[0]
            elif isinstance(path, Path):
                yield str(path), parameter.human_readable_name.strip("[].")


class OneLineErrorsGroup(OneLineErrors, click.Group):
    """The same with subcommands, whose errors it turns into one line."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Return the subcommand that the first word names; of another word, say what is near."""
        known = self.list_commands(ctx)
        if args[0] not in known:
            near = f"nearest: {', '.join(nearest(args[0], known))}"
            raise UserError(f"{args[0]}: no such command, {'expected --help' if args[0] == 'help' else near}")
        return super().resolve_command(ctx, args)


def command(name: str, cls: type[OneLineErrors] = OneLineErrors, **more: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function a command with --help, --version and one-line errors; what is `more` goes to click."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        versioned = click.version_option(VERSION, prog_name=name)(function)
        settings = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}
        return click.command(name, cls=cls, context_settings=settings, **more)(versioned)

    return decorate


def stacked(*options: Decorator) -> Decorator:
    """Stack option decorators in the order in which --help shows them."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def state(context: click.Context, flag: str, value: object, option: str, said: str) -> None:
    """Note that an option's value was not typed, but stated in other words: errors about it are told in those."""
    context.meta.setdefault(STATED, {})[flag] = str(value), f"{option}: {said}"


def as_stated(context: click.Context, text: str) -> str:
    """Return what is wrong with an option, or with the file that it names, as it was stated."""
    for flag, (value, said) in context.meta.get(STATED, {}).items():
        if text.startswith(f"{value}: "):
            return f"{said}: {text[len(value) + 2 :]}"
        if text.startswith(f"{flag}: "):
            rest = text[len(flag) + 2 :]
            again = f" {said}".endswith(f" {value}") and re.match(rf"{re.escape(value)}(?!\w)", rest)
            return said + rest[len(value) :] if again else f"{said}: {rest}"
    return text


def is_given(context: click.Context, name: str) -> bool:
    """Say whether the user set this option, rather than its default."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def refuse_given(context: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that the user gave and that would have no effect; names the first, and `why`."""
    for parameter in context.command.params:
        if parameter.name in names and is_given(context, parameter.name):
            raise UserError(f"{parameter.opts[0]}: not used with {why}")


class Bar(NamedTuple):
    """A progress bar; `update` takes how many steps were done since the last time."""

    update: Callable[[int], None]


@contextmanager
def progress(label: str, length: int) -> Iterator[Bar]:
    """Yield a progress bar on stderr with rate and time left; it shows nothing when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield Bar(lambda _: None)
        return
    from rich import progress as rich
    from rich.console import Console

    class Rate(rich.ProgressColumn):
        def render(self, task: rich.Task) -> str:
            return f"{task.speed:.3g}/s" if task.speed else ""

    columns = (rich.TextColumn(label), rich.BarColumn(), rich.MofNCompleteColumn(), Rate(), rich.TimeRemainingColumn())
    # No thread draws: what is timed meanwhile is left alone.
    with rich.Progress(*columns, console=Console(stderr=True), auto_refresh=False) as shown:
        task, drawn_s = shown.add_task(label, total=length), 0.0

        def update(steps: int) -> None:
            nonlocal drawn_s
            shown.advance(task, steps)
            if time.monotonic() - drawn_s > SECONDS_A_FRAME or shown.finished:
                shown.refresh()
                drawn_s = time.monotonic()

        yield Bar(update)


def say(text: str, *, err: bool = False) -> None:
    """Print text, its long lines folded; a word that is longer than a line, such as a path, stays whole."""
    click.echo(folded(text), err=err)


def wrapped(lines: Iterable[str]) -> str:
    """Return lines as text, folded."""
    return folded("\n".join(lines))


def folded(text: str) -> str:
    """Fold the lines that are longer than what is written to is wide, two spaces further in than they begin."""
    return "\n".join(folded_line(line) if len(click.unstyle(line)) > width() else line for line in text.split("\n"))


def width() -> int:
    """Return how many columns what is printed may take: those of the terminal, or `WIDTH` where there is none."""
    if not sys.stdout.isatty():
        return WIDTH
    from shutil import get_terminal_size

    return get_terminal_size().columns


def folded_line(line: str) -> str:
    """Fold a line."""
    indent = line[: len(line) - len(line.lstrip())]
    return "\n".join(
        textwrap.wrap(
            line.strip(),
            width(),
            initial_indent=indent,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def table(rows: Iterable[Sequence[str]], left: Sequence[int] = (0,), *, headed: bool = True, keys: int = 1) -> str:
    """Lay rows of text out in columns: to the left those that `left` names, the others to the right.

    Where that is wider than a terminal, or than `WIDTH` where there is none, long cells are folded; where that is not
    enough, further columns follow below, behind the first `keys` again. On a terminal the first row, where it is a
    heading, is ruled off and coloured.
    """
    rows = list(zip(*zip_longest(*rows, fillvalue=""), strict=True))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths = narrowed(widths, left, width())
    parts = []
    for columns in parted(widths, keys, width()):
        part = [[in_lines(row[i], widths[i]) for i in columns] for row in rows]
        to_left = [at for at, i in enumerate(columns) if i in left]
        drawn = ruled(part, to_left, headed=headed) if sys.stdout.isatty() else None
        parts.append(plain(part, to_left) if drawn is None else drawn)
    return "\n\n".join(parts)


def narrowed(widths: Sequence[int], left: Sequence[int], most: int) -> list[int]:
    """Return widths of columns: of those of words, folded where it takes that for all to stand side by side."""
    narrow = list(widths)
    # Names in the first column last of all.
    for i in sorted((i for i in left if i < len(narrow)), key=lambda i: (i == 0, -narrow[i])):
        over = sum(narrow) + 2 * (len(narrow) - 1) - most
        narrow[i] = min(narrow[i], max(narrow[i] - max(over, 0), LEAST_CELL))
    fits = sum(narrow) + 2 * (len(narrow) - 1) <= most
    return narrow if fits else [min(w, WIDEST_CELL) for w in widths]


def in_lines(cell: str, most: int) -> list[str]:
    """Return a cell in lines of at most so many characters."""
    return [cell] if len(cell) <= most else textwrap.wrap(cell, most)


def parted(widths: Sequence[int], keys: int, most: int) -> list[list[int]]:
    """Return which columns stand side by side, the first `keys` in each part."""
    first = list(range(min(keys, len(widths))))
    parts, used = [first], sum(widths[i] + 2 for i in first) - 2
    start = used
    for i in range(keys, len(widths)):
        if used + 2 + widths[i] > most and len(parts[-1]) > len(first):
            parts, used = [*parts, first], start
        parts[-1] = [*parts[-1], i]
        used += 2 + widths[i]
    return parts


def plain(rows: Sequence[Sequence[Sequence[str]]], left: Sequence[int]) -> str:
    """Return rows of cells, each of some lines, as text."""
    widths = [max(len(line) for row in rows for line in row[i]) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        for cells in zip_longest(*row, fillvalue=""):
            placed = [
                c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append("  ".join(placed).rstrip())
    return "\n".join(lines)


def ruled(rows: Sequence[Sequence[Sequence[str]]], left: Sequence[int], *, headed: bool) -> str | None:
    """Return the same for a terminal; None where it is too wide for it."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=SIMPLE_HEAD, show_header=headed, header_style="bold cyan", pad_edge=False, show_edge=False)
    cells = [[Text("\n".join(lines)) for lines in row] for row in rows]
    for i, heading in enumerate(cells[0]):
        drawn.add_column(heading if headed else Text(), justify="left" if i in left else "right", no_wrap=True)
    for row in cells[1:] if headed else cells:
        drawn.add_row(*row)
    console = Console(file=StringIO(), force_terminal=True, width=WIDEST)
    if console.measure(drawn).maximum > width():
        return None
    with console.capture() as captured:
        console.print(drawn)
    return captured.get().rstrip("\n")
